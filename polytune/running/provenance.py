"""What a checkpoint folder says of its own origin: the settings of its run, the levels its policy was shown."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from polytune.digests import beginning_digest, file_digest
from polytune.places import at_home
from polytune.policy.loading import CheckpointError, adapter_base, weight_files
from polytune.policy.run_file import RUN_FILE, of_run, task_fields
from polytune.privacy import private
from polytune.running.identity import LATER, changed, same_weights

#: part of a run's settings: what `polytune.running.identity.contents` says
CONTENT = "content"
#: of an evaluation, under its own name: its folder may be that of the run whose policy it measures
EVALUATION_RUN_FILE = "evaluation_run.json"
#: in it: the bytes of records.jsonl that are written, and their SHA-256
WRITTEN = "written"
#: every attempt of an evaluation, a line each
RECORDS_FILE = "records.jsonl"
DEMONSTRATIONS_FILE = "demonstrations.json"
#: episodes beside the weights that scored them, see polytune/trainer/recorded.py
RECORDED_FILE = "recorded_episodes.json"

#: settings that may change between two sittings of one run
FREE_FIELDS = frozenset(
    {"disable_tqdm", "save_total_limit", "report_to", "logging_dir", "max_branches", "local_rank", "output_dir"}
    | {"hang_timeout", "ddp_timeout", "figure_updates", "run_name", "project", "trackio_space_id"}
    # where the server is: another node, another address
    | {"vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port"}
    | {"vllm_weights_dir"}
)
#: an update's rows in all processes, which follow from other fields and from the number of processes
ROWS = "generation_batch_size"
#: settings that do not touch an evaluation's records: the policies themselves are compared by their fingerprints, and
#: perturbations only add records to those of the start states as they are
EVALUATION_FREE_FIELDS = (
    FREE_FIELDS | {"level", "model", "policies", "perturb", "k", "greedy", "from_records"} | {"report"}
)


def plain(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dataclasses as JSON without what is private, what JSON cannot hold as text, and ``CONTENT`` as it is."""
    found = {}
    for part, value in settings.items():
        if part == CONTENT:
            found[part] = dict(value)
            continue
        fields = value.to_dict() if hasattr(value, "to_dict") else dataclasses.asdict(value)
        found[part] = private(json.loads(json.dumps(fields, default=str)))
    return found


def plain_defaults(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The defaults of the same fields, those that have one."""
    found: dict[str, dict[str, Any]] = {}
    for part, value in settings.items():
        own = found[part] = {}
        if part == CONTENT:
            continue
        for one in dataclasses.fields(value):
            if one.default is not dataclasses.MISSING:
                own[one.name] = one.default
            elif one.default_factory is not dataclasses.MISSING:
                own[one.name] = one.default_factory()
    return json.loads(json.dumps(found, default=str))


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text` does, into a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill, or a disk without room, leaves the old one or the new one. Half a character, which
    no file of text can hold, is written as its number."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def origin(command: Sequence[str]) -> dict[str, Any]:
    """How a result came about: the command and the versions it ran with."""
    packages = ("polytune", "torch", "transformers", "trl", "minigrid", "numpy")
    return {
        "command": private("python " + shlex.join(command)),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def record_run(output_dir: str | Path, settings: Mapping[str, Any], command: Sequence[str]) -> None:
    """Write the settings of a run beside its checkpoints, with the command and the versions under ``origin``."""
    made = {**origin(command), "date": datetime.date.today().isoformat()}
    write_json(Path(output_dir) / RUN_FILE, {**plain(settings), "origin": made})


def other_settings(output_dir: str | Path, settings: Mapping[str, Any]) -> list[str] | None:
    """The fields in which a recorded run differs from ``settings``, with both values; None when none is recorded.

    Raises:
        ValueError: the record cannot be read.
    """
    path = Path(output_dir) / RUN_FILE
    if not path.exists():
        return None
    try:
        return differing_fields(private(json.loads(path.read_text())), plain(settings), plain_defaults(settings))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): remove {output_dir} or choose another output_dir."
        ) from error


def differing_fields(
    before: Mapping[str, Any],
    now: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """The fields in which a recorded run differs from :func:`plain` settings, with both values. A field that the record
    lacks, which came later, stood at its default (``defaults``), or at None."""
    content = changed(before[CONTENT], now[CONTENT]) if CONTENT in before and CONTENT in now else []
    had_processes, processes = (_processes(settings.get("trainer", {})) for settings in (before, now))
    known = None not in (had_processes, processes)  # then nobody need hear of rows that no field names
    free = FREE_FIELDS | {ROWS} if known else FREE_FIELDS
    other = [f"num_processes was {had_processes:g}, now {processes:g}"] if known and had_processes != processes else []
    return [*content, *other] + [
        f"{name} was {had!r}, now {value!r}"
        for part, fields in now.items()
        if part in before and part != CONTENT
        for name, value in fields.items()
        if name not in free and (had := before[part].get(name, defaults[part].get(name) if defaults else None)) != value
    ]


def _processes(trainer: Mapping[str, Any]) -> float | None:
    """How many processes a run has, from an update's rows; None: not recorded."""
    minibatches = trainer.get("steps_per_generation") or trainer.get("gradient_accumulation_steps")
    rows, each = trainer.get(ROWS), trainer.get("per_device_train_batch_size")
    return rows / (each * minibatches) if rows and each and minibatches else None


def check_same_run(output_dir: str | Path, settings: Mapping[str, Any], *, complete: bool = False) -> None:
    """Refuse to continue a run under other settings than it began with; without a checkpoint it is not begun yet.

    Raises:
        ValueError: names the fields that differ, with both values.
    """
    if not complete and not list(Path(output_dir).glob("checkpoint-*")):
        return
    differences = other_settings(output_dir, settings)
    if differences:
        raise ValueError(
            f"{output_dir} holds a run with other settings ({'; '.join(differences[:5])}): give the settings it began "
            "with to continue it, choose another --output_dir, or remove the folder to start anew."
        )


def fingerprint(checkpoint: str | Path) -> str:
    """Hash of a checkpoint's weights, configuration and tokenizer, of an adapter's base too; after a ``+`` one of what
    else decides how its texts are made, chat templates say, where there is any. A Hub id stands for itself."""
    folder = Path(at_home(str(checkpoint)))
    files = [*weight_files(folder), *(p for p in sorted(folder.glob("*.bin")) if p.name != "training_args.bin")]
    if not files:
        return str(checkpoint)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    files += [folder / name for name in names if (folder / name).is_file()]
    digest, later = hashlib.sha256(), hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(file_digest(path)))
    texts = _text_files(folder)
    for path in texts:
        later.update(f"{path.relative_to(folder)} {file_digest(path)}\n".encode())
    base_later = ""
    if (base := adapter_base(folder)) is not None:
        base_first, _, base_later = fingerprint(base).partition(LATER)
        digest.update(base_first.encode())
        later.update(base_later.encode())
    return digest.hexdigest()[:16] + (LATER + later.hexdigest()[:8] if texts or base_later else "")


def _text_files(folder: Path) -> list[Path]:
    """Chat templates, and the files of a tokenizer beside or without a tokenizer.json."""
    patterns = ["chat_template.*", "additional_chat_templates/*", "special_tokens_map.json", "added_tokens.json"]
    if not (folder / "tokenizer.json").is_file():
        patterns += ["vocab.*", "merges.txt", "*.model"]
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())


def noted_policies(note: Mapping[str, Any], now: Iterable[str]) -> dict[str, str]:
    """The policies of an evaluation's note by name, with their fingerprints; one that is among those of ``now``, as it
    is told now."""
    content, now = note["settings"].get(CONTENT, {}), list(now)
    return {
        name: next((other for other in now if same_weights(had, other, content)), had) for name, had in note["policies"]
    }


def _with_later_fields(
    had: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Settings that were noted, with the defaults of those ``fields`` that came later."""
    defaults = plain_defaults(settings)
    return {
        part: {name: value for name, value in defaults.get(part, {}).items() if name in fields.get(part, {})} | values
        for part, values in had.items()
    }


class Before(NamedTuple):
    """What an evaluation finds in its folder."""

    #: that earlier sittings spent on each policy's records; :func:`record_progress` keeps them
    seconds: dict[str, float]
    #: records that were set aside for their policies alone, all settings being the same, and the policies of them that
    #: this evaluation has, too
    aside: Path | None = None
    alike: frozenset[str] = frozenset()


def set_aside_other_run(output_dir: str | Path, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> Before:
    """Make ``output_dir`` ready for an evaluation: the records of another one (other settings, other weights) are kept
    under another name, those of this one stay to be continued.

    Raises:
        ValueError: records that could be taken over have other content than was written.
    """
    path, records = Path(output_dir) / EVALUATION_RUN_FILE, Path(output_dir) / RECORDS_FILE
    fields = {
        part: {name: value for name, value in values.items() if name not in EVALUATION_FREE_FIELDS}
        for part, values in plain(settings).items()
    }
    now = {"settings": fields, "policies": [list(pair) for pair in fingerprints.items()]}
    try:
        before = private(json.loads(path.read_text()))
        seconds = {name: float(before["seconds"].get(name, 0.0)) for name in fingerprints}
        content = {CONTENT: fields[CONTENT]} if CONTENT in fields else {}
        other = changed(before["settings"].get(CONTENT, {}), content.get(CONTENT, {}))
        had = _with_later_fields(before["settings"], settings, fields)
        policies = noted_policies(before, fingerprints.values())
        alike = frozenset(name for name, weights in policies.items() if fingerprints.get(name) == weights)
        same_settings = not other and had | content == fields
        same = same_settings and list(policies.items()) == list(fingerprints.items())
        other = [*differing_fields(had, fields), *_other_policies(policies, fingerprints)]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        same = same_settings = False  # none, or one that cannot be read: whose records they are is not known
        other, alike = [], frozenset()
    if same and records.exists():
        now |= {WRITTEN: before[WRITTEN]} if WRITTEN in before else {}
    else:
        alike = alike if same_settings and records.exists() else frozenset()
        seconds = {name: seconds[name] if name in alike else 0.0 for name in fingerprints}
    kept = None
    if records.exists() and not same:
        if alike:
            with records.open("rb") as file:
                check_written(file)
        number = 1
        while (kept := records.with_name(f"records-{number}.jsonl")).exists():
            number += 1
        os.replace(records, kept)
        why = ", ".join(other) or "what it was made with cannot be read"
        print(f"{records} belonged to another evaluation ({why}): kept as {kept.name}")
    write_json(path, {**now, "seconds": seconds})
    return Before(seconds, kept if alike else None, alike)


def _other_policies(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Policies that came, went, or have other weights."""
    found = [f"policy {name} is new" for name in now if name not in before]
    for name, weights in before.items():
        if now.get(name) != weights:
            found.append(f"policy {name} {'has other weights' if name in now else 'is left out'}")
    return found or (["policies stand in another order"] if list(before) != list(now) else [])


def record_progress(output_dir: str | Path, seconds: Mapping[str, float], num_bytes: int, digest: str) -> None:
    """Keep what the records have cost so far, and what stands in their file, for the next sitting of an evaluation."""
    path = Path(output_dir) / EVALUATION_RUN_FILE
    note = json.loads(path.read_text())
    write_json(path, {**note, "seconds": dict(seconds), WRITTEN: [num_bytes, digest]})


def check_written(records: BinaryIO) -> None:
    """Refuse an open records file that has other content than its evaluation wrote. A shorter one (the evaluation makes
    what it lacks again), one without a note, and one that was set aside are taken as they are.

    Raises:
        ValueError: which file, and what to do.
    """
    path = Path(records.name)
    try:
        num_bytes, digest = json.loads((path.parent / EVALUATION_RUN_FILE).read_text())[WRITTEN]
        shorter = path.name != RECORDS_FILE or path.stat().st_size < num_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not shorter and beginning_digest(records, num_bytes).hexdigest() != digest:
        raise ValueError(
            f"{path} has other content in its first {num_bytes:,} bytes than was written: restore it, or remove it and "
            "evaluate again."
        )


def demonstration_hashes(checkpoint: str | Path) -> list[str]:
    """Hashes of the levels that the policy's demonstrations showed; empty when the checkpoint does not say.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = of_run(checkpoint, DEMONSTRATIONS_FILE)
    if not path.is_file():
        return []
    try:
        return [str(level) for level in json.loads(path.read_text())["level_hashes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}), so which levels are unseen is not known: "
            "restore the file or pretrain the policy again."
        ) from error


def other_task_args(checkpoint: str | Path, task: str, task_args: Sequence[str]) -> list[str] | None:
    """The ``task_args`` that the run of a policy had, where it trained on the same task with others; else None."""
    trained = _trained_on(checkpoint, task)
    own = list(trained.get("task_args") or [])
    return own if trained and sorted(own) != sorted(task_args) else None


def other_horizon(checkpoint: str | Path, task: str, horizon: int) -> int | None:
    """The horizon that the run of a policy was given, where it trained on the same task with another one; else None."""
    own = _trained_on(checkpoint, task).get("task_horizon")
    return own if own not in (None, horizon) else None


def _trained_on(checkpoint: str | Path, task: str) -> dict[str, Any]:
    """The task's fields of a policy's run; empty for another task, another program's policy, what cannot be read."""
    trained = task_fields(checkpoint)
    return trained if trained.get("task") == task else {}


#: fields of PolicyConfig that decide what a policy is shown, and how much it may say
PROMPTING = ("show_instructions", "chat", "thinking", "chat_date", "max_action_tokens")


def prompting_of(checkpoint: str | Path) -> dict[str, Any]:
    """How the run of a policy prompted it, by field of PolicyConfig; empty where that is not known."""
    try:
        policy = json.loads(of_run(checkpoint, RUN_FILE).read_text())["policy"]
        return {name: policy[name] for name in PROMPTING if name in policy}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def carry_provenance(source: str | Path, target: str | Path) -> None:
    """Copy what a checkpoint says of its demonstrations to the checkpoint that was fine-tuned from it."""
    path = Path(source) / DEMONSTRATIONS_FILE
    if path.is_file():
        write_json(Path(target) / DEMONSTRATIONS_FILE, json.loads(path.read_text()))
