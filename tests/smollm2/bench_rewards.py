"""Rewards of the fine-tuning test: short answers without the letter e."""


def short(answer, row):
    return 1 / (1 + len(answer.split())) if "e" not in answer else 0.0
