"""The model card: facts -> Markdown, a pure function; its metadata are built and checked by huggingface_hub.

Nothing is read here. ``facts.py`` gathers what the card says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from polytune.checks import require
from polytune.export.evaluations import Evaluation, Interval
from polytune.export.licences import LICENCES_SAYING_NOTHING, check_licence
from polytune.markdown import cell, code, quoted, words
from polytune.privacy import private


@dataclass(frozen=True)
class CardFacts:
    """What a card says; ``base`` None: whole weights. ``base_id``: Hub id of what was fine-tuned, None when local."""

    name: str
    where: str
    base: str | None
    base_id: str | None
    base_revision: str | None
    begun_with: str
    licence: str
    dtype: str
    task: dict[str, Any]
    method: Sequence[str]
    hyperparameters: dict[str, Any]
    trained: dict[str, Any]
    prompt: str | list[int]
    sampling: dict[str, Any]
    proof: dict[str, Any]
    versions: dict[str, str]
    data: Sequence[str]
    evaluations: Sequence[Evaluation] = field(default_factory=list)


def metadata(facts: CardFacts) -> ModelCardData:
    """The YAML header."""
    adapter = facts.base is not None
    options: dict[str, Any] = {}
    results = [result for evaluation in facts.evaluations for result in _results(facts, evaluation)]
    if results:
        options = {"model_name": facts.name, "eval_results": results, "metrics": ["pass@k"]}
    if facts.base_id is not None:
        options |= {"base_model": facts.base_id, "base_model_relation": "adapter" if adapter else "finetune"}
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        license=facts.licence,
        tags=["polytune", "reinforcement-learning", "trl", *(["lora"] if adapter else []), facts.task["name"]],
        **options,
    )


def _results(facts: CardFacts, evaluation: Evaluation) -> list[EvalResult]:
    settings = evaluation.settings
    shown = [("", evaluation.measures), *evaluation.perturbed.items()]
    return [
        EvalResult(
            task_type="reinforcement-learning",
            task_name=f"{facts.task['name']}, {settings['n']} samples of {settings['start_states']} start states",
            dataset_type=facts.task["name"],
            dataset_name=f"{facts.task['name']}{f' under {moved}' if moved else ''}",
            dataset_config=moved or None,  # results are grouped by it, not by the name
            dataset_split=str(settings["split"]),
            metric_type="success_rate" if name == "success" else name,
            metric_name=f"{name} [{settings['level']:.0%} interval {_ends(value)}]",
            metric_value=round(float(value["estimate"]), 4),
        )
        for moved, measures in shown
        for name, value in measures.items()
        if name == "success" or name.startswith("pass@")
    ]


def model_card(facts: CardFacts) -> str:
    """The whole README.md.

    Raises:
        ValueError: the metadata are not what the Hub takes.
    """
    header = metadata(facts).to_yaml(line_break="\n")
    text = f"---\n{header}\n---\n\n{_body(facts)}"
    check_card(text)
    return text


def check_card(text: str) -> None:
    """Hold a card against huggingface_hub's own reading of it, without a network: the metadata come back as they went
    out, results included, and what the Hub requires is there.

    Raises:
        ValueError: names what is missing or illegal.
    """
    data = ModelCard(text).data.to_dict()
    header = yaml.safe_load(text.split("---\n")[1])
    require(data == header, f"the card's metadata are read back otherwise than they were written: {data} != {header}")
    for name in ("library_name", "pipeline_tag", "license", "tags"):
        require(bool(data.get(name)), f"the card's metadata lack {name}")
    check_licence(data["license"])
    for result in (data.get("model-index") or [{"results": []}])[0]["results"]:
        for metric in result["metrics"]:
            require(isinstance(metric["value"], float), f"the result {metric} has no number")


def _body(facts: CardFacts) -> str:
    kind = "LoRA adapter" if facts.base is not None else "causal language model"
    origin = f"[{facts.base_id}](https://huggingface.co/{facts.base_id})" if facts.base_id else code(facts.begun_with)
    task = facts.task
    parts = [
        f"# {words(facts.name)}",
        f"A {kind}, fine-tuned by reinforcement learning from {origin}"
        f"{f' (revision `{facts.base_revision}`)' if facts.base_revision else ''} on the task {code(task['name'])} "
        "with polytune, which scores *sets* of generations so that a policy keeps several ways to succeed.",
        "## Load it",
        "Needs torch, transformers" + (" and peft" if facts.base is not None else "") + ", not polytune:",
        *_local(facts),
        f"```python\n{snippet(facts)}```",
        "The prompt is the beginning of a recorded episode; what is printed is the policy's action there. "
        "Sample the whole distribution, as in training: without `top_k=0` transformers cuts it to 50 tokens.",
        "## Task",
        _task(task),
        "## How it was trained",
        "\n".join(f"- {point}" for point in facts.method),
        _trained(facts.trained),
        _table(["field", "value"], [[f"`{name}`", _value(value)] for name, value in facts.hyperparameters.items()]),
        "## Evaluation",
        *_evaluations(facts),
        "## Proof of export",
        f"A fresh process loaded this folder with plain {'transformers and peft' if facts.base else 'transformers'} "
        f"and scored {facts.proof['tokens']} tokens of {facts.proof['episodes']} episodes that the trainer had "
        "recorded: the "
        f"largest difference of a logprob is {facts.proof['largest']:.2g} nats, {facts.proof['mean']:.2g} on average "
        f"(tolerance {facts.proof['tolerance']:g}, {facts.proof['precision']}).",
        "## Data",
        "\n".join(f"- {line}" for line in facts.data),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(facts)),
        "## Licence",
        f"`{facts.licence}`"
        + (", as whoever exported it did not say." if facts.licence in LICENCES_SAYING_NOTHING else ".")
        + " The base model's own licence holds as well.",
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _local(facts: CardFacts) -> list[str]:
    """A warning where the base is a folder."""
    if facts.base is None or facts.base_id is not None:
        return []
    return ["The base is a folder on the machine that exported this, so this code runs there alone: publish the base "
            "and export again with `--base_model`, or export merged weights (`--merge`)."]  # fmt: skip


def _place(path: str) -> str:
    """A path or a Hub id as Python; whose home it lies in is not said."""
    told = private(path)
    return json.dumps(path) if told == path else f"os.path.expanduser({json.dumps(told)})"


def snippet(facts: CardFacts) -> str:
    """Python that loads the export and prints one action."""
    revision = f', revision="{facts.base_revision}"' if facts.base is not None and facts.base_revision else ""
    options = [f"{name}={value!r}" for name, value in facts.sampling.items()]
    hidden = any(place and private(place) != place for place in (facts.where, facts.base))
    lines = ["import os", ""] if hidden else []
    lines += ["import torch", *(["from peft import PeftModel"] if facts.base is not None else [])]
    lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", f"name = {_place(facts.where)}"]
    if facts.base is None:
        lines += [f"model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.{facts.dtype})"]
    else:
        named = f"{_place(facts.base)}{revision}"
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({named}, dtype=torch.{facts.dtype})",
            "model = PeftModel.from_pretrained(base, name)",
        ]
    lines += ["tokenizer = AutoTokenizer.from_pretrained(name)", ""]
    if isinstance(facts.prompt, str):
        lines += [f"prompt = {json.dumps(facts.prompt, ensure_ascii=False)}",
                  "ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])"]  # fmt: skip
    else:
        lines += [f"ids = torch.tensor([{facts.prompt}])  # text that this tokenizer would split otherwise"]
    lines += [
        "said = model.eval().generate(",
        "    input_ids=ids, attention_mask=torch.ones_like(ids),",
        f"    {', '.join(options[:-2])},",
        f"    {', '.join(options[-2:])},",
        ")",
        "print(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))",
    ]
    return "\n".join(lines) + "\n"


def _task(task: dict[str, Any]) -> str:
    lines = [f"{code(task['name'])}, at most {task['horizon']} turns an episode."]
    if task["instructions"]:
        lines.append(quoted(task["instructions"]))
    if task["actions"]:
        lines.append("Actions: " + ", ".join(map(code, task["actions"])) + ".")
    if task["options"]:
        lines.append("Options: " + ", ".join(map(code, task["options"])) + ".")
    return "\n\n".join(lines)


def _trained(trained: dict[str, Any]) -> str:
    steps = f", {trained['env_steps']:,.0f} environment steps" if trained["env_steps"] is not None else ""
    return f"{trained['updates']} updates, {trained['gradient_steps']} gradient steps{steps}."


def _evaluations(facts: CardFacts) -> list[str]:
    if not facts.evaluations:
        return ["Not evaluated: no pass@k of this policy was at hand when it was exported."]
    parts = []
    for evaluation in facts.evaluations:
        settings = evaluation.settings
        options = f" ({', '.join(map(code, settings['task_args']))})" if settings.get("task_args") else ""
        parts.append(
            f"{code(settings['task'])}{options}, split {code(str(settings['split']))}: {settings['n']} independent "
            f"samples of each of {settings['start_states']} start states, at most {settings['horizon']} turns, "
            f"temperature {settings['temperature']:g}, seed {settings['seed']}; {settings['level']:.0%} intervals over "
            "start states and samples. pass@k is the unbiased estimate 1 - C(n - c, k) / C(n, k)."
        )
        rows = [["measure", "this policy", "before fine-tuning", "difference, paired"]]
        for name, value in evaluation.measures.items():
            before, change = evaluation.before.get(name), evaluation.change.get(name)
            rows.append([_label(name), _interval(value), _interval(before), _interval(change, "+")])
        width = 4 if evaluation.before else 2
        parts.append(_table(rows[0][:width], [row[:width] for row in rows[1:]]))
        for moved, measures in evaluation.perturbed.items():
            change = evaluation.moved[moved]
            parts.append(f"The same start states, perturbed (`{moved}`), and what that changes:")
            rows = [
                [_label(name), _interval(value), _interval(change.get(name), "+")] for name, value in measures.items()
            ]
            parts.append(_table(["measure", f"under {moved}", f"{moved} - unperturbed, paired"], rows))
    parts.append(
        "Signatures tell strategies apart; distinct ones are counted among a start state's samples (winning: among "
        "those that succeed). coverage_area is the mean of pass@k over log k, cover@tau the share of start "
        "states solved in at least a share tau of their samples, entropy is in nats per decision."
    )
    return parts


def _label(name: str) -> str:
    return "success (pass@1)" if name == "success" else name


def _limits(facts: CardFacts) -> list[str]:
    lines = [f"Trained on {code(facts.task['name'])} alone, by its reward alone: it is no assistant, and says nothing "
             "of other tasks or other prompts."]  # fmt: skip
    if not facts.evaluations:
        lines.append("How well it does is not measured.")
    elif not any("unseen" in str(e.settings["split"]) or "test" in str(e.settings["split"]) for e in facts.evaluations):
        lines.append("The figures are of the splits named above, none of which is held out by its name.")
    if not any(evaluation.perturbed for evaluation in facts.evaluations):
        lines.append("Not tested under perturbations of its start states.")
    lines.append("One training run: what another seed would give is not in these intervals.")
    lines.append("Sampled otherwise than in training (another temperature, top-k, top-p, another prompt) it is another "
                 "policy than the one measured.")  # fmt: skip
    return lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(cell, cells)) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    return "\n".join(lines)


def _value(value: Any) -> str:
    return "-" if value is None else words(str(value))


def _ends(value: Interval) -> str:
    return ", ".join("-" if end is None else f"{end:.3f}" for end in (value["low"], value["high"]))


def _interval(value: Interval | None, sign: str = "") -> str:
    if value is None or value["estimate"] is None:
        return "-"
    low, high = ("-" if end is None else f"{end:{sign}.3f}" for end in (value["low"], value["high"]))
    return f"{value['estimate']:{sign}.3f} [{low}, {high}]"
