"""Write the arithmetic data set: train.jsonl (with answers), its first rows alone, test.jsonl, README.md (its card).

Launch: python data/build_arithmetic.py
        python data/build_arithmetic.py --train 200 --test 100 --seed 1 --output_dir outputs/data/arithmetic
Same arguments, same bytes, on every machine. A problem names four numbers and a target, which at least three different
calculations reach (`polytune.tasks.rewards:calculation`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from polytune.places import DATA
from polytune.tasks.rewards import calculation

HIGHEST, COUNT, LARGEST_TARGET, FEWEST, SHOWN = 6, 4, 24, 3, 8
FIRST = 64  # rows of the short training file
CARD = """---
license: apache-2.0
pretty_name: polytune arithmetic
language:
- en
task_categories:
- text-generation
size_categories:
- n<1K
tags:
- countdown
- arithmetic
- synthetic
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
  - split: test
    path: test.jsonl
- config_name: short
  data_files:
  - split: train
    path: train_{first}.jsonl
  - split: test
    path: test.jsonl
---

# polytune arithmetic

Reach a target with four different numbers of 1 to {highest}, each used once, by + - * / and brackets: `{prompt}` is
answered by `{answer}`. Targets are 1 to {largest}; each is reached by {fewest} or more different calculations,
{mean:.1f} on average. Two answers are one calculation when they differ only in brackets and in the order of sums and
products.

| file | rows | columns |
|---|---|---|
| train.jsonl | {train:,} | prompt, numbers, target, answers |
| train_{first}.jsonl | {first:,} | the first {first} of these, with {first_lines:,} answers |
| test.jsonl | {test:,} | prompt, numbers, target |

`answers`: up to {shown} right ones, each another calculation, drawn at random; {lines:,} in train.jsonl. No problem
(sorted numbers and target) is trained on and tested. All draws come from Python's `random.Random({seed})`. Made by

    {command}

Grader and signature: `polytune.tasks.rewards:reaches_target`, `polytune.tasks.rewards:calculation`.
Generated, no source data.
"""


def expressions(numbers: tuple[int, ...]) -> Iterator[tuple[Fraction, str, int]]:
    """(value, text, 0 for a sum, 1 for a product, 2 for a number) of every way to combine all numbers."""
    if len(numbers) == 1:
        yield Fraction(numbers[0]), str(numbers[0]), 2
        return
    places = range(len(numbers))
    for size in places[1:]:
        for chosen in itertools.combinations(places, size):
            left = tuple(numbers[place] for place in chosen)
            right = tuple(numbers[place] for place in places if place not in chosen)
            for (a, text_a, kind_a), (b, text_b, kind_b) in itertools.product(expressions(left), expressions(right)):
                for operator, kind in (("+", 0), ("-", 0), ("*", 1), ("/", 1)):
                    if operator == "/" and b == 0:
                        continue
                    before = f"({text_a})" if kind_a < kind else text_a
                    after = f"({text_b})" if kind_b < kind or (kind_b == kind and operator in "-/") else text_b
                    value = {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b
                    yield value, f"{before}{operator}{after}", kind


def problems() -> dict[tuple[tuple[int, ...], int], dict[str, str]]:
    """(numbers, target) -> {calculation: its shortest text} of each problem with enough of them."""
    found: dict[tuple[tuple[int, ...], int], dict[str, str]] = {}
    for numbers in itertools.combinations(range(1, HIGHEST + 1), COUNT):
        for value, text in dict.fromkeys((value, text) for value, text, _ in expressions(numbers)):
            if value.denominator == 1 and 1 <= value <= LARGEST_TARGET:
                ways = found.setdefault((numbers, int(value)), {})
                way = calculation(text, {"numbers": numbers, "target": int(value)})
                ways[way] = min(ways.get(way, text), text, key=lambda t: (len(t), t))
    return {problem: ways for problem, ways in sorted(found.items()) if len(ways) >= FEWEST}


def write(folder: Path, train: int, test: int, seed: int, command: str) -> None:
    """The three files."""
    draw = random.Random(seed)
    found = problems()
    if train + test > len(found):
        raise SystemExit(f"there are {len(found):,} problems: lower --train or --test")
    chosen = draw.sample(list(found), train + test)
    rows = []
    for numbers, target in chosen:
        shuffled = draw.sample(numbers, COUNT)
        prompt = f"{' '.join(map(str, shuffled))} = {target} :"
        ways = list(found[numbers, target].values())
        answers = draw.sample(ways, min(SHOWN, len(ways)))
        rows.append({"prompt": prompt, "numbers": shuffled, "target": target, "answers": answers})
    for row in rows[train:]:
        del row["answers"]
    folder.mkdir(parents=True, exist_ok=True)
    first = rows[:train][:FIRST]
    for name, part in (("train", rows[:train]), (f"train_{len(first)}", first), ("test", rows[train:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
    lines, first_lines = (sum(len(row["answers"]) for row in part) for part in (rows[:train], first))
    mean = sum(len(found[problem]) for problem in chosen) / len(chosen)
    card = CARD.format(
        highest=HIGHEST, largest=LARGEST_TARGET, fewest=FEWEST, shown=SHOWN, mean=mean, train=train, test=test,
        lines=lines, first=len(first), first_lines=first_lines, seed=seed, command=command,
        prompt=rows[0]["prompt"], answer=rows[0]["answers"][0],
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(f"{folder}: {train:,} problems to train on with {lines:,} answers, {test:,} to test, of {len(found):,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=253)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=DATA / "arithmetic")
    given = parser.parse_args()
    named = [f" --{name} {getattr(given, name)}" for name in ("train", "test", "seed")
             if getattr(given, name) != parser.get_default(name)]  # fmt: skip
    write(given.output_dir, given.train, given.test, given.seed, f"python data/build_arithmetic.py{''.join(named)}")


if __name__ == "__main__":
    main()
