"""Evaluation: attempts kept as records, pass@k with its intervals, comparisons over start states, the coverage plot."""

from polytune.evaluation.intervals import mean_interval, paired_difference_interval
from polytune.evaluation.passk import coverage_ks, pass_at_k, pass_at_k_interval
from polytune.evaluation.summary import as_table, summarise, verdict

__all__ = [
    "as_table",
    "coverage_ks",
    "mean_interval",
    "paired_difference_interval",
    "pass_at_k",
    "pass_at_k_interval",
    "summarise",
    "verdict",
]
