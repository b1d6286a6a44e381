"""Everything about a policy on a tiny world, computed: values, pass@k, entropies, E[f] of sets, gradients, optima.

A policy is a table `probs_S_A`: one row for each state in which a decision is due (a history of actions), one column
for each action and a last one, `JUNK`, for all text that is no action. A trajectory tau has probability
P(tau) = prod_t pi(a_t | s_t), and for n independent trajectories and a symmetric f

    E[f] = sum over multisets G of n!/prod(m_k!) * prod q_k^m_k * f(G)      (k: kinds of equal outcomes, q_k: P(kind))
    g(tau) = E[f(tau, tau_2, ..., tau_n)]                                   (one member given)
    d E[f] / d logits = n * sum_tau P(tau) g(tau) d log P(tau) / d logits   (score function identity)

The last line is what a set advantage estimates: with N independent trajectories, all sets of n of them and the mean
rule, the mean over members of A_i d log P(tau_i) has the expectation (1 - n/N)/n * d E[f]/d logits, since the baseline
holds each member in a share n/N of its sets. Numpy only, float64. Axes: `S` states, `A` actions and `JUNK`, `O`
outcomes (trajectories), `T` turns, `K` kinds of outcomes, `M` multisets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polytune.tasks.base import Task

JUNK = ""
"""Stands for every text that is no action."""
MAX_OUTCOMES = 10_000
MAX_MULTISETS = 1_000_000

SetFunction = Callable[[Sequence[float], Sequence[Hashable | None]], float]
"""f(rewards, signatures) of one set, symmetric in its members."""


class Outcome(NamedTuple):
    """One trajectory: the actions up to its end, or up to the first `JUNK`, after which nothing can be won."""

    actions: tuple[str, ...]
    reward: float
    success: bool
    signature: Hashable | None


@dataclass(frozen=True)
class World:
    """All trajectories from one state of a task. `state_O_T`, `choice_O_T`: row and column of each decision of each
    outcome, -1 after its end."""

    actions: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    outcomes: tuple[Outcome, ...]
    state_O_T: np.ndarray
    choice_O_T: np.ndarray

    @property
    def rewards_O(self) -> np.ndarray:
        """Return of each outcome, (O,)."""
        return np.array([outcome.reward for outcome in self.outcomes])

    @property
    def success_O(self) -> np.ndarray:
        """1 for outcomes that succeed, else 0, (O,)."""
        return np.array([outcome.success for outcome in self.outcomes], dtype=float)


def tabulate(task: Task, seed: int = 0, after: Sequence[str] = ()) -> World:
    """Play every action sequence of `task` from the start state `seed`, or, `after` some actions, from where they lead
    (a rollout state: rewards and signatures are then those of the continuation alone, as a vine's).

    Raises ValueError if something can be won after `JUNK` (give the task no more turns than it needs: then one table
    cannot describe the policy, which sees what the junk was), or if there are more than MAX_OUTCOMES trajectories.
    """
    root = task.start(seed)
    for action in after:
        root.step(action)
    if root.done:
        raise ValueError(f"no decision is due in task {task.name!r} after {tuple(after)!r}: the episode is over")
    states, outcomes = [], []
    stack = [(tuple(after), root.snapshot(), 0.0)]
    while stack:
        history, snapshot, earned = stack.pop()
        states.append(history)
        children = []
        for action in (*task.actions, JUNK):
            episode = task.restore(snapshot)
            step = episode.step(action)
            reward, taken = earned + step.reward, (*history, action)
            if action == JUNK and (step.reward or not _hopeless(task, episode, len(after))):
                raise ValueError(
                    f"task {task.name!r} with horizon {task.horizon} lets an episode go on after text that is no "
                    f"action: set its horizon to the number of decisions"
                )
            if not (step.done or action == JUNK):
                children.append((taken, episode.snapshot(), reward))
                continue
            signature = None if action == JUNK else episode.signature(len(after))
            outcomes.append(Outcome(taken[len(after) :], reward, step.stop_reason == "success", signature))
        stack += reversed(children)
        if len(outcomes) > MAX_OUTCOMES:
            raise ValueError(f"task {task.name!r} has over {MAX_OUTCOMES} trajectories: too many for a table")
    rows, columns = {state: row for row, state in enumerate(states)}, (*task.actions, JUNK)
    depth = max(len(outcome.actions) for outcome in outcomes)
    state_O_T, choice_O_T = (np.full((len(outcomes), depth), -1) for _ in range(2))
    for o, outcome in enumerate(outcomes):
        for t, action in enumerate(outcome.actions):
            state_O_T[o, t] = rows[(*after, *outcome.actions[:t])]
            choice_O_T[o, t] = columns.index(action)
    return World(tuple(task.actions), tuple(states), tuple(outcomes), state_O_T, choice_O_T)


def _hopeless(task: Task, episode, since_turn: int) -> bool:
    """Whether every continuation pays nothing and has no signature."""
    if episode.done:
        return episode.signature(since_turn) is None
    for action in (*task.actions, JUNK):
        after = task.restore(episode.snapshot())
        if after.step(action).reward or not _hopeless(task, after, since_turn):
            return False
    return True


# One trajectory


def softmax(logits_S_A: np.ndarray) -> np.ndarray:
    """Action probabilities, row by row."""
    exponentials = np.exp(logits_S_A - logits_S_A.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def path_probabilities(world: World, probs_S_A: np.ndarray) -> np.ndarray:
    """P(tau) of each outcome, (O,)."""
    steps_O_T = np.where(world.state_O_T >= 0, probs_S_A[world.state_O_T, world.choice_O_T], 1.0)
    return steps_O_T.prod(axis=1)


def success_rate(world: World, probs_S_A: np.ndarray) -> float:
    """Chance of a success under action probabilities (S, A)."""
    return float(path_probabilities(world, probs_S_A) @ world.success_O)


def pass_at_k(world: World, probs_S_A: np.ndarray, k: int) -> float:
    """1 - (1 - success)^k: the chance that one of k independent trajectories succeeds."""
    return 1.0 - (1.0 - success_rate(world, probs_S_A)) ** k


def distinct_wins(world: World, probs_S_A: np.ndarray, k: int) -> float:
    """Expected number of different winning signatures among k independent trajectories: sum_i 1 - (1 - p_i)^k."""
    winning = signature_probabilities(world, probs_S_A, success_only=True)
    return sum(1.0 - (1.0 - p) ** k for p in winning.values())


def decision_entropy(probs_S_A: np.ndarray) -> np.ndarray:
    """Entropy in nats of each decision, (S,); all junk counts as one action."""
    return -(probs_S_A * np.log(np.where(probs_S_A > 0.0, probs_S_A, 1.0))).sum(axis=1)


def path_entropy(world: World, probs_S_A: np.ndarray) -> float:
    """Entropy in nats of the trajectory. By the chain rule the reach-weighted sum of the decisions' entropies."""
    return float(decision_entropy(path_probabilities(world, probs_S_A)[None])[0])


def signature_probabilities(world: World, probs_S_A: np.ndarray, *, success_only: bool = False) -> dict:
    """Signature -> probability, `None` (no strategy) included unless only successes are counted."""
    totals: dict[Hashable | None, float] = {}
    for outcome, p in zip(world.outcomes, path_probabilities(world, probs_S_A), strict=True):
        if outcome.success or not success_only:
            totals[outcome.signature] = totals.get(outcome.signature, 0.0) + float(p)
    return totals


def gradient(world: World, probs_S_A: np.ndarray, values_O: np.ndarray) -> np.ndarray:
    """d/d logits of sum_tau P(tau) v(tau) with v held fixed, (S, A): sum_tau P v sum_t (1[a_t = a] - pi(a | s_t))."""
    weights_O = path_probabilities(world, probs_S_A) * values_O
    result_S_A = np.zeros_like(probs_S_A)
    for state_O, choice_O in zip(world.state_O_T.T, world.choice_O_T.T, strict=True):
        due = state_O >= 0
        np.add.at(result_S_A, (state_O[due], choice_O[due]), weights_O[due])
        np.add.at(result_S_A, state_O[due], -weights_O[due, None] * probs_S_A[state_O[due]])
    return result_S_A


# Sets of n trajectories


class SetObjective:
    """E[f] of n independent trajectories of a world. f is called once for each multiset of kinds of outcome.

    Two outcomes are of one kind if their rewards and signatures are equal. With K kinds there are C(K + n - 1, n)
    multisets; ValueError beyond MAX_MULTISETS.
    """

    def __init__(self, world: World, f: SetFunction, set_size: int):
        if set_size < 1:
            raise ValueError(f"set_size must be at least 1, got {set_size}")
        self.world, self.set_size = world, set_size
        kinds = list(dict.fromkeys((outcome.reward, outcome.signature) for outcome in world.outcomes))
        self.kind_O = np.array([kinds.index((outcome.reward, outcome.signature)) for outcome in world.outcomes])
        self.num_kinds = len(kinds)
        count = math.comb(len(kinds) + set_size - 1, set_size)
        if count > MAX_MULTISETS:
            raise ValueError(f"{count} multisets of {set_size} out of {len(kinds)} kinds of outcome are too many")

        def value(members: tuple[int, ...]) -> float:
            return float(f([kinds[k][0] for k in members], [kinds[k][1] for k in members]))

        scores = {m: value(m) for m in itertools.combinations_with_replacement(range(len(kinds)), set_size)}
        others = list(itertools.combinations_with_replacement(range(len(kinds)), set_size - 1))
        self.others_M_K = np.array([[m.count(k) for k in range(len(kinds))] for m in others])
        self.ways_M = np.array(
            [math.factorial(set_size - 1) / math.prod(map(math.factorial, row.tolist())) for row in self.others_M_K]
        )
        self.scores_K_M = np.array([[scores[tuple(sorted((k, *m)))] for m in others] for k in range(len(kinds))])

    def given_member(self, probs_S_A: np.ndarray) -> np.ndarray:
        """g(tau) = E[f | one member is tau] of each outcome, (O,)."""
        q_K = np.bincount(self.kind_O, path_probabilities(self.world, probs_S_A), minlength=self.num_kinds)
        weights_M = self.ways_M * (q_K**self.others_M_K).prod(axis=1)
        return (self.scores_K_M @ weights_M)[self.kind_O]

    def value(self, probs_S_A: np.ndarray) -> float:
        """E[f]."""
        return float(path_probabilities(self.world, probs_S_A) @ self.given_member(probs_S_A))

    def gradient(self, probs_S_A: np.ndarray) -> np.ndarray:
        """d E[f] / d logits, (S, A)."""
        return self.set_size * gradient(self.world, probs_S_A, self.given_member(probs_S_A))

    def ascend(self, probs_S_A: np.ndarray, *, steps: int = 20_000, rate: float = 2.0) -> np.ndarray:
        """The policy after `steps` of exact gradient ascent on the logits from `probs_S_A` (all above 0).

        Finds a stationary point: the optimum where E[f] has one only. Probabilities that vanish do so like 1/steps.
        """
        if not (probs_S_A > 0.0).all():
            raise ValueError("gradient ascent cannot raise a probability of 0: begin with all of them above 0")
        logits_S_A = np.log(probs_S_A)
        for _ in range(steps):
            logits_S_A = logits_S_A + rate * self.gradient(softmax(logits_S_A))
        return softmax(logits_S_A)


# The set functions that the trainer knows, written down a second time, from their definitions


def mean(rewards: Sequence[float], signatures: Sequence[Hashable | None]) -> float:
    """1/n sum r: standard RL."""
    return sum(rewards) / len(rewards)


def polychromic(rewards: Sequence[float], signatures: Sequence[Hashable | None]) -> float:
    """Mean reward x distinct signatures / n (arXiv 2509.25424; u/n as in arXiv 2604.17654)."""
    return mean(rewards, signatures) * len(set(signatures) - {None}) / len(signatures)
