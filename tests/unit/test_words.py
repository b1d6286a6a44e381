"""The words of tables, of summary.json and of the training line stand on their page, and it names no other metric."""

import json
import re
from pathlib import Path

from polytune.evaluation.summary import as_table, signature_table, summarise
from polytune.meanings import METRICS
from polytune.trainer.callbacks import SHOWN, update_line

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/how-to/words.md").read_text()
EVALUATION, TRAINING = PAGE.split("\n## The line of an update\n")
FIRST = re.compile(r"^\| `?([^|`]+?)`? \| ", re.MULTILINE)


def record(policy, start, attempt):
    return {"policy": policy, "start_seed": start, "attempt": attempt, "greedy": attempt < 0,
            "success": attempt > start, "return": float(attempt > start), "turns": 2, "stop_reason": "horizon",
            "signature": [attempt], "invalid_actions": 1, "actions": "left left", "logprob": -1.0}  # fmt: skip


def generic(word):
    """pass@8 -> pass@k, cover@0.5 -> cover@tau."""
    return re.sub(r"^cover@[\d.]+$", "cover@tau", re.sub(r"^pass@\d+$", "pass@k", word))


def summary():
    records = [record(policy, start, attempt) for policy in "ab" for start in (0, 1) for attempt in range(-1, 6)]
    return summarise(records, ["a", "b"])


def test_every_word_of_an_evaluations_tables_is_on_the_page():
    told = set(FIRST.findall(EVALUATION))
    lines = [*as_table(summary()).splitlines()[2:], signature_table(summary()).splitlines()[0]]
    words = {generic(re.split(r"  +", line)[0]) for line in lines}
    assert {"success", "pass@k", "cover@tau", "entropy"} < words <= told


def test_every_key_of_a_summary_is_on_the_page():
    found = summary()
    keys = {*found, "counts", *(found["policies"]["a"]["counts"]), *found["pairs"][0]} | {
        *map(generic, found["policies"]["a"])
    }
    assert not {key for key in keys if f"`{key}`" not in EVALUATION}


def test_every_word_of_an_updates_line_is_on_the_page_with_its_metric():
    rows = dict(re.findall(r"^\| (.+?) \| `(.+?)` \| ", TRAINING, re.MULTILINE))
    assert rows == {title: metric for metric, title, _ in SHOWN}
    named = set(re.findall(r"`((?:rollout|groups|critic|actions|speed)/\w+)`", PAGE))
    assert named <= {*METRICS} and {"groups/distinct_share"} < named


def test_the_line_that_is_shown_is_one_of_the_quick_start():
    updates = json.loads((ROOT / "data/results/quickstart.json").read_text())["updates"]
    assert f"    {update_line(updates[2], 3, len(updates))}\n" in TRAINING
