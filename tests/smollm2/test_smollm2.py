"""The checkpoint that `make smollm2` makes is the model, and a policy as any other."""

import torch

from polytune.config import PolicyConfig
from polytune.policy.renderers import build_renderer
from polytune.tasks import load_task


def test_it_answers_as_the_model_does(policy):
    model, tokenizer = policy
    talk = [{"role": "user", "content": "What is 3 + 4?"}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(ids["input_ids"], max_new_tokens=7, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "3 + 4 = 7"


def test_text_and_tokens_are_the_models(policy):
    _, tokenizer = policy
    assert tokenizer.tokenize("Count 12 don't") == ["Count", "\u0120", "1", "2", "\u0120don", "'t"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for text in ("left", "a\n\n  b\t\u00e9 \U0001f600", "1,000 <|im_end|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_head_and_embedding_are_one(policy):
    model, _ = policy
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert next(model.parameters()).dtype == torch.float32


def test_its_template_is_kept_and_a_message_ends_with_its_own_token(policy):
    _, tokenizer = policy
    renderer = build_renderer(tokenizer, load_task("fourrooms"), PolicyConfig())
    assert renderer.template == tokenizer.chat_template
    assert renderer.stop_ids == (2,)
