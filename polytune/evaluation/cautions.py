"""What a reader of an evaluation's figures should know first: that they are of few start states, of equal ones, of a
policy that mostly says nothing that the task can read, or of policies with unequal budgets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from polytune.evaluation.summary import counted
from polytune.meanings import MOST_INVALID

#: start states below which intervals stay wide, whatever is sampled: a rate of a half is told to about +- .22 by 20
FEW_STARTS = 20
#: share by which budgets may differ and still count as one: the last update ends where its trees do
EQUAL_BUDGETS = 0.05


def cautions(
    summary: Mapping[str, Any],
    different: int,
    starts: str = "start states",
    budgets: Mapping[str, int | None] = MappingProxyType({}),
) -> list[str]:
    """One line each.

    Args:
        summary: of :func:`polytune.evaluation.summary.summarise`.
        different: how many of its start states are different levels.
        starts: what the task calls them.
        budgets: environment steps that each policy was trained on, as far as known.
    """
    lines = []
    for policy, own in summary["policies"].items():
        rate = own["counts"]["invalid_rate"]
        if rate > MOST_INVALID:
            lines.append(
                f"{rate:.0%} of the turns of {policy} are no action of the task: its success may be that of actions at "
                "random. Pretrain it further (a higher target_success)."
            )
    total = next(iter(summary["policies"].values()))["counts"]["start_states"]
    if different < total:
        lines.append(
            f"{total:,} {starts}, but {counted(different, 'different level')}: equal ones count as new here, so the "
            "intervals are too narrow. Name each level once, and draw more samples of it."
        )
    if different < FEW_STARTS:
        lines.append(
            f"{counted(different, 'different level')}: so few leave intervals wide however often each is sampled. "
            "More of them tell more than more samples (--split, --num_start_states)."
        )
    known = {policy: steps for policy, steps in budgets.items() if steps}
    if known and min(known.values()) < (1 - EQUAL_BUDGETS) * max(known.values()):
        told = ", ".join(f"{policy} {steps:,}" for policy, steps in known.items())
        lines.append(f"trained on unequal numbers of environment steps ({told}): a difference may be theirs.")
    return lines
