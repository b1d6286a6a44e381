"""What the benchmark compares training with: TRL's own ``GRPOTrainer``, whose ``rollout_func`` generates each turn of
its episodes from their whole text (as TRL's examples of environments do), on a task and a policy of ours.

    python -m polytune.app.plain_trl --model outputs/quickstart/pretrained --task fourrooms --starts 2
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from polytune.app.cli import parse, run, set_cpu_threads
from polytune.checks import require_integer


@dataclass
class PlainConfig:
    """The run."""

    model: str = field(metadata={"help": "The policy's folder."})
    task: str = field(default="babyai-goto", metadata={"help": "The world."})
    task_horizon: int | None = field(default=None, metadata={"help": "Most turns of an episode; unset: the task's."})
    starts: int = field(default=2, metadata={"help": "Start states an update."})
    group: int = field(default=8, metadata={"help": "Episodes of each."})
    updates: int = field(default=2, metadata={"help": "Updates that are measured, after one that is not."})
    output_dir: str = field(default="outputs/plain_trl", metadata={"help": "Where the run goes."})
    cpu_threads: int | None = field(default=1, metadata={"help": "CPU threads."})

    def __post_init__(self) -> None:
        for name in ("starts", "updates"):
            require_integer(name, getattr(self, name), 1)
        require_integer("group", self.group, 2)


def play(task, renderer, model, tokenizer, starts: Sequence[int]) -> dict[str, list]:
    """Episodes in lock-step, each turn from the whole text of each: rows as ``rollout_func`` returns them."""
    from polytune.app.whole_contexts import next_tokens

    worlds = [task.start(start) for start in starts]
    prompts = [list(renderer.prompt_ids(world.observation())) for world in worlds]
    texts = [tokenizer.decode(ids) for ids in prompts]
    rows = {"prompt_ids": prompts, "completion_ids": [[] for _ in worlds], "logprobs": [[] for _ in worlds],
            "env_mask": [[] for _ in worlds], "episode_return": [0.0] * len(worlds)}  # fmt: skip
    live = list(range(len(worlds)))
    while live:
        live_texts = [texts[i] for i in live]
        found = next_tokens(model, tokenizer, live_texts, return_dict_in_generate=True, output_logits=True)
        chosen = found.sequences[:, -1]
        logprobs = found.logits[0].float().log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        running = []
        for i, action, logprob in zip(live, chosen.tolist(), logprobs, strict=True):
            step = worlds[i].step(renderer.action_text((action,)))
            rows["episode_return"][i] += float(step.reward)
            answer = [] if step.done else list(renderer.feedback_ids(worlds[i].observation(), (action,)))
            rows["completion_ids"][i] += [action, *answer]
            rows["logprobs"][i] += [logprob] + [0.0] * len(answer)
            rows["env_mask"][i] += [1] + [0] * len(answer)
            texts[i] = tokenizer.decode([*prompts[i], *rows["completion_ids"][i]])
            running += [] if step.done else [i]
        live = running
    return rows


def main(argv: Sequence[str]) -> None:
    (config,) = parse((PlainConfig,), argv, description=__doc__)
    set_cpu_threads(config.cpu_threads)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from polytune.policy import Renderer
    from polytune.policy.loading import load_policy
    from polytune.tasks import load_task

    task = load_task(config.task, **({} if config.task_horizon is None else {"horizon": config.task_horizon}))
    model, tokenizer = load_policy(config.model)[:2]
    tokenizer.padding_side = "left"
    renderer = Renderer(tokenizer, task)
    env_steps = updates = 0

    def roll_out(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list]:
        nonlocal env_steps, updates
        if updates:  # what came before this rollout, its passes included
            print(f"update {updates}/{config.updates + 1}: env steps {env_steps:,}", flush=True)
        rows = play(task, renderer, trainer.model, tokenizer, list(map(int, prompts)))
        env_steps, updates = env_steps + sum(map(sum, rows["env_mask"])), updates + 1
        return rows

    rows, passes = config.starts * config.group, 2
    args = GRPOConfig(
        output_dir=config.output_dir, per_device_train_batch_size=rows // 2, steps_per_generation=2,
        num_generations=config.group, num_iterations=passes, learning_rate=1e-5, beta=0.0, use_cpu=True,
        max_steps=2 * passes * (config.updates + 2), save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    starts = [{"prompt": str(seed)} for seed in range(config.starts * (config.updates + 2))]
    trainer = GRPOTrainer(
        model=model, args=args, processing_class=tokenizer, train_dataset=Dataset.from_list(starts),
        reward_funcs=lambda prompts, completions, episode_return, **kwargs: episode_return, rollout_func=roll_out,
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    run(main)
