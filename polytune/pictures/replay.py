"""One episode or one tree of a policy, to be looked at; and where a grid task's agent was, turn by turn."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from transformers.utils import logging as transformers_logging

from polytune.config import PolicyConfig, RolloutConfig
from polytune.policy import Renderer, TransformersGenerator, build_renderer, load_policy
from polytune.rollout import Start, Trajectory, Tree, grow_trees, sample_episodes
from polytune.running.provenance import other_task_args, prompting_of
from polytune.tasks.base import Episode, Task

Cell = tuple[int, int]

#: pixels of a cell
TILE = 24


class Player(NamedTuple):
    """A policy that is ready to play one task."""

    renderer: Renderer
    generator: TransformersGenerator


def load_player(task: Task, path: str, *, greedy: bool = False) -> Player:
    """The policy in a folder or on the Hub, prompted as its run did.

    Raises:
        CheckpointError: it cannot be loaded; ValueError: its tokenizer does not know the task's words.
    """
    transformers_logging.disable_progress_bar()
    policy_config = PolicyConfig(model=path, **prompting_of(path))
    model, tokenizer = load_policy(path, **policy_config.loading())
    renderer = build_renderer(tokenizer, task, policy_config)
    renderer.check_vocabulary()
    tokens = renderer.longest_action()
    return Player(
        renderer,
        TransformersGenerator(model, max_action_tokens=tokens, stop_ids=renderer.stop_ids, greedy=greedy),
    )


def training_note(path: str, task: Task, task_args: Sequence[str]) -> str:
    """Which variant of the task the policy was trained on, where that is known to be another one; else nothing."""
    trained = other_task_args(path, task.name, task_args)
    before, now = (" ".join(own or []) or "none" for own in (trained, task_args))
    return "" if trained is None else f"{path} was trained with --task_args {before}, it plays with {now}"


def sample_actions(task: Task, seed: int, path: str, *, greedy: bool = False, run_seed: int = 0) -> list[str]:
    """What the policy in ``path`` does in one episode, as the world gets it. Raises as :func:`load_player`."""
    player = load_player(task, path, greedy=greedy)
    [trajectory] = sample_episodes(task, player.renderer, player.generator, [Start(seed, 0)], run_seed=run_seed)
    return action_texts(player.renderer, trajectory)


def grow_tree(task: Task, seed: int, player: Player, rollout: RolloutConfig, *, run_seed: int = 0) -> Tree:
    """One tree of vines, as training grows them."""
    [tree] = grow_trees(task, player.renderer, player.generator, [Start(seed, 0)], rollout, run_seed=run_seed)
    return tree


def action_texts(renderer: Renderer, trajectory: Trajectory) -> list[str]:
    """A trajectory's own turns as the texts that the world got."""
    return [renderer.action_text(turn.whole_ids) for turn in trajectory.turns]


@dataclass
class Track:
    """Where a trajectory led: ``cells`` has the agent's cell at its rollout state (or start) and after each turn."""

    cells: list[Cell]
    signature: Hashable | None
    success: bool


@dataclass
class StateView:
    """A rollout state: its turn, its cell, the map as it was then (without the view), and its vines."""

    turn: int
    cell: Cell
    frame: np.ndarray
    vines: list[Track] = field(default_factory=list)


@dataclass
class SeedTrack:
    """A seed trajectory on its map, with the rollout states on it.

    ``places``: each place that signatures are made of (a room, say) -> the cells where trajectories were in it.
    """

    track: Track
    frame: np.ndarray
    states: list[StateView]
    places: dict[Hashable, set[Cell]]


def trace(task: Task, renderer: Renderer, tree: Tree) -> list[SeedTrack]:
    """Replay a tree in the world: a :class:`SeedTrack` for each of its seed trajectories."""
    return [
        _trace_seed(task, renderer, tree.start_state, seed, groups)
        for seed, groups in zip(tree.seeds, tree.vines, strict=True)
    ]


def _trace_seed(task, renderer, start: int, seed: Trajectory, groups) -> SeedTrack:
    wanted = {group[0].branch_turn for group in groups}
    snapshots: dict[int, bytes] = {}
    places: dict[Hashable, set[Cell]] = {}
    episode = task.start(start)
    frame = frame_of(episode)
    cells = follow(episode, action_texts(renderer, seed), places, wanted, snapshots)
    states = []
    for group in groups:
        turn = group[0].branch_turn
        there = task.restore(snapshots[turn])
        state = StateView(turn, cell_of(there), frame_of(there))
        for vine in group:
            path = follow(task.restore(snapshots[turn]), action_texts(renderer, vine), places)
            state.vines.append(Track(path, vine.signature, vine.success))
        states.append(state)
    return SeedTrack(Track(cells, seed.signature, seed.success), frame, states, places)


def follow(
    episode: Episode,
    actions: Sequence[str],
    places: dict[Hashable, set[Cell]],
    wanted: Collection[int] = (),
    snapshots: dict[int, bytes] | None = None,
) -> list[Cell]:
    """Act out ``actions`` in a grid world: the agent's cell before them and after each.

    Args:
        places: each place that signatures are made of -> the cells where the agent was in it; is added to.
        wanted: turns before which ``snapshots`` gets one of the episode.
    """
    cells = [cell_of(episode)]
    _note_place(episode, places)
    for turn, action in enumerate(actions):
        if turn in wanted:
            snapshots[turn] = episode.snapshot()
        episode.step(action)
        cells.append(cell_of(episode))
        _note_place(episode, places)
    return cells


def cell_of(episode: Any) -> Cell:
    """Where the agent of a grid world stands, (x, y)."""
    x, y = episode.env.agent_pos
    return int(x), int(y)


def _note_place(episode: Episode, places: dict[Hashable, set[Cell]]) -> None:
    """Where a state counts as being is what its signature would be if the episode began there."""
    here = episode.signature(episode.turn)
    if isinstance(here, frozenset | tuple) and len(here) == 1:
        places.setdefault(next(iter(here)), set()).add(cell_of(episode))


def frame_of(episode: Episode) -> np.ndarray:
    """The map of a grid world as it is now, (height, width, 3) bytes, :data:`TILE` pixels a cell."""
    return episode.env.get_frame(highlight=False, tile_size=TILE)
