"""Growing rollout trees: seed trajectories, rollout states on them, vines (Poly-PPO, steps 1 to 3).

All episodes of a cohort run in lock-step: one generator call samples every live branch's next action. A vine restores
the environment's snapshot and forks the generator's branch, so neither the world nor the model replays the prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from polytune.config import RolloutConfig
from polytune.digests import number_from
from polytune.errors import ToldError
from polytune.policy.generator import Branch, Generator, SampleKey
from polytune.policy.rendering import Renderer
from polytune.rollout.branching import SeedView, find_branching
from polytune.rollout.tree import Root, Trajectory, Tree, Turn
from polytune.tasks.base import Episode, Task, as_strategy
from polytune.tasks.messages import with_hint


class RolloutError(ToldError, RuntimeError):
    """A task broke its contract in mid-episode; the message names the task, the start state and the turn."""


@contextmanager
def _naming(task: Task, episode_seed: int, turn: int, doing: str) -> Iterator[None]:
    """Whatever the task raises becomes a RolloutError that says where."""
    try:
        yield
    except Exception as error:
        raise RolloutError(
            f"task {task.name!r} raised {type(error).__name__} in turn {turn} of start state {episode_seed} {doing}: "
            f"{error}. The run stops here; its checkpoints are intact."
        ) from error


#: (start state, an episode that goes on, as far as it has come) -> whether it ends here
Stops = Callable[[int, Trajectory], bool]
#: why such an episode has ended
STOPPED = "stopped"

#: branch number of an episode of no tree, so that an evaluation never meets the random numbers of a rollout
NO_TREE = -1


class Start(NamedTuple):
    """A start state, by its seed, and which attempt at it this is; together with the run seed they seed the samples.

    ``root``: a state reached earlier from that start state, in which the attempt begins; None: the start state itself.
    ``num_seeds``: seed trajectories of its tree; None: the run's. ``hint``: what the policy reads after the first
    observation, and rows do not have; "": nothing.
    """

    start_state: int
    attempt: int
    root: Root | None = None
    num_seeds: int | None = None
    hint: str = ""

    def instead(self, start_state: int) -> Start:
        """An attempt at another start state in the place of this one; no other attempt has its random numbers."""
        if start_state == self.start_state:
            return self
        told = f"{self.start_state} {self.attempt}".encode()
        return Start(start_state, -1 - number_from(told, 7), None, self.num_seeds)


@dataclass
class RolloutCounters:
    """What rollouts cost."""

    env_steps: int = 0
    episodes: int = 0
    invalid_actions: int = 0


@dataclass(eq=False, slots=True)
class _Live:
    """An episode in flight. ``points`` (with ``keep_points``): per turn, snapshot and token length."""

    episode: Episode
    branch: Branch
    trajectory: Trajectory
    prompt_ids: tuple[int, ...]
    keep_points: bool = False
    points: list[tuple[bytes, int]] = field(default_factory=list)


def sample_episodes(
    task: Task,
    renderer: Renderer,
    generator: Generator,
    starts: Sequence[Start],
    *,
    run_seed: int,
    max_branches: int = 256,
    counters: RolloutCounters | None = None,
    on_episode: Callable[[int, Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Independent episodes from start states: the i.i.d. samples that pass@k needs.

    Args:
        starts: one episode each.
        on_episode: called with (index in ``starts``, trajectory) as each episode ends.

    Raises:
        RolloutError: the task raised, or returned a reward that is not finite.
    """
    counters = counters if counters is not None else RolloutCounters()
    trajectories: list[Trajectory] = []
    for offset in range(0, len(starts), max_branches):
        cohort = []
        for start in starts[offset : offset + max_branches]:
            key = SampleKey(run_seed, start.start_state, start.attempt, NO_TREE)
            cohort.append(_open(task, renderer, generator, start, key))
        index = {id(live): offset + i for i, live in enumerate(cohort)}

        def finished(live: _Live, index: dict[int, int] = index) -> None:
            generator.close([live.branch])
            if on_episode is not None:
                on_episode(index[id(live)], live.trajectory)

        _run(task, renderer, generator, cohort, counters, finished)
        trajectories.extend(live.trajectory for live in cohort)
    return trajectories


def grow_trees(
    task: Task,
    renderer: Renderer,
    generator: Generator,
    starts: Sequence[Start],
    rollout: RolloutConfig,
    *,
    run_seed: int,
    max_branches: int = 256,
    counters: RolloutCounters | None = None,
    view_seeds: Callable[[list[Tree]], list[list[SeedView]]] | None = None,
    keep_snapshots: bool = False,
    stops: Stops | None = None,
) -> list[Tree]:
    """Grow one tree of S * (1 + p * N) trajectories from each start state, or from its root.

    A trajectory's branch number, which enters its samples' seeds, is its row number within the tree.

    Args:
        view_seeds: called with the trees when their seed trajectories have ended; returns a view of each seed
            trajectory of each tree, for rules of ``rollout_states`` that need values or entropies.
        keep_snapshots: whole episodes, seed trajectories and vines of a rule with ``whole_episodes``, keep the snapshot
            before each of their turns.
        stops: asked of every trajectory after each turn that did not end it; what it stops fails (``STOPPED``).

    Raises:
        RolloutError: the task raised, or returned a reward that is not finite.
        ValueError: the rule of ``rollout_states`` needs ``view_seeds`` and there is none, or names turns that are none.
    """
    rule = find_branching(rollout.rollout_states)
    if rollout.num_rollout_states and (rule.needs_values or rule.needs_entropies) and view_seeds is None:
        raise ValueError(
            f"rollout_states {rollout.rollout_states!r} needs a view of the seed trajectories: pass view_seeds"
        )
    counters = counters if counters is not None else RolloutCounters()
    per_seed = 1 + rollout.num_rollout_states * rollout.num_vines
    branching, trees = rollout.num_rollout_states > 0, []
    seeds: list[tuple[Tree, int, Start, _Live]] = []
    for start in starts:
        tree = Tree(start_state=start.start_state, prompt_ids=())
        trees.append(tree)
        for s in range(rollout.num_seeds if start.num_seeds is None else start.num_seeds):
            key = SampleKey(run_seed, start.start_state, start.attempt, s * per_seed)
            live = _open(
                task, renderer, generator, start, key, forkable=branching, keep_points=branching or keep_snapshots
            )
            tree.prompt_ids = live.prompt_ids
            tree.seeds.append(live.trajectory)
            tree.vines.append([])
            seeds.append((tree, s, start, live))

    def keep(live: _Live) -> None:
        if keep_snapshots:
            _keep_snapshots(live)
        if not branching:
            generator.close([live.branch])

    for offset in range(0, len(seeds), max_branches):
        _run(task, renderer, generator, [s[-1] for s in seeds[offset : offset + max_branches]], counters, keep, stops)
    if branching:
        views = _views([live.trajectory for *_, live in seeds], task.horizon, rollout, view_seeds and view_seeds(trees))
        kept = keep_snapshots and rule.whole_episodes
        _grow_vines(task, renderer, generator, seeds, views, rollout, run_seed, max_branches, counters, kept, stops)
    return trees


def _keep_snapshots(live: _Live) -> None:
    live.trajectory.snapshots = [snapshot for snapshot, _ in live.points]


def _views(
    seeds: Sequence[Trajectory], horizon: int, rollout: RolloutConfig, known: list[list[SeedView]] | None
) -> list[SeedView]:
    """What the rule of ``rollout_states`` sees of each seed trajectory; ``known``: by tree, None: its length."""
    if known is None:
        views = [SeedView(branch_points(seed, rollout)) for seed in seeds]
    else:
        views = [view for own in known for view in own]
    if rollout.branch_at == "token":
        return views
    most = [horizon - seed.first_turn for seed in seeds]
    return [view._replace(most_turns=turns) for view, turns in zip(views, most, strict=True)]


def branch_points(trajectory: Trajectory, rollout: RolloutConfig) -> int:
    """How many places of a seed trajectory vines can branch at: its turns, or the tokens of its one answer."""
    return len(trajectory.turns[0].action_ids) if rollout.branch_at == "token" else len(trajectory.turns)


def _grow_vines(
    task, renderer, generator, seeds, views, rollout, run_seed, max_branches, counters, kept, stops
) -> None:
    """Fork N vines at each of the p rollout states of every seed trajectory and run them to their end; ``kept``: they
    keep snapshots."""
    per_seed = 1 + rollout.num_rollout_states * rollout.num_vines
    rule = find_branching(rollout.rollout_states)
    vines: list[_Live] = []
    for (tree, s, start, live), view in zip(seeds, views, strict=True):
        for k, place in enumerate(rule.turns(view, rollout.num_rollout_states)):
            turn, token = (0, place) if rollout.branch_at == "token" else (place, 0)
            snapshot, length = live.points[turn]
            group = []
            for i in range(rollout.num_vines):
                key = SampleKey(
                    run_seed, start.start_state, start.attempt, s * per_seed + 1 + k * rollout.num_vines + i
                )
                trajectory = Trajectory(parent=live.trajectory, branch_turn=turn, branch_token=token)
                with _naming(task, start.start_state, turn, "while restoring a snapshot"):
                    episode = task.restore(snapshot)
                branch = generator.fork(live.branch, length + token, key, begun=token)
                vines.append(_Live(episode, branch, trajectory, tree.prompt_ids, kept))
                group.append(trajectory)
            tree.vines[s].append(group)
        generator.close([live.branch])

    def finished(live: _Live) -> None:
        _keep_snapshots(live)
        generator.close([live.branch])

    for offset in range(0, len(vines), max_branches):
        _run(task, renderer, generator, vines[offset : offset + max_branches], counters, finished, stops)


def _open(task, renderer, generator, start: Start, key: SampleKey, *, forkable=False, keep_points=False) -> _Live:
    """A fresh episode and its branch, or one that goes on from a root."""
    if (root := start.root) is not None:
        with _naming(task, start.start_state, len(root.turns), "while restoring a snapshot"):
            episode = task.restore(root.snapshot)
        ids = [*root.prompt_ids, *(i for turn in root.turns for i in (*turn.whole_ids, *turn.feedback_ids))]
        branch = generator.open(ids, key, forkable=forkable)
        return _Live(episode, branch, Trajectory(root=root), root.prompt_ids, keep_points)
    with _naming(task, start.start_state, 0, "at its start"):
        episode = task.start(start.start_state)
        observation = episode.observation()
    prompt_ids = read_ids = renderer.prompt_ids(observation)
    if start.hint:
        read_ids = renderer.prompt_ids(with_hint(observation, start.hint))
    branch = generator.open(read_ids, key, forkable=forkable)
    return _Live(episode, branch, Trajectory(), tuple(prompt_ids), keep_points)


def _run(
    task: Task,
    renderer: Renderer,
    generator: Generator,
    cohort: Sequence[_Live],
    counters: RolloutCounters,
    finished: Callable[[_Live], None],
    stops: Stops | None = None,
) -> None:
    """Run a cohort in lock-step to the end of every episode."""
    live = list(cohort)
    while live:
        for each in live:
            if each.keep_points:
                with _naming(task, each.episode.seed, each.episode.turn, "while taking a snapshot"):
                    each.points.append((each.episode.snapshot(), len(each.branch.ids)))
        samples = generator.sample([each.branch for each in live], [each.episode.turn for each in live])
        running = []
        for each, sample in zip(live, samples, strict=True):
            done = _step(task, renderer, generator, each, sample, stops)
            if done:
                counters.episodes += 1
                counters.invalid_actions += each.trajectory.invalid_actions
                finished(each)
            else:
                running.append(each)
        counters.env_steps += len(live)
        live = running


def _step(task, renderer, generator, live: _Live, sample, stops: Stops | None) -> bool:
    """Give one sampled action to the world, store the turn, extend the branch. True when the episode has ended."""
    episode, trajectory = live.episode, live.trajectory
    shared = trajectory.branch_token if not trajectory.turns else 0
    prefix_ids = trajectory.parent.turns[trajectory.branch_turn].action_ids[:shared] if shared else ()
    text, turn_number = renderer.action_text((*prefix_ids, *sample.ids)), episode.turn
    with _naming(task, episode.seed, turn_number, f"after action {text[:60]!r}"):
        invalid = episode.invalid_actions
        step = episode.step(text)
        reward = float(step.reward)
        observation = None if step.done else episode.observation()
        signature = as_strategy(episode.signature(trajectory.first_turn)) if step.done else None
        trajectory.invalid_actions += episode.invalid_actions - invalid
    if not math.isfinite(reward):
        raise RolloutError(
            f"task {task.name!r} returned reward {reward} in turn {turn_number} of start state {episode.seed} "
            f"after action {text[:60]!r}: rewards must be finite, mend the task's reward."
        )
    turn = Turn(sample.ids, sample.logprobs, reward, (), prefix_ids, sample.entropies, sample.hidden)
    trajectory.turns.append(turn)
    if step.done:
        trajectory.stop_reason, trajectory.signature = step.stop_reason, signature
    else:
        turn.feedback_ids = renderer.feedback_ids(observation, turn.whole_ids)
        if stops is not None and stops(episode.seed, trajectory):
            with _naming(task, episode.seed, turn_number, "when it was stopped"):
                trajectory.signature = as_strategy(episode.signature(trajectory.first_turn))
            trajectory.stop_reason, turn.feedback_ids = STOPPED, ()
            return True
        generator.extend(live.branch, turn.feedback_ids)
    return step.done
