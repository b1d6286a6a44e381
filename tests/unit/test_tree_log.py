"""trees.jsonl: which trees are kept, what a line says, what a resumed run drops."""

import json

import pytest
import torch

from polytune.rollout import Trajectory, Tree
from polytune.rollout.tree import Turn
from polytune.trainer.advantages import GroupStatistics, TurnAdvantages
from polytune.trainer.callbacks import KEPT_LOGS, MetricsFile, keep_until
from polytune.trainer.tree_log import LOGGED_UPDATES, is_due, tree_as_json


class Words:
    """A renderer of tokens that are their own text."""

    def action_text(self, ids):
        return " ".join(map(str, ids))


def trajectory(*actions, **fields):
    turns = [Turn((action,), (-0.5,), reward) for action, reward in actions]
    return Trajectory(turns=turns, **fields)


def test_about_ten_updates_are_kept_first_and_last_among_them():
    assert [u for u in range(1, 5) if is_due(u, 4)] == [1, 2, 3, 4]
    kept = [u for u in range(1, 26) if is_due(u, 25)]
    assert kept == [1, 3, 6, 9, 12, 15, 18, 21, 24, 25]
    for updates in (1, 10, 11, 99, 1000):
        kept = [u for u in range(1, updates + 1) if is_due(u, updates)]
        assert kept[0] == 1 and kept[-1] == updates and len(kept) <= LOGGED_UPDATES + 2


def test_a_tree_line_by_hand():
    seed = trajectory((7, 0.0), (8, 1.0), stop_reason="success", signature=frozenset("ba"))
    vines = [
        trajectory((9, 0.5), parent=seed, branch_turn=1, stop_reason="success", signature=("x",)),
        trajectory((6, 0.0), parent=seed, branch_turn=1, stop_reason="horizon", signature=None),
    ]
    tree = Tree(3, (1,), seeds=[seed], vines=[[vines]])
    numbers = torch.tensor([[9.0, 9.0], [0.0, 0.25], [0.125, 0.0], [0.0, 0.0]], dtype=torch.float64)
    by_set = torch.tensor([[False, False], [False, False], [True, False], [True, False]])
    by_critic = torch.tensor([[True, True], [False, True], [False, False], [False, False]])
    turns = TurnAdvantages(numbers, by_set, by_critic, numbers, by_set, None, GroupStatistics(), numbers, 1.0)
    [line] = tree_as_json(tree, Words(), turns, first_row=1)
    assert {key: line[key] for key in ("actions", "success", "return", "signature")} == {
        "actions": ["7", "8"], "success": True, "return": 1.0, "signature": ["a", "b"]
    }  # fmt: skip
    assert line["advantage"] is None and not line["by_set"]  # the first action was never scored
    [state] = line["states"]
    assert (state["turn"], state["token"]) == (1, 0)
    assert [vine["actions"] for vine in state["vines"]] == [["9"], ["6"]]
    assert [vine["advantage"] for vine in state["vines"]] == [0.125, 0.0]  # scored without signal is 0, not null
    assert [vine["signature"] for vine in state["vines"]] == [("x",), None]
    json.dumps(line)


@pytest.mark.parametrize("torn", ["", '{"step": 9, "x"'])
def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path, torn):
    path = tmp_path / "run" / "trees.jsonl"
    assert keep_until(path, 4) == []  # a fresh run: the folder is made
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (2, 4, 6)) + torn)
    assert keep_until(path, 4) == [{"step": 2}, {"step": 4}]
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'


def test_a_line_that_the_disk_has_damaged_is_told_and_the_others_stay(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xffp": 2}\n[3]\n{"step": 4}\n{"step": 5}\n{"step": 6, "half')
    assert keep_until(path, 5) == [{"step": 1}, {"step": 4}, {"step": 5}]
    assert path.read_text() == '{"step": 1}\n{"step": 4}\n{"step": 5}\n'
    told = capsys.readouterr().out.splitlines()
    assert [line.partition("metrics.jsonl ")[2][:22] for line in told] == [
        "line 2 is damaged and ",
        "line 3 is damaged and ",
    ]


def test_metrics_are_kept_on_the_disk_and_the_last_ones_in_memory(tmp_path):
    """A run of many updates grows in no list, and no checkpoint's state grows with it."""
    from transformers import TrainerState

    state, file = TrainerState(is_world_process_zero=True), MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, KEPT_LOGS + 50):
        state.global_step = step
        state.log_history.append({"loss": 0.5, "step": step})
        file.on_log(None, state, None, logs={"loss": 0.5})
        assert len(state.log_history) == min(step, KEPT_LOGS) and state.log_history[-1]["step"] == step
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, KEPT_LOGS + 50))
