"""Methods that look at an update as a whole: their hooks called by two processes, each with half of its trees, and by
one with all of them; two threads that add up and gather as accelerate does. As programs: test_processes.py.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from made_updates import beginning, tree

from polytune.methods import Beginning, Grown, Update
from polytune.methods.alp_gmm import ALPGMM
from polytune.methods.b_star import BStaR
from polytune.methods.bnpo import BNPO
from polytune.methods.context_rollouts import ContextRollouts
from polytune.methods.dynamic_rewards import DynamicRewards
from polytune.methods.early_stop import EarlyStop
from polytune.methods.f_dpg import FDPG
from polytune.methods.f_dpo import FDPO
from polytune.methods.hpt import HPT
from polytune.methods.kl_cov import KLCov
from polytune.methods.knapsack import Knapsack
from polytune.methods.lp_reg import LpReg
from polytune.methods.nft import NFT
from polytune.methods.recall_extend import RecallExtend
from polytune.rollout import Trajectory, Tree, Turn

#: trees of the updates, by (start state, wins)
UPDATES = (((0, 1), (1, 3), (2, 0), (3, 4)), ((2, 2), (0, 4), (1, 0), (3, 1)), ((1, 2), (2, 1), (3, 3), (0, 2)))


class Together:
    """What processes of one run share."""

    def __init__(self, processes):
        self.lists, self.barrier = [None] * processes, Barrier(processes, timeout=60)

    def gather(self, process, own):
        self.lists[process] = list(own)
        self.barrier.wait()
        every = [item for one in self.lists for item in one]
        self.barrier.wait()
        return every

    def sum(self, process, numbers):
        self.lists[process] = list(numbers)
        self.barrier.wait()
        total = [sum(column) for column in zip(*self.lists, strict=True)]
        self.barrier.wait()
        return total


def update(number, places, process, together):
    """The trees at ``places`` of an update, numbers of tokens by start state and member."""
    trees = [tree(*UPDATES[number][place]) for place in places]
    values = [[(state + 1) * 0.1 + i * 0.01 + number * 0.05] for state, _ in (UPDATES[number][p] for p in places)
              for i in range(4)]  # fmt: skip
    index, told = torch.zeros(len(values), 1, dtype=torch.long), {}
    made = Update(
        seed=0, trees=trees, turns_mask_B_T=index == 0, turn_index_B_C=index, logprobs_B_C=-torch.tensor(values),
        groups_G_N=[range(4 * i, 4 * i + 4) for i in range(len(trees))], scored_B_T=index == 0, progress=number / 3,
        probed={"recall_extend/entropy": torch.tensor(values), "lp_reg/log_q": -torch.tensor(values) / 2},
        reference_B_C=-2 * torch.tensor(values),
        sum=lambda numbers: together.sum(process, numbers), gather=lambda own: together.gather(process, own),
        record=told.__setitem__,
        score=lambda rows: [([-1.0, -1.0], [1.0 / (number + 1), 0.5 + row.prompt_ids[0]]) for row in rows],
    )  # fmt: skip
    return made, told


def refined(trees):
    def grow(starts):
        wins = [Trajectory(turns=[Turn((7, start.start_state), (-0.1, -0.1), 1.0)]) for start in starts]
        return [Tree(start.start_state, (9,), [one], [[]]) for start, one in zip(starts, wins, strict=True)]

    return grow


def process_of(method, process, processes, together):
    """What one process sees: rows, what is logged, and what is remembered."""
    states = beginning(range(4))
    method.begin(Beginning(states.start_states, states.grow, states.demonstrate, lambda rows: [([0.0] * 2,) * 2] * 4))
    seen = []
    for number in range(len(UPDATES)):
        made, told = update(number, range(process, 4, processes), process, together)
        if method.has("again"):
            score = lambda rows: [([-1.0] * 2, [1.0] * 2)] * len(rows)  # noqa: E731
            method.again(Grown(made.trees, refined(made.trees), score, gather=made.gather, record=made.record))
        replayed = [(replace(row), gain) for row, gain in method.replay(2, number / 3)]
        bonus = torch.zeros(len(made.logprobs_B_C), 1, dtype=torch.float64) + method.reward(made)
        turns = method.turn_advantage(made, made.logprobs_B_C.double())
        sent = {}
        tokens = method.advantage(made, turns.float(), sent)
        method.learn(made)
        rows = torch.cat([bonus, turns, tokens, *sent.values()], dim=1)
        seen.append((rows.reshape(len(made.trees), -1), replayed, told))
    return seen, method.state()


@pytest.mark.parametrize(
    "build",
    [
        lambda: HPT(episodes=4), lambda: RecallExtend(episodes=4, accuracy=0.9), FDPG, FDPO, BNPO, BStaR, EarlyStop,
        lambda: ALPGMM(window=5, components=2, least=1), DynamicRewards, lambda: ContextRollouts(hint="x"),
        Knapsack, lambda: LpReg(share=0.5), lambda: KLCov(share=0.4), NFT,
    ],
    ids=["hpt", "recall_extend", "f_dpg", "f_dpo", "bnpo", "b_star", "early_stop", "alp_gmm", "dynamic_rewards",
         "context_rollouts", "knapsack", "lp_reg", "kl_cov", "nft"],
)  # fmt: skip
def test_two_are_as_one(build):
    [(alone, remembered)] = [process_of(build(), 0, 1, Together(1))]
    together = Together(2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda i: process_of(build(), i, 2, together), range(2))
    for one, left, right in zip(alone, first[0], second[0], strict=True):
        whole = torch.stack([left[0], right[0]], dim=1).flatten(0, 1)  # trees 0, 2 and 1, 3
        torch.testing.assert_close(whole, one[0])
        assert left[1] == right[1] == one[1]
        assert left[2] == right[2] == pytest.approx(one[2])
    for name, tensor in remembered.items():
        for other in (first[1], second[1]):
            torch.testing.assert_close(other[name], tensor)
    assert any(seen[0].abs().sum() > 0 for seen in alone)
