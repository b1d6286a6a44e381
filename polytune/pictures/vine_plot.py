"""A tree of vines drawn over the map that it grew on: colour says the signature, line and end mark the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polytune.config import RolloutConfig
from polytune.evaluation.summary import counted
from polytune.pictures.plot import as_label
from polytune.pictures.replay import TILE, SeedTrack, StateView, Track, grow_tree, load_player, trace
from polytune.policy import Renderer
from polytune.rollout import Tree
from polytune.tasks.base import Task
from polytune.tasks.game import mission_line, signature_text

#: on white: Okabe and Ito's without the yellow, and four more; signatures beyond them share the grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#8C510A", "#A5C400", "#E6194B")
OTHER = "#9CA3AF"
SEED_COLOUR = "#111827"
#: outcome -> line and end mark
SUCCESS, FAILURE = ("-", "*"), ((0, (3, 1.5)), "X")
#: how far from the middle of the cells lines may lie, in cells, so that vines on one way stay apart
REACH = 0.32


class VineStyle(NamedTuple):
    """How one vine is drawn."""

    colour: str
    line: Any
    marker: str
    shift: float


def signature_colours(states: Sequence[StateView]) -> dict[Hashable, str]:
    """Signature -> colour, the most frequent first; those of one count in the order of their text."""
    counts = Counter(vine.signature for state in states for vine in state.vines)
    ranked = sorted(counts, key=lambda signature: (-counts[signature], signature_text(signature)))
    return {signature: COLOURS[rank] if rank < len(COLOURS) else OTHER for rank, signature in enumerate(ranked)}


def vine_styles(state: StateView, colours: dict[Hashable, str]) -> list[VineStyle]:
    """One for each vine of a rollout state, in their order."""
    shifts = np.linspace(-REACH, REACH, len(state.vines)) if len(state.vines) > 1 else [0.0]
    return [
        VineStyle(colours[vine.signature], *(SUCCESS if vine.success else FAILURE), float(shift))
        for vine, shift in zip(state.vines, shifts, strict=True)
    ]


def draw_vines(task: Task, renderer: Renderer, tree: Tree, path: str | Path, *, policy: str = "policy") -> str:
    """Draw a tree of a grid task as :func:`vine_figure` does into a picture (.png, .pdf, .svg); returns its title."""
    figure, title = vine_figure(task, renderer, tree, policy=policy)
    figure.savefig(path, dpi=110)
    return title


def vine_figure(task: Task, renderer: Renderer, tree: Tree, *, policy: str = "policy") -> tuple[Figure, str]:
    """The first seed trajectory of a tree of a grid task, and the vines from each of its rollout states.

    A panel shows the seed trajectory with its rollout states, numbered; one more for each of them shows its vines, on
    the map as it was then. A tree without vines has one panel: its seed trajectories, a group from the start state.

    Args:
        renderer: the one that the tree was grown with; its actions are replayed.
        policy: what the title calls it.

    Returns:
        the figure, and its title: successes, number of vines, distinct signatures.
    """
    seed, *others = trace(task, renderer, tree)
    what = "vine" if seed.states else "episode"
    if not seed.states:
        seed = _as_group([seed, *others])
    vines = [vine for state in seed.states for vine in state.vines]
    distinct = len({vine.signature for vine in vines if vine.signature is not None})
    title = (
        f"{task.name}, seed {tree.start_state}, {policy}: {sum(vine.success for vine in vines)} of "
        f"{counted(len(vines), what)} succeed, {counted(distinct, 'distinct signature')}"
    )
    colours = signature_colours(seed.states)
    panels = len(seed.states) + (what == "vine")
    figure = Figure(figsize=(max(4.3 * panels, 6.4), 6.0), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if what == "vine":
        _draw_seed(axes.pop(0), seed)
    for number, (own, state) in enumerate(zip(axes, seed.states, strict=True), start=1):
        _draw_state(own, seed, state, number if what == "vine" else None, vine_styles(state, colours))
    _legend(figure, seed.states, colours, what)
    told = "\n".join([title, *mission_line(task.start(tree.start_state)), ""])
    figure.suptitle(as_label(told), fontsize=11)
    return figure, title


def _as_group(seeds: Sequence[SeedTrack]) -> SeedTrack:
    """Seed trajectories as if they were vines from the start state."""
    start = StateView(0, seeds[0].track.cells[0], seeds[0].frame, [seed.track for seed in seeds])
    places: dict[Hashable, set[tuple[int, int]]] = {}
    for seed in seeds:
        for place, cells in seed.places.items():
            places.setdefault(place, set()).update(cells)
    return SeedTrack(seeds[0].track, seeds[0].frame, [start], places)


def grow_and_draw(
    task: Task, seed: int, policy: str, rollout: RolloutConfig, path: str | Path, *, run_seed: int = 0
) -> str:
    """Load the policy in a folder or on the Hub, grow one tree from the start state ``seed`` and draw it.

    Raises as :func:`polytune.pictures.replay.load_player`; returns the title.
    """
    player = load_player(task, policy)
    tree = grow_tree(task, seed, player, rollout, run_seed=run_seed)
    return draw_vines(task, player.renderer, tree, path, policy=f"policy {Path(policy).name}")


def _draw_seed(axes: Axes, seed: SeedTrack) -> None:
    _background(axes, seed.frame)
    _name_places(axes, seed)
    _line(axes, seed.track, VineStyle(SEED_COLOUR, *(SUCCESS if seed.track.success else FAILURE), 0.0))
    numbers: dict[tuple[int, int], list[str]] = {}
    for number, state in enumerate(seed.states, start=1):
        numbers.setdefault(state.cell, []).append(str(number))
    for cell, here in numbers.items():
        _mark(axes, cell, ",".join(here))
    outcome = "succeeds" if seed.track.success else "fails"
    axes.set_title(f"seed trajectory: {outcome}\nafter {counted(len(seed.track.cells) - 1, 'turn')}", fontsize=10)


def _draw_state(axes: Axes, seed: SeedTrack, state: StateView, number: int | None, styles: list[VineStyle]) -> None:
    """``number``: of the rollout state; None for the start state of a tree without vines."""
    _background(axes, state.frame)
    _name_places(axes, seed)
    before = Track(seed.track.cells[: state.turn + 1], None, True)
    axes.plot(*_points(before, 0.0), color=SEED_COLOUR, linewidth=1, alpha=0.35, zorder=2)
    for vine, style in zip(state.vines, styles, strict=True):
        _line(axes, vine, style)
    _mark(axes, state.cell, "S" if number is None else str(number))
    succeed = sum(vine.success for vine in state.vines)
    distinct = len({vine.signature for vine in state.vines if vine.signature is not None})
    told = f"{succeed} of {counted(len(state.vines), 'vine')} succeed\n{counted(distinct, 'distinct signature')}"
    if number is None:  # the figure's title says the same
        axes.set_title("whole episodes from the start state", fontsize=10)
    else:
        axes.set_title(f"state {number}, turn {state.turn}: {told}", fontsize=10)


def _background(axes: Axes, frame: np.ndarray) -> None:
    """The map, one unit a cell, its black floor turned white; what lies on it keeps its colours."""
    paper = frame.copy()
    paper[(frame < 40).all(axis=-1)] = 255
    height, width = frame.shape[0] / TILE, frame.shape[1] / TILE
    axes.imshow(paper, extent=(-0.5, width - 0.5, height - 0.5, -0.5), alpha=0.55)
    axes.set_xticks([])
    axes.set_yticks([])


def _name_places(axes: Axes, seed: SeedTrack) -> None:
    """The names of places, as signatures have them, in the middle of the cells that were visited in each."""
    middles = {place: np.mean(sorted(cells), axis=0) for place, cells in seed.places.items()}
    crowded = any(np.abs(one - other).max() < 2 for one, other in combinations(middles.values(), 2))
    for place, middle in middles.items():
        size = 9 if crowded else 20
        axes.text(*middle, as_label(str(place)), ha="center", va="center", fontsize=size, fontweight="bold",
                  color=OTHER, zorder=1)  # fmt: skip


def _points(track: Track, shift: float) -> np.ndarray:
    """(2, number of different cells in a row): turns on the spot do not move the pen."""
    cells = [cell for turn, cell in enumerate(track.cells) if turn == 0 or cell != track.cells[turn - 1]]
    return np.array(cells, dtype=float).T + shift


def _line(axes: Axes, track: Track, style: VineStyle) -> None:
    points = _points(track, style.shift)
    weight = {"linewidth": 1.9, "zorder": 4} if track.success else {"linewidth": 1.1, "zorder": 3, "alpha": 0.8}
    axes.plot(*points, color=style.colour, linestyle=style.line, **weight)
    size = 11 if track.success else 7
    axes.plot(*points[:, -1:], style.marker, color=style.colour, markersize=size, markeredgecolor="white",
              markeredgewidth=0.7, zorder=5)  # fmt: skip


def _mark(axes: Axes, cell: tuple[int, int], text: str) -> None:
    circle = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": SEED_COLOUR, "linewidth": 1.2}
    axes.text(*cell, text, ha="center", va="center", fontsize=8, fontweight="bold", bbox=circle, zorder=6)


def _legend(figure: Figure, states: Sequence[StateView], colours: dict[Hashable, str], what: str) -> None:
    """Below the maps: each signature with its counts, then what the lines mean."""
    members: dict[str, list[Hashable]] = {}
    for signature, colour in colours.items():
        members.setdefault(colour, []).append(signature)
    handles = []
    for colour, signatures in members.items():
        same = [vine for state in states for vine in state.vines if vine.signature in signatures]
        name = signature_text(signatures[0]) if colour != OTHER else counted(len(signatures), "other signature")
        label = f"{name}: {sum(vine.success for vine in same)} of {len(same)} succeed"
        handles.append(Line2D([], [], color=colour, linewidth=3, label=as_label(label)))
    for (line, marker), label in ((SUCCESS, "success"), (FAILURE, "failure")):
        handles.append(Line2D([], [], color=SEED_COLOUR, linestyle=line, marker=marker, markersize=8, label=label))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2 if len(states) == 1 else min(len(handles), 2 * len(states)),
        frameon=False,
        fontsize=9,
        title=f"signature of the {what}{', from its rollout state on' if what == 'vine' else ''} (grey: its places)",
        title_fontsize=9,
    )
