"""The tables of docs/results/faults.md, from data/results/campaign.json: ``python tests/campaign/page.py``."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT, PAGE = ROOT / "data/results/campaign.json", ROOT / "docs/results/faults.md"
BEGIN, END = "<!-- campaign.json -->\n", "<!-- end -->\n"


def tables(kept: dict) -> str:
    """What was tried, what survived, and how long an end took, in Markdown."""
    killed = [row for row in kept["ends"] if row["signal"] == "SIGKILL"]
    told = [row for row in kept["ends"] if row["signal"] != "SIGKILL"]
    made = kept["made"]
    lines = [
        f"Measured on {made['date']}, {made['cores']} cores, seed {made['seed']}: torch {made['versions']['torch']}, "
        f"transformers {made['versions']['transformers']}, TRL {made['versions']['trl']}, Python {made['python']}.",
        "",
        f"**SIGKILL: {_sum(killed, 'survived')} of {_sum(killed, 'tried')} survived.**",
        "",
        "| program | killed in | tried | survived | seconds to end, median (most) |",
        "|---|---|---|---|---|",
        *(f"| {row['program']} | {row['place']} | {row['tried']} | {row['survived']} | {_seconds(row)} |"
          for row in killed),
        "",
        f"**SIGTERM and SIGINT: {_sum(told, 'survived')} of {_sum(told, 'tried')} ended in time, said so in a line, "
        "and went on.**",
        "",
        "| program | signal | tried | survived | seconds to end, median (most) |",
        "|---|---|---|---|---|",
        *(f"| {row['program']} | {row['signal']} | {row['tried']} | {row['survived']} | {_seconds(row)} |"
          for row in told),
        "",
        "**Storage, processes, engines**",
        "",
        "| what | tried | survived | seconds for all |",
        "|---|---|---|---|",
        *(f"| {row['trial'].partition(' ')[2]} | {row['tried']} | {row['survived']} | {row['seconds']:.0f} |"
          for row in kept["others"]),
    ]  # fmt: skip
    if kept["problems"]:
        lines += ["", "What did not survive:", "", *(f"- {name}: {text}" for name, text in kept["problems"].items())]
    return "\n".join(lines) + "\n"


def _sum(rows: list[dict], name: str) -> int:
    return sum(row[name] for row in rows)


def _seconds(row: dict) -> str:
    if row["seconds_median"] is None:
        return ""
    return f"{row['seconds_median']:.1f} ({row['seconds_most']:.1f})"


def write(page: Path = PAGE, kept: Path = KEPT) -> None:
    text = page.read_text()
    middle = re.compile(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", re.DOTALL)
    page.write_text(middle.sub(lambda _: tables(json.loads(kept.read_text())), text))


if __name__ == "__main__":
    write()
