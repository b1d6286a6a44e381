"""The reward and the signature of unit conversions: an example of own data (docs/how-to/own-language-model.md)."""

import re

#: unit -> what it measures, and how many of the smallest one it is
UNITS = {
    "mm": ("length", 1), "cm": ("length", 10), "m": ("length", 1000), "km": ("length", 1_000_000),
    "mg": ("mass", 1), "g": ("mass", 1000), "kg": ("mass", 1_000_000), "t": ("mass", 1_000_000_000),
    "s": ("time", 1), "min": ("time", 60), "h": ("time", 3600), "days": ("time", 86_400),
}  # fmt: skip


def read(answer):
    """(number, unit) that an answer names; None for any other text."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?) ?([a-z]+)\.?\s*", answer)
    return (float(found[1]), found[2]) if found and found[2] in UNITS else None


def reward(answer, row):
    """1 for the same quantity in another unit, else 0."""
    said = read(answer)
    if said is None or said[1] == row["unit"] or UNITS[said[1]][0] != row["kind"]:
        return 0.0
    wanted = row["value"] * UNITS[row["unit"]][1]
    return float(abs(said[0] * UNITS[said[1]][1] - wanted) <= 1e-3 * wanted)


def unit(answer, row):
    """Two answers are the same way when they name the same unit; None where they name none."""
    said = read(answer)
    return said[1] if said else None
