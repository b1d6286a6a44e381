"""Trackers that a run reports to, as transformers names them."""

TRACKERS = ("tensorboard", "trackio", "wandb")
