"""Pretrain a text policy on the task's expert, or on a creativity task's training lines, up to a named success rate.

    python recipes/pretrain.py                                              # FourRooms, the quick start's policy
    python recipes/pretrain.py --task fourrooms --preset small --target_success 0.5 --output_dir outputs/small
    python recipes/pretrain.py --config recipes/creativity/triangle/pretrain.yaml
    python recipes/pretrain.py --config recipes/creativity/triangle/pretrain_paper.yaml --base_model gpt2   # on a GPU

The policy is saved as an ordinary transformers checkpoint. It stops early on purpose, so that RL has head-room. A run
that was stopped at any point continues from its last checkpoint when the same command is given again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from polytune.app.cli import parse, refuse_unused, run
from polytune.checks import require, require_finite, require_integer, require_number, require_seed
from polytune.config import AdapterConfig, PolicyConfig, TaskConfig
from polytune.errors import UsageError
from polytune.meanings import MOST_INVALID
from polytune.places import command
from polytune.tasks.base import Task
from polytune.terminal import progress, say_warning, shows_bars

DEFAULT_WORD_MERGES = 50


@dataclass
class PretrainConfig:
    """Behaviour cloning on the task's expert, or next-token prediction on its training lines."""

    preset: str = field(default="tiny", metadata={"help": "Size of the new policy (polytune.policy.PRESETS)."})
    output_dir: str = field(default="outputs/quickstart/pretrained", metadata={"help": "Where the policy is saved."})
    word_merges: int | None = field(
        default=None,
        metadata={
            "help": "Merges of words that often stand together in the demonstrations into one token of a preset's "
            "tokenizer: fewer tokens, the same text (unset: 50; 0, a token each word, where a base model has its own "
            "tokens or the task's answers are free text)."
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "Begin with this causal LM (folder or Hub id, gpt2 say) instead of a preset; the words of a "
            "creativity task are added to its tokens."
        },  # fmt: skip
    )
    merge_adapter: bool = field(
        default=True,
        metadata={
            "help": "With use_peft: save the adapter merged into its base; false: the adapter alone, small files that "
            "name their base."
        },
    )
    num_demonstrations: int | None = field(
        default=None,
        metadata={
            "help": "Expert episodes, four of five to train, the fifth held out (unset: 1500). Creativity tasks have "
            "their own training lines, all of which are used: leave it unset."
        },
    )
    teacherless_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the teacherless loss (every answer token from the prompt alone) beside next-token "
            "prediction, 0 to 1."
        },  # fmt: skip
    )
    entropy_coef: float = field(default=0.01, metadata={"help": "Weight of the entropy regulariser."})
    learning_rate: float = field(
        default=1e-3,
        metadata={"help": "AdamW's: up for 20 steps (half of a run of fewer than 40), then cosine to zero."},
    )
    batch_size: int = field(default=32, metadata={"help": "Episodes in a batch."})
    group_prompts: bool = field(
        default=False,
        metadata={
            "help": "Answers to one prompt lie side by side, so that a batch computes the prompt once: fewer tokens "
            "where prompts have many short answers. The order of prompts is drawn anew for each pass."
        },
    )
    epochs: int = field(default=20, metadata={"help": "Passes over the demonstrations at most."})
    target_success: float = field(
        default=0.35, metadata={"help": "Stop as soon as sampled success on held-out levels reaches this."}
    )
    eval_every: int = field(default=15, metadata={"help": "Optimiser steps between two success checks."})
    eval_episodes: int = field(default=128, metadata={"help": "Episodes of a success check."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, demonstrations and checks."})

    def __post_init__(self) -> None:
        require_finite(self)
        for name in ("batch_size", "epochs", "eval_every", "eval_episodes"):
            require_integer(name, getattr(self, name), 1)
        require_seed("seed", self.seed)
        if self.word_merges is not None:
            require_integer("word_merges", self.word_merges, 0)
        if self.num_demonstrations is not None:
            require_integer("num_demonstrations", self.num_demonstrations, 5)
        require_number("teacherless_weight", self.teacherless_weight, 0.0, 1.0)
        require(0.0 < self.target_success <= 1.0, f"target_success must lie in (0, 1], got {self.target_success}.")
        require(self.entropy_coef >= 0.0, f"entropy_coef must not be negative, got {self.entropy_coef}.")
        require(self.learning_rate > 0.0, f"learning_rate must be above 0, got {self.learning_rate}.")


class Data(NamedTuple):
    """What is cloned: rows to train on and held out (None: none), the start states of success checks and what they
    are called, and the line that begins the run."""

    train: Any
    held: Any
    checked: Sequence[int]
    where: str
    beginning: str


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    task_config, adapter, config = parse((TaskConfig, AdapterConfig, PretrainConfig), argv, description=__doc__)
    refuse_unused(task_config, dict.fromkeys(("split", "num_start_states", "data_dir"), "training has its own seeds"))
    output_dir = Path(config.output_dir)

    from polytune.policy import build_renderer
    from polytune.policy.adapters import merge
    from polytune.policy.demonstrations import check_lengths, forget_demonstrations
    from polytune.policy.loading import positions_of
    from polytune.policy.phrases import task_phrases
    from polytune.rollout import Start
    from polytune.running import provenance
    from polytune.running.identity import contents
    from polytune.tasks.starts import task_of
    from polytune.trainer import StopAtSuccess, cloning, hold_run, latest_checkpoint

    task = task_of(task_config)
    config.word_merges = _word_merges(task, adapter, config)
    settings = {"task": task_config, "adapter": adapter, "pretrain": config, provenance.CONTENT: contents(task)}
    done = output_dir / "pretrain.json"
    hold_run(output_dir)
    provenance.check_same_run(output_dir, settings, complete=done.exists())
    if done.exists():
        return print(f"{output_dir} is complete already: {done.read_text().strip()}")

    # ---------------------------------------------------------------- task, policy, demonstrations
    begun = None if config.word_merges else _begin(task, adapter, config)
    if (other := provenance.other_settings(output_dir, settings)) != []:
        forget_demonstrations(output_dir / "demonstrations", of_a_run=other is not None)
    made = command("pretrain", argv)
    provenance.record_run(output_dir, settings, made)
    shown = None if task.answer_end is not None else _demonstrations(task, task_config, config, " ".join(made))
    model, tokenizer = begun or _begin(task, adapter, config, task_phrases(task, shown[0], config.word_merges))
    renderer = build_renderer(tokenizer, task, PolicyConfig())
    data = _lines(task, renderer, config) if shown is None else _episodes(renderer, *shown)
    check_lengths(renderer, data.train, data.checked, positions_of(model))

    # ---------------------------------------------------------------- behaviour cloning
    starts = [Start(data.checked[i % len(data.checked)], i // len(data.checked)) for i in range(config.eval_episodes)]
    check = partial(cloning.sample, task=task, renderer=renderer, starts=starts, seed=config.seed)
    stop = StopAtSuccess(check, config.eval_every, config.target_success, data.where)
    trainer = _trainer(model, tokenizer, data, config, stop)
    checkpoint = latest_checkpoint(output_dir)
    print(f"continuing from {checkpoint}" if checkpoint else data.beginning, flush=True)
    trainer.train_until(stop, checkpoint)
    held_out_loss = None if data.held is None else trainer.evaluate()["eval_loss"]

    # ---------------------------------------------------------------- save
    if config.merge_adapter:
        trainer.model = merge(trainer.model)
    trainer.save_model(str(output_dir))
    summary = {**stop.last._asdict(), "target": config.target_success, "steps": trainer.state.global_step,
               "held_out_loss": held_out_loss, "word_merges": config.word_merges or 0}  # fmt: skip
    provenance.write_json(done, summary)
    more = "num_demonstrations" if task.answer_end is None else "learning_rate, or give more training lines"
    told = "reached" if stop.reached else f"NOT reached: raise epochs or {more}"
    print(f"saved {output_dir}: success {stop.last.success:.3f} on {data.where}, target {config.target_success} {told}")
    if stop.last.invalid_rate > MOST_INVALID:
        say_warning(f"{stop.last.invalid_rate:.0%} of its turns were no action of {task.name}, so its success may be "
                    "that of actions at random: raise target_success, epochs or num_demonstrations.")  # fmt: skip


def _word_merges(task: Task, adapter: AdapterConfig, config: PretrainConfig) -> int | None:
    """Merges of a new policy's tokenizer, as set or the default. What has no effect, and an unknown preset, is refused
    before the expert acts."""
    from polytune.policy.tiny import sizes_of

    if task.answer_end is None:
        refuse_unused(config, {"group_prompts": f"each episode of {task.name!r} begins with a prompt of its own"})
    if not adapter.use_peft:
        refuse_unused(config, {"merge_adapter": "without use_peft there is no adapter"})
    if config.base_model is None:
        refuse_unused(adapter, {"use_peft": "weights that are random would stay so, name a --base_model"})
        sizes_of(config.preset)
    if config.base_model is not None or task.answer_end is not None:
        why = f"{config.base_model} has its own tokens" if config.base_model else f"{task.name!r} asks for free text"
        if config.word_merges:
            raise UsageError(f"word_merges is {config.word_merges}, but has no effect here: {why}.")
        return config.word_merges
    return DEFAULT_WORD_MERGES if config.word_merges is None else config.word_merges


def _begin(task: Task, adapter: AdapterConfig, config: PretrainConfig, phrases: Sequence[str] = ()) -> tuple[Any, Any]:
    """The model before its first step, and its tokenizer; an adapter and new words are drawn from ``seed``."""
    from transformers import set_seed

    from polytune.policy.adapters import adapt, own_base
    from polytune.policy.loading import load_base
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.policy.tiny import build_tiny, positions_for

    spaced = task.answer_end is None  # free text has its own lines, and no spaces between its words
    words = [*([PROMPT_WORD] if spaced else []), *task.vocabulary()]
    if config.base_model is None:
        sizes = {"phrases": phrases, "max_positions": positions_for(task.horizon), "seed": config.seed}
        model, tokenizer = build_tiny(config.preset, words, spaced=spaced, **sizes)
        if config.word_merges:
            tokenizer.init_kwargs["word_merges"] = config.word_merges  # told wherever the tokenizer goes
        return model, tokenizer
    set_seed(config.seed)
    base, alone = own_base(config.base_model, Path(config.output_dir), adapter), not config.merge_adapter
    model, tokenizer, new = load_base(base, [] if spaced else [w for w in words if len(w) > 1], alone=alone)
    return adapt(model, adapter, new, alone=alone), tokenizer


def _demonstrations(task: Task, task_config: TaskConfig, config: PretrainConfig, said: str) -> tuple[Any, Any]:
    """The expert's episodes to train on and held out, acted out unless the folder has them; ``said``: the command."""
    from polytune.policy.demonstrations import keep_successes, load_demonstrations, save_demonstrations, split_by_level
    from polytune.running import provenance
    from polytune.tasks.demonstrations import act_out_all
    from polytune.tasks.splits import DEMONSTRATION_SEEDS_START, split_hashes
    from polytune.tasks.starts import options_of

    output_dir, first = Path(config.output_dir), DEMONSTRATION_SEEDS_START + config.seed * 1_000_000
    seeds = range(first, first + (config.num_demonstrations or 1500))
    found = load_demonstrations(output_dir / "demonstrations")
    if found is None:
        acted = act_out_all(task_config.task, options_of(task_config), seeds)
        recorded = progress(acted, "demonstrations", "episode", total=len(seeds))
        found, counts = keep_successes(recorded, task, split_hashes(task, "unseen"))
        save_demonstrations(output_dir / "demonstrations", found, counts, task, options_of(task_config), said)
        failed, leaked = counts["episodes"] - counts["successes"], counts["leaked"]
        print(f"{len(found)} demonstrations of {task.name}; left out: {leaked} of unseen levels, "
              f"{failed} failures of the expert")  # fmt: skip
    train, held = split_by_level(found)
    listing = {"seeds": found["start_seed"][:], "level_hashes": found["level_hash"][:]}
    provenance.write_json(output_dir / provenance.DEMONSTRATIONS_FILE, {"task": task.name} | listing)
    return train, held


def _episodes(renderer, train, held) -> Data:
    """The expert's episodes as the policy reads them."""
    from polytune.policy.demonstrations import tokenize_demonstrations

    data = [tokenize_demonstrations(renderer, episodes) for episodes in (train, held)]
    turns = sum(map(len, train["actions"]))
    tokens = sum(len(ids) - sum(own) for ids, own in zip(data[0]["input_ids"], data[0]["own"], strict=True))
    beginning = (
        f"cloning {len(train)} demonstrations, {len(held)} held out; {tokens / turns:.1f} tokens for what a turn shows"
    )
    return Data(*data, held["start_seed"][:], "held-out levels", beginning)


def _lines(task: Task, renderer, config: PretrainConfig) -> Data:
    """A task's own training lines."""
    from polytune.policy.demonstrations import tokenize_lines
    from polytune.tasks.splits import load_split

    refuse_unused(config, {"num_demonstrations": f"task {task.name!r} has training lines, set task_args lines=..."})
    train = tokenize_lines(renderer, progress(task.training_lines(), "training lines", "line"))
    beginning = f"next-token prediction on {len(train)} training lines of {task.name}"
    return Data(train, None, load_split(task, "train"), "training prompts", beginning)  # not those of evaluations


def _trainer(model, tokenizer, data: Data, config: PretrainConfig, stop):
    """The trainer of a run; ``stop``: its success checks."""
    from transformers import TrainingArguments

    from polytune.trainer import CloningCollator, CloningTrainer

    steps = config.epochs * -(-len(data.train) // config.batch_size)
    arguments = dict(
        output_dir=config.output_dir, per_device_train_batch_size=config.batch_size, num_train_epochs=config.epochs,
        learning_rate=config.learning_rate, lr_scheduler_type="cosine", warmup_steps=min(20, steps // 2),
        save_strategy="steps", logging_steps=config.eval_every, save_steps=config.eval_every, save_total_limit=2,
        seed=config.seed, report_to="none", remove_unused_columns=False, dataloader_pin_memory=False,
        disable_tqdm=not shows_bars(),
    )  # fmt: skip
    return CloningTrainer(
        model, TrainingArguments(**arguments), train_dataset=data.train, eval_dataset=data.held,
        data_collator=CloningCollator(tokenizer.pad_token_id), processing_class=tokenizer,
        entropy_coef=config.entropy_coef, teacherless_weight=config.teacherless_weight,
        group_prompts=config.group_prompts, callbacks=[stop],
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
