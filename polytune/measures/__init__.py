"""pass@k with its intervals, paired differences and crossings of curves, for records of any origin.

An import needs numpy alone; scipy is imported when an interval is asked for.
"""

from polytune.measures.intervals import mean_interval, paired_difference_interval
from polytune.measures.passk import coverage_ks, pass_at_k, pass_at_k_interval

__all__ = ["coverage_ks", "mean_interval", "paired_difference_interval", "pass_at_k", "pass_at_k_interval"]
