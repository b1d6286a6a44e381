"""Gather what a card and ``polytune.json`` say, from the run, its metrics, its episodes and its evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from polytune.config import PolicyConfig, TaskConfig
from polytune.export.card import CardFacts
from polytune.export.evaluations import Evaluation
from polytune.export.method import hyperparameters, method
from polytune.export.proof import Proof
from polytune.export.source import Source
from polytune.policy import build_renderer
from polytune.policy.adapters import BASE_FOLDER
from polytune.running.provenance import PROMPTING, demonstration_hashes, origin, prompting_of
from polytune.tasks.starts import task_of

VERSIONS = ("peft", "accelerate", "huggingface_hub")


def sampling(source: Source, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Arguments of ``generate`` under which it samples one action as in training.

    Raises:
        ValueError: the run's task cannot be loaded, or its tokenizer does not fit it.
    """
    task = task_of(TaskConfig(**source.run["task"]))
    policy = PolicyConfig(**{**source.run["policy"], "generator": "transformers"})  # vLLM need not be installed
    renderer = build_renderer(tokenizer, task, policy)
    return {
        "max_new_tokens": policy.max_action_tokens or renderer.longest_action(),
        "do_sample": True,
        "temperature": source.recorded["temperature"],
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": list(renderer.stop_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }


def gather(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    where: str,
    base: str | None,
    licence: str,
    proof: Proof,
    evaluations: Sequence[Evaluation],
    command: Sequence[str],
) -> CardFacts:
    """All facts; ``where``: the name under which the export is loaded, ``base``: its base's, None: whole weights."""
    run = source.run
    task = task_of(TaskConfig(**run["task"]))
    begun = base if base is not None else source.base or source.begun_with
    local = Path(begun).exists()
    versions = origin(command)["versions"] | {package: version(package) for package in VERSIONS}
    return CardFacts(
        name=name,
        where=where,
        base=base,
        base_id=None if local else begun,
        base_revision=run["policy"]["model_revision"] if begun == source.begun_with else None,
        begun_with=_begun_with(source, begun),
        licence=licence,
        dtype=source.recorded["dtype"],
        task={
            "name": task.name,
            "horizon": task.horizon,
            "instructions": task.instructions,
            "actions": list(getattr(task, "actions", None) or []),
            "options": list(run["task"]["task_args"]),
        },
        method=method(run),
        hyperparameters=hyperparameters(run),
        trained=_trained(source),
        prompt=_prompt(source, tokenizer),
        sampling=sampling(source, tokenizer),
        proof=proof.as_dict(),
        versions=versions,
        data=_data(source, task),
        evaluations=evaluations,
    )


def _begun_with(source: Source, begun: str) -> str:
    """Name of what was fine-tuned: the Hub's, a folder's, or that of the adapter whose merged policy is the base."""
    if not Path(begun).exists():
        return begun
    merged = Path(begun).resolve() == source.run_folder.resolve() / BASE_FOLDER
    return Path(source.begun_with if merged else begun).name


def notes(facts: CardFacts, source: Source) -> dict[str, Any]:
    """Content of ``polytune.json``: what a program needs to evaluate the export as the run did."""
    return {
        "kind": "weights" if facts.base is None else "adapter",
        "task": {name: value for name, value in source.run["task"].items() if name != "data_dir"},
        "prompting": {name: value for name, value in prompting_of(source.folder).items() if name in PROMPTING},
        "sampling": facts.sampling,
        "settings": facts.hyperparameters,
        "trained": facts.trained,
        "proof": facts.proof,
        "versions": facts.versions,
    }


def _prompt(source: Source, tokenizer: PreTrainedTokenizerBase) -> str | list[int]:
    """How a recorded episode begins: text where the tokenizer gives the same tokens for it, else the tokens."""
    ids = list(source.recorded["episodes"][0]["prompt_ids"])
    text = tokenizer.decode(ids, skip_special_tokens=False)
    return text if tokenizer.encode(text, add_special_tokens=False) == ids else ids


def _trained(source: Source) -> dict[str, Any]:
    """Updates and steps behind these weights; environment steps where metrics.jsonl has them."""
    step, steps = source.recorded["step"], source.run["trainer"]["max_steps"]
    updates = source.run["trainer"]["num_updates"]
    env_steps = None
    path = source.run_folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        logged = json.loads(line)
        if logged["step"] <= step and "rollout/env_steps" in logged:
            env_steps = logged["rollout/env_steps"]
    return {"updates": step * updates // steps, "gradient_steps": step, "env_steps": env_steps}


def _data(source: Source, task: Any) -> list[str]:
    """Where start states and demonstrations came from."""
    run = source.run["task"]
    split = run["split"] or "train"
    first = f" (the first {run['num_start_states']})" if run["num_start_states"] else ""
    if split.endswith(".jsonl"):
        split = Path(split).name  # where it lies on this machine is nobody's business
    lines = [
        f"Reinforcement learning on {task.starts} of `{task.name}`{first}: split `{split}`. Rollouts were sampled by "
        "the policy itself; the reward is the task's."
    ]
    levels = demonstration_hashes(source.folder)
    if levels:
        lines.append(f"The policy it began with was cloned from expert demonstrations of {len(levels):,} {task.starts} "
                     f"(`demonstrations.json` of the run names them).")  # fmt: skip
    else:
        lines.append("What the model it began with was trained on is told by that model's own card, if anywhere.")
    return lines
