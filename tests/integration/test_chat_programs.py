"""A chat model goes through pretraining, fine-tuning with LoRA and evaluation as any policy does."""

import pytest
from chat_policy import FORGETFUL, TalkingDoors, save_chat_policy, through_the_recipes


@pytest.mark.slow
def test_a_chat_checkpoint_goes_through_the_recipes(tmp_path, call_recipe):
    through_the_recipes(call_recipe, tmp_path, "transformers")


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
