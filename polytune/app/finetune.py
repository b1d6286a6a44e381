"""Fine-tune a pretrained policy with set RL on vines (Poly-PPO) or with one of its baselines.

    accelerate launch recipes/finetune.py                                          # the quick start's run
    accelerate launch recipes/finetune.py --config recipes/fourrooms/poly_ppo.yaml --seed 1
    accelerate launch --num_processes 2 --cpu recipes/finetune.py --output_dir outputs/two
    accelerate launch recipes/finetune.py --report_to tensorboard      # metrics.jsonl is written in any case

An algorithm is a YAML file; every field can be overridden by a flag. A run that was stopped at any point continues
from its last checkpoint when the same command is given again.
"""

import time
from collections.abc import Sequence

from polytune.app.cli import UsageError, flagged, parse, run, set_cpu_threads, start_processes
from polytune.app.fields import TRAINER
from polytune.places import RECIPES, command


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    start_processes()
    from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig

    given: list[str] = []
    parts = parse(
        (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, TRAINER),
        argv,
        description=__doc__,
        default_config=RECIPES / "fourrooms/quickstart.yaml",
        given=given,
    )

    from polytune.pictures.tracking import check_trackers, start_trackers
    from polytune.run import RunConfig
    from polytune.trainer import PolychromicTrainer, check_space, hold_run, latest_checkpoint, supervise

    job = RunConfig(*parts, given=tuple(given))
    job.check()
    task_config, policy_config, adapter, args = job.task, job.policy, job.adapter, job.trainer
    check_trackers(args.report_to)
    supervise(args)
    if args.process_index == 0:
        hold_run(args.output_dir)
    set_cpu_threads(policy_config.cpu_threads)

    # ---------------------------------------------------------------- task, start states, policy
    from polytune.policy.adapters import lora_config
    from polytune.running.identity import contents
    from polytune.running.provenance import (
        CONTENT,
        carry_provenance,
        check_same_run,
        demonstration_hashes,
        fingerprint,
    )
    from polytune.tasks.starts import TRAINING_SPLIT, starts_of, task_of

    task = task_of(task_config)
    if task.answer_end is not None:
        require_recipe(task.name, argv)
    _, seeds = starts_of(
        task, task_config, default_split=TRAINING_SPLIT, levels_shown=lambda: demonstration_hashes(policy_config.model)
    )
    job.check_world(task, seeds[0])
    model, tokenizer, begins_with = load(job, task, seeds)
    content = contents(task, seeds, policy=fingerprint(begins_with))
    check_same_run(args.output_dir, job.settings | {CONTENT: content})

    # ---------------------------------------------------------------- train
    lora = lora_config(adapter, model, head=False)
    trainer = PolychromicTrainer(
        model, args, task, seeds, job.rollout, job.objective, policy_config, tokenizer, peft_config=lora
    )
    own_trunk = args.critic == "own" and not adapter.use_peft
    check_space(args.output_dir, trainer.model, keep=args.save_total_limit, own_trunk=own_trunk)
    checkpoint = latest_checkpoint(args.output_dir)
    if trainer.is_world_process_zero():
        job.record(command("finetune", argv), content)
        carry_provenance(policy_config.model, args.output_dir)
        print(f"continuing from {checkpoint}" if checkpoint else f"training {len(seeds)} {task.starts} of {task.name}")
    start_trackers(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # ---------------------------------------------------------------- save
    trainer.save_policy()
    if trainer.is_world_process_zero():
        print(f"saved {args.output_dir} after {trainer.env_steps:,} environment steps")
    end(trainer)


def require_recipe(task: str, argv: Sequence[str]) -> None:
    """Refuse the quick start's recipe, which nobody has asked for, for a task of one answer.

    Raises:
        UsageError: names a recipe that fits.
    """
    if not flagged(argv, ["config", "set_scope"]):
        raise UsageError(
            f"task {task!r} takes one answer, and without --config a run takes the quick start's recipe, which is made "
            "for episodes of many turns: begin with --config recipes/arithmetic/grpo.yaml (for language models "
            "recipes/llm/arithmetic_smollm2/grpo.yaml), where your --task_args, --model and --output_dir take the "
            "place of its own."
        )


def load(job, task, seeds):
    """The policy that trains, its tokenizer, and the folder that it comes from, once they fit the task's start
    states."""
    from polytune.policy import build_renderer, load_policy
    from polytune.policy.adapters import own_base, quantization, training_dtype
    from polytune.policy.loading import positions_of

    policy_config, adapter, args = job.policy, job.adapter, job.trainer
    loading = policy_config.loading(args.trust_remote_code) | {"dtype": training_dtype(policy_config, adapter)}
    with args.main_process_first(local=False, desc="the base of an adapter"):
        begins_with = own_base(policy_config.model, args.output_dir, adapter, writes=args.process_index == 0, **loading)
    model, tokenizer = load_policy(begins_with, **loading, quantization=quantization(adapter, policy_config))
    renderer = build_renderer(tokenizer, task, policy_config)
    renderer.check_vocabulary()
    renderer.check_prompts(seeds, positions_of(model), policy_config.max_action_tokens or renderer.longest_action())
    return model, tokenizer, begins_with


def end(trainer) -> None:
    """Let go of the engine and of the other processes."""
    if trainer.policy_config.generator == "vllm":
        trainer.generator.shutdown()
    trainer.accelerator.end_training()
    if trainer.accelerator.num_processes > 1:
        # gloo's threads drop their last tensors: one that still holds some aborts an interpreter that ends
        time.sleep(0.5)


if __name__ == "__main__":
    run(main)
