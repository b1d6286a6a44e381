"""Evaluation: pass@k with its intervals, and comparisons over problems."""

from polytune.evaluation.intervals import mean_interval, paired_difference_interval
from polytune.evaluation.passk import coverage_ks, pass_at_k, pass_at_k_interval

__all__ = ["coverage_ks", "mean_interval", "paired_difference_interval", "pass_at_k", "pass_at_k_interval"]
