"""Where trajectories led, as data that the page draws: maps, paths on them, trees of vines.

Records and ``trees.jsonl`` hold actions as the world got them, so a level is rebuilt from its seed and they are acted
out again, without the policy. A path is its first cell and one letter a turn (``L R U D``, ``.`` for none). What ends
otherwise than its record says, in outcome, turns or signature, was recorded on another version of the level: its map is
left out, and that is told.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from polytune.evaluation.records import said_by_turn
from polytune.pictures.replay import TILE, Cell, follow, frame_of
from polytune.rollout import signature_as_json
from polytune.tasks import Task
from polytune.tasks.base import Episode
from polytune.tasks.game import map_of, mission_line

MOVES = {(-1, 0): "L", (1, 0): "R", (0, -1): "U", (0, 1): "D", (0, 0): "."}
#: start states, and paths of one policy on one of them, that a report shows
SHOWN_STARTS, SHOWN_PATHS = 6, 32
#: members of one group that are drawn; answers of one group that are listed
SHOWN_VINES, SHOWN_ANSWERS = 32, 12
LONGEST_LABEL = 60


class OtherLevel(ValueError):
    """Acted out again, a record ends otherwise: it is of another version of its level."""


def has_map(task: Task, start: int) -> bool:
    """Whether the world has a map that paths can be drawn on."""
    return map_of(task.start(start)) is not None


class Signatures:
    """Numbers signatures in the order of their frequency; the page has a colour for each number."""

    def __init__(self, values: Sequence[Any]):
        counts: dict[str, int] = {}
        for value in values:
            if value is not None:
                counts[json.dumps(value)] = counts.get(json.dumps(value), 0) + 1
        self.names = sorted(counts, key=lambda key: (-counts[key], key))

    def number(self, value: Any) -> int:
        """-1 for none."""
        return -1 if value is None else self.names.index(json.dumps(value))

    def labels(self) -> list[str]:
        """What people read, in the order of the numbers."""
        return [signature_label(json.loads(name)) for name in self.names]


def signature_label(value: Any) -> str:
    """A signature from JSON for people, its members in order; a long one is cut."""
    label = ", ".join(map(_member_label, value)) or "nothing" if isinstance(value, list) else str(value)
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _member_label(value: Any) -> str:
    return f"({' '.join(map(_member_label, value))})" if isinstance(value, list) else str(value)


def map_data(episode: Episode, places: Mapping[Hashable, set[Cell]]) -> dict[str, Any]:
    """The map as a small picture without its black floor, its size in cells, and where the names of places stand."""
    frame = frame_of(episode)
    dark = (frame < 40).all(axis=-1)
    grey = (frame == frame[..., :1]).all(axis=-1)
    # a floor cell has a grey line at two of its edges and is dark within, a wall is grey all over
    within = dark.reshape(frame.shape[0] // TILE, TILE, -1, TILE)[:, 3:, :, 3:]
    floor = np.kron(within.all(axis=(1, 3)), np.ones((TILE, TILE), dtype=bool))
    alpha = np.where(dark, 0, np.where(floor, 45, np.where(grey, 150, 255))).astype(np.uint8)
    picture = Image.fromarray(np.dstack([frame, alpha]), "RGBA").quantize(32)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    height, width = frame.shape[0] // TILE, frame.shape[1] // TILE
    names = [[str(place), *np.mean(sorted(cells), axis=0).round(1).tolist()] for place, cells in places.items()]
    return {
        "png": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
        "w": width,
        "h": height,
        "places": sorted(names),
    }


def path_data(cells: Sequence[Cell]) -> list[Any]:
    """``[x, y, "RRD."]``; ValueError for a step of more than one cell."""
    moves = []
    for (x, y), (to_x, to_y) in zip(cells, cells[1:], strict=False):
        if (to_x - x, to_y - y) not in MOVES:
            raise ValueError(f"the agent went from cell {(x, y)} to {(to_x, to_y)} in one turn")
        moves.append(MOVES[to_x - x, to_y - y])
    return [*cells[0], "".join(moves)]


def acted_out(
    episode: Episode,
    record: Mapping[str, Any],
    actions: Sequence[str],
    places: dict[Hashable, set[Cell]],
    *,
    signed: bool,
) -> list[Cell]:
    """The cells of one trajectory.

    Args:
        episode: at the trajectory's beginning.
        record: its ``success`` and ``signature``.
        signed: the signature is the task's own, so that it can be compared.

    Raises:
        OtherLevel: it ends later or earlier, otherwise, or elsewhere than the record says.
    """
    begun = episode.turn
    try:
        cells = follow(episode, actions, places)
    except RuntimeError as error:  # it was over before all of them
        raise OtherLevel(f"start state {episode.seed}: {error}") from error
    same = episode.done and (episode.stop_reason == "success") == record["success"]
    if signed:
        own = json.loads(json.dumps(signature_as_json(episode.signature(begun))))
        same = same and own == json.loads(json.dumps(record["signature"]))
    if not same:
        outcome = "success" if record["success"] else "failure"
        raise OtherLevel(f"start state {episode.seed}: a recorded {outcome} ends otherwise when it is acted out again")
    return cells


def start_states_to_show(tables: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[int]:
    """The start states at which policies differ most: in distinct winning signatures, then in successes.

    ``tables``: policy -> start state -> what `summary.per_start` says. With one policy: those with most of them.
    """

    def spread(name: str, start: int) -> float:
        values = [table[start][name] for table in tables.values()]
        return max(values) - (min(values) if len(values) > 1 else 0)

    starts = next(iter(tables.values()))
    ranked = sorted(starts, key=lambda s: (-spread("distinct_winning", s), -spread("correct", s), s))
    return ranked[:SHOWN_STARTS]


def paths_at(task: Task, start: int, by_policy: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """One start state with every policy's sampled paths; None where they cannot be acted out again: records that do not
    hold what was done, or old ones with actions of several words.

    Args:
        by_policy: each policy's records of the start state, greedy ones left out.

    Raises:
        OtherLevel: the records are of another version of the level.
    """
    signatures = Signatures([record["signature"] for own in by_policy.values() for record in own])
    places: dict[Hashable, set[Cell]] = {}
    panels = []
    for name, own in by_policy.items():
        tracks = []
        for record in own[:SHOWN_PATHS]:
            actions = said_by_turn(record.get("actions", ""))
            if len(actions) != record["turns"]:
                return None
            cells = acted_out(task.start(start), record, actions, places, signed=True)
            tracks.append({"p": path_data(cells), "ok": record["success"], "s": signatures.number(record["signature"])})
        counts = Counter(signatures.number(record["signature"]) for record in own)
        wins = {signatures.number(record["signature"]) for record in own if record["success"]} - {-1}
        panels.append({"policy": name, "n": len(own), "ok": sum(record["success"] for record in own), "wins": len(wins),
                       "counts": [counts[i] for i in range(len(signatures.names))], "tracks": tracks})  # fmt: skip
    episode = task.start(start)
    return {
        "seed": start,
        "mission": " ".join(mission_line(episode)),
        "map": map_data(episode, places),
        "signatures": signatures.labels(),
        "panels": panels,
    }


def trees_of(task: Task, lines: Sequence[Mapping[str, Any]], *, signed: bool) -> Iterator[dict[str, Any]]:
    """The trees of a run (`trainer.tree_log`) as the page steps through them: an entry for each seed trajectory with
    vines, and one for the seed trajectories themselves, whole episodes from the start state, where sets scored them or
    there are no vines. Where there is no map, members carry what they said instead of a path.

    Args:
        signed: signatures are the task's own (`acted_out`).

    Raises:
        OtherLevel: the trees are of another version of the level.
    """
    for line in lines:
        mapped, start, seeds = has_map(task, line["start_state"]), line["start_state"], line["seeds"]
        head = {name: line[name] for name in ("update", "env_steps", "start_state")}
        vined = [(number, seed) for number, seed in enumerate(seeds, start=1) if seed["states"]]
        entries: list[tuple[str, Any, Any]] = [
            (f"seed trajectory {number} of {len(seeds)}" if len(seeds) > 1 else "", seed, seed["states"])
            for number, seed in vined
        ]
        if not vined or any(seed["by_set"] for seed in seeds):
            whole = {"turn": 0, "token": 0, "vines": seeds}
            entries.append(("whole episodes" if vined else "", None, [whole]))
        for part, seed, states in entries:
            drawn = _on_map(task, start, seed, states, signed) if mapped else _as_text(seed, states)
            yield {**head, "part": part, **drawn}


def _on_map(
    task: Task, start: int, seed: Mapping[str, Any] | None, states: Sequence[Mapping[str, Any]], signed: bool
) -> dict:
    members = [vine for state in states for vine in state["vines"]]
    signatures = Signatures([member["signature"] for member in members])
    places: dict[Hashable, set[Cell]] = {}

    def track(own: Mapping[str, Any], turn: int) -> dict[str, Any]:
        episode = task.start(start)
        for action in ([] if seed is None else seed["actions"])[:turn]:
            episode.step(action)
        return {
            "p": path_data(acted_out(episode, own, own["actions"], places, signed=signed)),
            "turns": len(own["actions"]),
        }

    groups = []
    for state in states:
        shown = [{**_facts(v, signatures), **track(v, state["turn"])} for v in state["vines"][:SHOWN_VINES]]
        groups.append({"turn": state["turn"], "of": len(state["vines"]), "members": shown})
    # it is drawn in ink, whatever it visits
    whole = None if seed is None else {**_facts(seed, None), **track(seed, 0)}
    episode = task.start(start)
    return {"mission": " ".join(mission_line(episode)), "map": map_data(episode, places), "seed": whole,
            "groups": groups, "signatures": signatures.labels()}  # fmt: skip


def _as_text(seed: Mapping[str, Any] | None, states: Sequence[Mapping[str, Any]]) -> dict:
    groups = []
    for state in states:
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for vine in state["vines"]:  # those without a signature are told apart by what they say
            same = vine["actions"] if vine["signature"] is None else [vine["signature"]]
            kinds.setdefault(json.dumps(same), []).append(vine)
        ranked = sorted(kinds.values(), key=lambda own: (own[0]["signature"] is None, -len(own)))
        answers = [
            {**_facts(own[0], None), "count": len(own), "ok": sum(vine["success"] for vine in own),
             "text": " ".join(own[0]["actions"])}
            for own in ranked[:SHOWN_ANSWERS]
        ]  # fmt: skip
        before = [] if seed is None else seed["actions"][: state["turn"]]
        groups.append({
            "turn": state["turn"], "token": state["token"], "before": " ".join(before), "of": len(state["vines"]),
            "kinds": len(ranked), "ok": sum(vine["success"] for vine in state["vines"]), "answers": answers,
        })  # fmt: skip
    return {"mission": "", "map": None, "seed": None, "groups": groups, "signatures": []}


def _facts(own: Mapping[str, Any], signatures: Signatures | None) -> dict[str, Any]:
    return {
        "ok": own["success"],
        "s": -1 if signatures is None else signatures.number(own["signature"]),
        "r": round(own["return"], 3),
        "a": own["advantage"],
        "by_set": own["by_set"],
    }
