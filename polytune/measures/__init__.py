"""pass@k with its intervals, paired differences and crossings of curves: numpy alone, for records of any origin."""

from polytune.measures.intervals import mean_interval, paired_difference_interval
from polytune.measures.passk import coverage_ks, pass_at_k, pass_at_k_interval

__all__ = ["coverage_ks", "mean_interval", "paired_difference_interval", "pass_at_k", "pass_at_k_interval"]
