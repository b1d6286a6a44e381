"""A chat model goes through pretraining, fine-tuning with LoRA and evaluation as any policy does."""

import pytest
import torch
from chat_policy import FORGETFUL, TalkingDoors, save_chat_policy, through_the_recipes
from safetensors.torch import load_file


@pytest.mark.slow
def test_a_chat_checkpoint_goes_through_the_recipes(tmp_path, call_recipe):
    through_the_recipes(call_recipe, tmp_path, "transformers")
    # its head was tied, and is trained whole beside the adapter: merged weights must hold both
    call_recipe("export", "--policy", tmp_path / "run", "--output_dir", tmp_path / "export", "--merge", "true")
    merged = load_file(tmp_path / "export/model.safetensors")
    assert not torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert "<|im_start|>user" in (tmp_path / "export/README.md").read_text()


@pytest.mark.parametrize("recipe", ["finetune", "evaluate", "pretrain"])
def test_a_hostile_template_is_refused(tmp_path, call_recipe, capsys, recipe):
    policy = save_chat_policy(tmp_path / "hostile", TalkingDoors(), template=FORGETFUL)
    flags = {"finetune": ["--model", policy, "--split", "seeds:0-2"], "pretrain": ["--base_model", policy],
             "evaluate": ["--policies", policy, "--split", "seeds:0-2"]}  # fmt: skip
    with pytest.raises(SystemExit) as exit:
        call_recipe(recipe, "--task", "chat_policy:TalkingDoors", *flags[recipe], "--output_dir", tmp_path / "out")
    told = capsys.readouterr().err
    assert exit.value.code == 1 and "rewrites earlier messages" in told and told.count("error:") == 1
    assert not list((tmp_path / "out").glob("*.safetensors")) and not (tmp_path / "out/records.jsonl").exists()
