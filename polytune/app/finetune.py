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

from polytune.app.cli import parse, run, set_cpu_threads, start_processes
from polytune.app.fields import TRAINER
from polytune.places import RECIPES, command


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    start_processes()
    from polytune.config import AdapterConfig, ObjectiveConfig, PolicyConfig, RolloutConfig, TaskConfig

    task_config, policy, adapter, rollout, objective, args = parse(
        (TaskConfig, PolicyConfig, AdapterConfig, RolloutConfig, ObjectiveConfig, TRAINER),
        argv,
        description=__doc__,
        default_config=RECIPES / "fourrooms/quickstart.yaml",
    )

    from polytune.pictures.tracking import check_trackers, start_trackers
    from polytune.trainer import (
        PolychromicTrainer,
        check_critic_adapter,
        check_processes,
        check_run,
        check_save_dtype,
        check_space,
        check_vllm_mode,
        latest_checkpoint,
        supervise,
    )

    check_trackers(args.report_to)
    check_run(args, rollout, objective)
    check_critic_adapter(args, adapter.use_peft)
    check_save_dtype(args, adapter.use_peft)
    check_processes(args, policy.generator)
    check_vllm_mode(args, policy.generator)
    supervise(args)
    set_cpu_threads(policy.cpu_threads)

    # ---------------------------------------------------------------- task, start states, policy
    from polytune.policy import build_renderer, load_policy
    from polytune.policy.adapters import lora_config, own_base, quantization, training_dtype
    from polytune.running.provenance import carry_provenance, check_same_run, demonstration_hashes, record_run
    from polytune.tasks import load_task
    from polytune.tasks.splits import load_split, says_unseen

    task = load_task(task_config.task, **task_config.task_options)
    hashes = demonstration_hashes(policy.model) if says_unseen(task_config.split) else []
    seeds = load_split(task, task_config.split or "train", data_dir=task_config.data_dir, unseen_of=hashes)
    seeds = seeds[: task_config.num_start_states]
    loading = policy.loading(args.trust_remote_code) | {"dtype": training_dtype(policy, adapter)}
    with args.main_process_first(local=False, desc="the base of an adapter"):
        begins_with = own_base(policy.model, args.output_dir, adapter, writes=args.process_index == 0, **loading)
    model, tokenizer = load_policy(begins_with, **loading, quantization=quantization(adapter, policy))
    build_renderer(tokenizer, task, policy).check_vocabulary()
    check_space(
        args.output_dir, model, keep=args.save_total_limit, own_trunk=args.critic == "own" and not adapter.use_peft
    )
    settings = {
        "task": task_config,
        "policy": policy,
        "adapter": adapter,
        "rollout": rollout,
        "objective": objective,
        "trainer": args,
    }
    check_same_run(args.output_dir, settings)

    # ---------------------------------------------------------------- train
    trainer = PolychromicTrainer(
        model,
        args,
        task,
        seeds,
        rollout,
        objective,
        policy,
        tokenizer,
        peft_config=lora_config(adapter, model),
    )
    checkpoint = latest_checkpoint(args.output_dir)
    if trainer.is_world_process_zero():
        record_run(args.output_dir, settings, command("finetune", argv))
        carry_provenance(policy.model, args.output_dir)
        print(f"continuing from {checkpoint}" if checkpoint else f"training {len(seeds)} {task.starts} of {task.name}")
    start_trackers(trainer, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # ---------------------------------------------------------------- save
    trainer.save_policy()
    if trainer.is_world_process_zero():
        print(f"saved {args.output_dir} after {trainer.env_steps:,} environment steps")
    if policy.generator == "vllm":
        trainer.generator.shutdown()
    trainer.accelerator.end_training()
    if trainer.accelerator.num_processes > 1:
        # gloo's threads drop their last tensors: one that still holds some aborts an interpreter that ends
        time.sleep(0.5)


if __name__ == "__main__":
    run(main)
