"""Lean layers against transformers' own: the same numbers, gradients and interfaces."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm

from polytune.policy.lean import LeanAttention, LeanNorm, _Norm, _Rotary, make_lean

IDS = torch.arange(60).reshape(3, 20) % 31


def pair(**changes):
    """A model with grouped heads and random norms, lean and as it was."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=32, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=40, max_position_embeddings=64)  # fmt: skip
    own = LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()
    with torch.no_grad():
        for module in own.modules():
            if isinstance(module, LlamaRMSNorm):
                module.weight.uniform_(0.5, 2)
    lean = copy.deepcopy(own)
    make_lean(lean)
    return lean, own


def backward(model, ids=IDS):
    logits = model(ids, use_cache=False).logits
    logits.float().log_softmax(-1)[..., 3].sum().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5
    assert torch.autograd.gradcheck(lambda x, w: _Norm.apply(x, w, 1e-2), (x.requires_grad_(), weight.requires_grad_()))
    angle = torch.rand(1, 1, 5, 3, dtype=torch.float64).repeat(1, 1, 1, 2)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Rotary.apply(x, angle.cos(), angle.sin()), (x,))


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_model_gives_the_same_logits_and_gradients(recomputes):
    lean, own = pair()
    assert isinstance(lean.model.norm, LeanNorm) and type(own.model.norm) is LlamaRMSNorm
    assert [type(x.self_attn) for x in lean.model.layers] == [LeanAttention] * 2
    assert type(own.model.layers[0].self_attn) is LlamaAttention
    if recomputes:
        lean.gradient_checkpointing_enable({"use_reentrant": False})
        lean.train(), own.train()
    (found, grads), (expected, wanted) = backward(lean), backward(own)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert grads.keys() == wanted.keys() == lean.state_dict().keys()
    for name in wanted:
        torch.testing.assert_close(grads[name], wanted[name], rtol=1e-4, atol=1e-4 * wanted[name].abs().max().item())


def test_generation_with_a_cache_is_the_same():
    lean, own = pair()
    how = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert lean.generate(IDS, **how).equal(own.generate(IDS, **how))


def test_an_adapter_trains_alike():
    models = [get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])) for model in pair()]
    for name, p in models[0].named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    models[1].load_state_dict(models[0].state_dict())
    (_, grads), (_, wanted) = map(backward, models)
    assert len(grads) == 8 and grads.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(grads[name], wanted[name], rtol=1e-4, atol=1e-4 * wanted[name].abs().max().item())


def test_other_types_and_attentions_run_transformers_own_code():
    lean, own = pair(attn_implementation="eager")
    torch.testing.assert_close(lean(IDS).logits, own(IDS).logits, rtol=1e-5, atol=1e-5)
    lean, own = pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert lean(IDS).logits.equal(own(IDS).logits)
    assert lean.bfloat16()(IDS).logits.equal(own.bfloat16()(IDS).logits)


def test_it_is_saved_as_what_it_is(tmp_path):
    lean, own = pair()
    lean.save_pretrained(tmp_path / "lean"), own.save_pretrained(tmp_path / "own")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "lean" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
