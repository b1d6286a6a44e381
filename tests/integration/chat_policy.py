"""A chat checkpoint made here (random Qwen3, byte-level BPE trained on the task's text, ChatML) and its way through the
recipes."""

import json
from pathlib import Path

import torch
from doors import Doors
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from polytune.tasks import Task

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: shows the last message only: what was said before is rewritten
FORGETFUL = CHATML.replace("{{ m['content'] }}", "{% if loop.last %}{{ m['content'] }}{% else %}...{% endif %}")


class TalkingDoors(Doors):
    """The toy task with an expert, for `chat_policy:TalkingDoors`."""

    instructions = "There are three doors. Say next to walk to the following door, open to open the one before you."

    def expert(self, episode):
        return "open" if episode.turn > 1 else "next"


def save_chat_policy(folder: Path, task: Task, *, template: str = CHATML, vocabulary: int = 400) -> Path:
    """Write model and tokenizer to ``folder`` as ``save_pretrained`` does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    observations = [task.start(seed).observation() for seed in range(50)]
    bpe.train_from_iterator([task.instructions, "user assistant", *task.actions, *observations], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def through_the_recipes(call, folder: Path, generator: str) -> None:
    """Pretrain, fine-tune an adapter, evaluate; ``call(recipe, *arguments)`` runs one."""
    world = ["--task", "chat_policy:TalkingDoors", "--task_horizon", 6]
    base = save_chat_policy(folder / "base", TalkingDoors())
    call("pretrain", *world, "--base_model", base, "--num_demonstrations", 60, "--epochs", 40, "--batch_size", 16,
         "--learning_rate", 3e-3, "--eval_every", 2, "--eval_episodes", 32, "--target_success", 0.4,
         "--output_dir", folder / "pretrained")  # fmt: skip
    said = json.loads((folder / "pretrained/pretrain.json").read_text())
    assert said["success"] >= 0.4, said
    assert (folder / "pretrained/chat_template.jinja").read_text() == CHATML
    settings = {
        "num_seeds": 1, "num_rollout_states": 1, "num_vines": 8, "num_generations": 9, "set_size": 4, "window": -1,
        "per_device_train_batch_size": 36, "steps_per_generation": 4, "num_updates": 5, "rollout_states": "start",
        "learning_rate": 1e-3, "num_iterations": 2, "use_peft": "true", "lora_r": 4,
        "lora_modules_to_save": "lm_head", "generator": generator, "split": "seeds:0-2",
        "model": folder / "pretrained", "output_dir": folder / "run", "use_cpu": "true",
    }  # fmt: skip
    recipe = Path(__file__).resolve().parents[2] / "recipes/fourrooms/smoke.yaml"
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    call("finetune", "--config", recipe, *world, *flags)
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 5 and all(line["sampling/logprob_gap"] < 1e-4 for line in metrics)
    assert any(line["groups/without_signal"] < 1 for line in metrics)
    adapter = load_file(folder / "run/adapter_model.safetensors")
    assert all(weight.abs().max() > 0 for name, weight in adapter.items() if "lora_B" in name), "each layer learnt"
    call("evaluate", *world, "--split", "seeds:0-2", "--policies", folder / "pretrained", folder / "run", "--n", 64,
         "--generator", generator, "--output_dir", folder / "evaluation")  # fmt: skip
    summary = json.loads((folder / "evaluation/summary.json").read_text())["policies"]
    assert summary["run"]["success"]["estimate"] > 0.1 + summary["pretrained"]["success"]["estimate"]
