"""Every start state gets its turn: attempts of any two differ by at most 1 after every update, whatever it grew."""

import random
from collections import Counter

import pytest

from polytune.rollout import Start
from polytune.trainer.budget import grow_to_budget
from polytune.trainer.schedule import StartSchedule, blank_prompts


class Processes:
    """A run of several processes that share a budget; each has a schedule of its own, as in a real run."""

    def __init__(self, draw: random.Random, processes: int, states: int, seed: int):
        self.draw, self.states, self.seed = draw, states, seed
        self.grown: list[Start] = []
        self.schedules = [StartSchedule(range(states), seed) for _ in range(processes)]

    def die_and_resume(self, processes: int):
        """From what a checkpoint holds: the cursor."""
        cursor = self.schedules[0].cursor
        self.schedules = [StartSchedule(range(self.states), self.seed) for _ in range(processes)]
        for schedule in self.schedules:
            schedule.cursor = cursor

    def update(self, room: int, mean: float, known: float | None):
        """One update of trees whose size varies a lot; returns (its trees per process, their mean size)."""
        processes, spent, own = len(self.schedules), 0, [[] for _ in self.schedules]

        def grow(count):
            nonlocal spent
            for rank, schedule in enumerate(self.schedules):
                own[rank] += schedule.take(count, rank, processes)
            steps = sum(self.draw.randint(1, int(2 * mean)) for _ in range(count))
            spent += steps
            return steps

        budget = self.draw.uniform(0, 1.5) * room * processes * mean
        trees = grow_to_budget(room * processes, grow, budget, known, least=processes)
        self.grown += [start for share in own for start in share]
        assert trees == sum(map(len, own)) and all(1 <= len(share) <= room for share in own)
        return own, spent / trees


@pytest.mark.parametrize("seed", range(60))
def test_no_start_state_is_passed_over(seed):
    """Budgets, tree sizes, rooms, processes, kills: after every update nobody is more than one attempt ahead."""
    draw = random.Random(seed)
    run = Processes(draw, draw.randint(1, 5), draw.choice([1, 2, 3, 7, 50]), seed)
    room, known = draw.randint(1, 12), None
    for _ in range(40):
        own, known = run.update(room, draw.choice([3, 40, 300]), known)
        counts = Counter(start.start_state for start in run.grown)
        attempts = [counts[state] for state in range(run.states)]
        assert max(attempts) - min(attempts) <= 1
        assert max(map(len, own)) - min(map(len, own)) <= 1
        assert len(set(run.grown)) == len(run.grown)  # no pair of start state and attempt twice
        assert run.schedules[0].met == len(counts) and run.schedules[0].passes == sum(attempts) / run.states
        if draw.random() < 0.2:
            run.die_and_resume(draw.randint(1, 5))
    whole = StartSchedule(range(run.states), seed).take(len(run.grown))
    assert sorted(run.grown) == sorted(whole)  # and what was grown is a beginning of the order


def test_the_order_is_that_of_shuffled_passes():
    """Written out, as runs before had it: a run without a budget meets the same start states as ever."""
    assert [start[:2] for start in StartSchedule([3, 5, 8], run_seed=1).take(9)] == [
        (5, 0), (8, 0), (3, 0), (3, 1), (5, 1), (8, 1), (5, 2), (8, 2), (3, 2),
    ]  # fmt: skip
    a, b = StartSchedule(range(50), 0), StartSchedule(range(50), 1)
    assert a.take(50) != b.take(50)


def test_trl_gets_a_row_for_each_tree_and_no_start_state():
    assert blank_prompts(6)["prompt"][:] == [""] * 6


def test_a_schedule_forgets_the_passes_that_are_over_and_finds_them_again():
    """Any position in any order is the same visit, and no more than one pass is held."""
    forward, back = StartSchedule([5, 7, 9], 3), StartSchedule([5, 7, 9], 3)
    visits = [forward.visit(i) for i in range(60)]
    assert [back.visit(i) for i in (59, 0, 31, 30, 2)] == [visits[i] for i in (59, 0, 31, 30, 2)]
    assert sorted(visit.start_state for visit in visits[57:]) == [5, 7, 9] and len(forward._order) == 3


def test_a_start_state_that_comes_twice_is_refused():
    """Both its visits in a pass would have one attempt number, and with it the same random numbers."""
    with pytest.raises(ValueError, match="start_states has 3, 8 more than once: name each one once"):
        StartSchedule([8, 3, 5, 3, 8], 0)
