"""Pretrain a text policy on the task's expert, or on a creativity task's training lines, up to a named success rate.

    python recipes/pretrain.py                                              # FourRooms, the quick start's policy
    python recipes/pretrain.py --task fourrooms --preset small --target_success 0.5 --output_dir outputs/small
    python recipes/pretrain.py --config recipes/creativity/triangle/pretrain.yaml
    python recipes/pretrain.py --config recipes/creativity/triangle/pretrain_paper.yaml --base_model gpt2   # on a GPU

The policy is saved as an ordinary transformers checkpoint. It stops early on purpose, so that RL has head-room. A run
that was stopped at any point continues from its last checkpoint when the same command is given again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polytune.app.cli import parse, refuse_unused, run
from polytune.config import (
    AdapterConfig,
    PolicyConfig,
    TaskConfig,
    require,
    require_finite,
    require_integer,
    require_number,
)
from polytune.places import command
from polytune.terminal import progress, shows_bars


@dataclass
class PretrainConfig:
    """Behaviour cloning on the task's expert, or next-token prediction on its training lines."""

    preset: str = field(default="tiny", metadata={"help": "Size of the new policy (polytune.policy.PRESETS)."})
    output_dir: str = field(default="outputs/quickstart/pretrained", metadata={"help": "Where the policy is saved."})
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "Begin with this causal LM (folder or Hub id, gpt2 say) instead of a preset; the words of a "
            "creativity task are added to its tokens."
        },  # fmt: skip
    )
    num_demonstrations: int | None = field(
        default=None,
        metadata={
            "help": "Expert episodes, 80 %% to train, 20 %% held out (unset: 1500). Creativity tasks have their own "
            "training lines, all of which are used: leave it unset."
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
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's learning rate, cosine to zero."})
    batch_size: int = field(default=32, metadata={"help": "Episodes in a batch."})
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
        require_integer("seed", self.seed, 0)
        if self.num_demonstrations is not None:
            require_integer("num_demonstrations", self.num_demonstrations, 5)
        require_number("teacherless_weight", self.teacherless_weight, 0.0, 1.0)
        require(0.0 < self.target_success <= 1.0, f"target_success must lie in (0, 1], got {self.target_success}.")
        require(self.entropy_coef >= 0.0, f"entropy_coef must not be negative, got {self.entropy_coef}.")
        require(self.learning_rate > 0.0, f"learning_rate must be above 0, got {self.learning_rate}.")


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    task_config, adapter, config = parse((TaskConfig, AdapterConfig, PretrainConfig), argv, description=__doc__)
    refuse_unused(task_config, dict.fromkeys(("split", "num_start_states", "data_dir"), "training has its own seeds"))
    output_dir = Path(config.output_dir)

    from transformers import TrainingArguments

    from polytune.policy import TransformersGenerator, build_renderer, build_tiny
    from polytune.policy.adapters import adapt, merge, own_base
    from polytune.policy.demonstrations import (
        keep_successes,
        load_demonstrations,
        save_demonstrations,
        split_by_level,
        tokenize_demonstrations,
        tokenize_lines,
    )
    from polytune.policy.loading import load_base
    from polytune.policy.rendering import PROMPT_WORD
    from polytune.rollout import Start, sample_episodes
    from polytune.running import provenance
    from polytune.tasks.demonstrations import act_out_all
    from polytune.tasks.splits import DEMONSTRATION_SEEDS_START, load_split, split_hashes
    from polytune.tasks.starts import task_of
    from polytune.trainer import CloningCollator, CloningTrainer, StopAtSuccess, latest_checkpoint

    settings = {"task": task_config, "adapter": adapter, "pretrain": config}
    done = output_dir / "pretrain.json"
    provenance.check_same_run(output_dir, settings, complete=done.exists())
    if done.exists():
        return print(f"{output_dir} is complete already: {done.read_text().strip()}")

    # ---------------------------------------------------------------- task, policy, demonstrations
    task = task_of(task_config)
    spaced = task.answer_end is None  # free text has its own lines, and no spaces between its words
    words = [*([PROMPT_WORD] if spaced else []), *task.vocabulary()]
    if config.base_model is None:
        refuse_unused(adapter, {"use_peft": "weights that are random would stay so, name a --base_model"})
        model, tokenizer = build_tiny(config.preset, words, spaced=spaced, seed=config.seed)
    else:
        base = own_base(config.base_model, output_dir, adapter)
        model, tokenizer, new = load_base(base, [] if spaced else [w for w in words if len(w) > 1])
        model = adapt(model, adapter, new)
    renderer = build_renderer(tokenizer, task, PolicyConfig())
    if provenance.other_settings(output_dir, settings) != []:  # what another run left behind must not pass for ours
        shutil.rmtree(output_dir / "demonstrations", ignore_errors=True)
    provenance.record_run(output_dir, settings, command("pretrain", argv))
    if spaced:
        first = DEMONSTRATION_SEEDS_START + config.seed * 1_000_000
        seeds = range(first, first + (config.num_demonstrations or 1500))
        demonstrations = load_demonstrations(output_dir / "demonstrations")
        if demonstrations is None:
            acted = act_out_all(task_config.task, task_config.task_options, seeds)
            recorded = progress(acted, "demonstrations", "episode", total=len(seeds))
            demonstrations, counts = keep_successes(recorded, task, split_hashes(task, "unseen"))
            save_demonstrations(output_dir / "demonstrations", demonstrations, counts, task,
                                task_config.task_options, " ".join(command("pretrain", argv)))  # fmt: skip
            failed, leaked = counts["episodes"] - counts["successes"], counts["leaked"]
            print(f"{len(demonstrations)} demonstrations of {task.name}; left out: {leaked} of unseen levels, "
                  f"{failed} failures of the expert")  # fmt: skip
        train, held = split_by_level(tokenize_demonstrations(renderer, demonstrations))
        listing = {"seeds": demonstrations["start_seed"][:], "level_hashes": demonstrations["level_hash"][:]}
        provenance.write_json(output_dir / provenance.DEMONSTRATIONS_FILE, {"task": task.name} | listing)
        checked, where = held["start_seed"][:], "held-out levels"
        beginning = f"cloning {len(train)} demonstrations, {len(held)} held out"
    else:
        refuse_unused(config, {"num_demonstrations": f"task {task.name!r} has training lines, set task_args lines=..."})
        lines = progress(task.training_lines(), "training lines", "line")
        train, held = tokenize_lines(renderer, lines), None
        checked, where = load_split(task, "train"), "training prompts"  # an evaluation's samples choose no policy
        beginning = f"next-token prediction on {len(train)} training lines of {task.name}"

    # ---------------------------------------------------------------- behaviour cloning
    def success(model) -> float:
        starts = [Start(checked[i % len(checked)], i // len(checked)) for i in range(config.eval_episodes)]
        generator = TransformersGenerator(
            model, max_action_tokens=renderer.longest_action(), stop_ids=renderer.stop_ids
        )
        episodes = sample_episodes(task, renderer, generator, starts, run_seed=config.seed)
        return sum(episode.success for episode in episodes) / len(episodes)

    stop = StopAtSuccess(success, config.eval_every, config.target_success, where)
    trainer = CloningTrainer(
        model,
        TrainingArguments(
            output_dir=str(output_dir),
            per_device_train_batch_size=config.batch_size,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            logging_steps=config.eval_every,
            save_strategy="steps",
            save_steps=config.eval_every,
            save_total_limit=2,
            seed=config.seed,
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=not shows_bars(),
        ),
        train_dataset=train,
        eval_dataset=held,
        data_collator=CloningCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        entropy_coef=config.entropy_coef,
        teacherless_weight=config.teacherless_weight,
        callbacks=[stop],
    )
    checkpoint = latest_checkpoint(output_dir)
    print(f"continuing from {checkpoint}" if checkpoint else beginning, flush=True)
    trainer.train_until(stop, checkpoint)
    held_out_loss = None if held is None else trainer.evaluate()["eval_loss"]

    # ---------------------------------------------------------------- save
    trainer.model = merge(trainer.model)
    trainer.save_model(str(output_dir))
    summary = {"success": stop.last, "target": config.target_success, "steps": trainer.state.global_step,
               "held_out_loss": held_out_loss}  # fmt: skip
    provenance.write_json(done, summary)
    more = "num_demonstrations" if spaced else "the training lines (task_args lines=...)"
    told = "reached" if stop.reached else f"NOT reached: raise epochs or {more}"
    print(f"saved {output_dir}: success {stop.last:.3f} on {where}, target {config.target_success} {told}")


if __name__ == "__main__":
    run(main)
