"""Evaluation: attempts kept as records, and what is told of them."""

from polytune.evaluation.summary import as_table, summarise, verdict

__all__ = ["as_table", "summarise", "verdict"]
