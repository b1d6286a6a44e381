"""The checkpoint that `make smollm2` makes is the model, and a policy as any other."""

import random

import pytest
import torch

from polytune.config import PolicyConfig
from polytune.policy.generator import SampleKey
from polytune.policy.renderers import build_renderer
from polytune.policy.transformers_generator import TransformersGenerator
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


@pytest.mark.parametrize("name, turns", [("fourrooms", 12), ("babyai-goto", 12)])
def test_an_episode_is_the_templates_own_text_token_for_token(policy, name, turns):
    """What the generator is given turn by turn is what the template makes of the whole conversation, and its tokens."""
    _, tokenizer = policy
    task = load_task(name)
    renderer = build_renderer(tokenizer, task, PolicyConfig())
    for seed in range(3):
        draw, episode = random.Random(seed), task.start(seed)
        seen = episode.observation()
        ids = list(renderer.prompt_ids(seen))
        messages = [{"role": "user", "content": renderer.instructions + seen}]
        for _ in range(turns):
            said = draw.choice(task.actions)
            action = renderer.action_ids(said)
            assert renderer.action_text(action) == said and action[-1] == tokenizer.eos_token_id
            episode.step(said)
            ids += [*action, *renderer.feedback_ids(episode.observation(), action)]
            messages += [
                {"role": "assistant", "content": said},
                {"role": "user", "content": episode.observation()},
            ]
        whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(ids) == whole
        assert ids == tokenizer.encode(whole), "the byte-level tokenizer cuts the parts as it cuts the whole"


def test_sampled_logprobs_are_those_of_a_whole_pass(policy):
    """Cache across turns, a group's prompt once, and a fork, against one pass over the whole text."""
    model, tokenizer = policy
    task = load_task("fourrooms")
    renderer = build_renderer(tokenizer, task, PolicyConfig())
    generator = TransformersGenerator(model, max_action_tokens=3, stop_ids=renderer.stop_ids)
    asked = renderer.prompt_ids(task.start(0).observation())
    branches = [generator.open(asked, SampleKey(0, 0, attempt, 0), forkable=True) for attempt in range(3)]
    first = generator.sample(branches, [0] * 3)
    for branch, sample in zip(branches, first, strict=True):
        generator.extend(branch, renderer.feedback_ids(task.start(1).observation(), sample.ids))
    second = generator.sample(branches, [1] * 3)
    fork = generator.fork(branches[1], len(asked), SampleKey(0, 0, 9, 0))
    forked = generator.sample([fork], [0])[0]
    for branch, one, two in zip(branches, first, second, strict=True):
        check(model, branch.ids, len(asked), one)
        check(model, branch.ids, len(branch.ids) - len(two.ids), two)
    check(model, fork.ids, len(asked), forked)


def check(model, ids, begin, sample):
    with torch.inference_mode():
        whole = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(whole[begin + i - 1, token]) for i, token in enumerate(sample.ids)]
    assert list(sample.logprobs) == pytest.approx(expected, abs=2e-4)
