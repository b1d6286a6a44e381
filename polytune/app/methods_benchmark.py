"""The methods of the field side by side: each one alone over GRPO and over Poly-EPO, at equal budgets, untuned.

    python recipes/methods_benchmark.py                               # all worlds, what is not done yet
    python recipes/methods_benchmark.py --worlds bandit --methods nft thr
    python recipes/methods_benchmark.py --report_only                 # pages and picture of what is done

Worlds are recipes/methods_benchmark/NAME_compare.yaml, their policies lie in data/results/runs/; methods every recipe
of recipes/methods/ and every row of METHODS without one, options as they stand there. Runs follow each other in this
process, a seed of every method first; each that ends is a line of OUTPUT_DIR/WORLD/runs.jsonl, and the same command
goes on with those that are missing. A recipe that has changed is run anew. Writes the JSON ``keep`` (runs, cells with
intervals, what is missing or refused), a picture beside it, and the tables into ``page``.
"""

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polytune.app.cli import parse, run, set_cpu_threads
from polytune.checks import require, require_once
from polytune.comparison.options import parse_seeds
from polytune.places import RECIPES, command

WORLDS = ["bandit", "two_step", "triangle", "fourrooms"]


@dataclass
class MethodsBenchmarkConfig:
    """Which methods the benchmark lays over its bases, on which worlds, and what it writes."""

    worlds: list[str] = field(default_factory=lambda: list(WORLDS), metadata={"help": f"Of {', '.join(WORLDS)}."})
    methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Only these are run: recipes of recipes/methods/ by name, other rows of METHODS, YAML files. "
            "Unset: each of these recipes and rows."
        },
    )
    winners_alone: list[str] = field(
        default_factory=lambda: ["fourrooms"],
        metadata={"help": "Worlds where a method runs only if it gained something in another one of the JSON."},
    )
    seeds: list[str] = field(
        default_factory=list,
        metadata={"help": "Of each world's seeds only these are run: how many (3), a range (3-4), a list. Unset: all."},
    )
    bases: list[str] = field(
        default_factory=list, metadata={"help": "Run over these bases alone (grpo, poly_epo). Unset: over all."}
    )
    level: float = field(default=0.95, metadata={"help": "Level of the intervals."})
    output_dir: str = field(default="outputs/methods_benchmark", metadata={"help": "Where runs and their lines go."})
    keep: str = field(
        default="data/results/methods_benchmark.json", metadata={"help": "The result; the picture lies beside it."}
    )
    page: str = field(default="docs/methods/benchmark.md", metadata={"help": "The page that gets the tables."})
    report_only: bool = field(default=False, metadata={"help": "Run nothing; write what is done."})

    def __post_init__(self) -> None:
        for world in (*self.worlds, *self.winners_alone):
            require(world in WORLDS, f"worlds has {world!r}: the worlds are {', '.join(WORLDS)}.")
        require_once("worlds", self.worlds)
        if self.seeds:
            parse_seeds(self.seeds)
        require(0.0 < self.level < 1.0, f"level must lie between 0 and 1, got {self.level}.")
        require(self.keep.endswith(".json"), f"keep must name a .json file, got {self.keep!r}.")


def main(argv: Sequence[str]) -> None:
    # ---------------------------------------------------------------- configuration
    (config,) = parse((MethodsBenchmarkConfig,), argv, description=__doc__)

    from polytune.comparison import benchmark, benchmark_cells, benchmark_page
    from polytune.comparison.keep import check_folder
    from polytune.comparison.overlay import overlays
    from polytune.comparison.run_store import BASE_ALONE

    seeds = parse_seeds(config.seeds) if config.seeds else None
    check_folder(config.keep)
    check_folder(config.page, "page")
    set_cpu_threads(1)
    asked = overlays(config.methods)
    laid = overlays() | asked  # what is not run now keeps its place in the result

    # ---------------------------------------------------------------- worlds: policy, what applies, runs
    kept = benchmark_page.read_kept(config.keep)
    try:
        for name in config.worlds:
            world = read_world(name, config)
            for base in config.bases:
                require((base, BASE_ALONE) in world.laid, f"bases has {base!r}: {name} has {', '.join(world.names)}.")
            world.lay(parse, laid)
            others = {other: own for other, own in kept["worlds"].items() if other != name}
            only = benchmark_cells.winners(others) if name in config.winners_alone else None
            store = benchmark.open_store(world, kept)
            try:
                if not config.report_only:
                    run_world(world, store, benchmark.wanted(world, only, asked), seeds, config.bases)
            finally:
                kept["worlds"][name] = benchmark_cells.world_summary(world, store, config.level, only)
                kept["runs"][name], before = benchmark.current_lines(world, store), kept["runs"].get(name, [])
                if gone := benchmark.outdated(before, kept["runs"][name]):
                    print(f"{name}: {gone} kept runs are of another recipe, start policy or method, and are left out.")
    finally:
        # ------------------------------------------------------------ JSON, picture, page
        benchmark_page.write_all(kept, config.keep, config.page, config.level, command("methods_benchmark", argv))
    print(f"{config.keep}, {Path(config.keep).with_suffix('.png')}, {config.page}")


def read_world(name: str, config: MethodsBenchmarkConfig):
    """A world with its bases."""
    from polytune.comparison.benchmark import World

    return World.read(parse, recipe_of(name), Path(config.output_dir) / name)


def recipe_of(name: str) -> Path:
    """The comparison of a world of the benchmark."""
    return RECIPES / "methods_benchmark" / f"{name}_compare.yaml"


def run_world(world, store, only, seeds: Sequence[int] | None, bases: Sequence[str] = ()) -> None:
    """Every run of these ``seeds`` (None: all) and ``bases`` (none: all) that is not done; what is refused or fails is
    not tried with further seeds."""
    from polytune.comparison.benchmark import due, measure_start, run_one
    from polytune.running.ending import lock

    with os.fdopen(lock(world.folder, what="another benchmark")):
        measure_start(world, store, call)
        planned, over = [key for key in due(world, store, only, seeds) if not bases or key[0] in bases], set()
        print(f"{world.name}: {len(planned)} runs to do", flush=True)
        began = time.monotonic()
        for number, (base, name, seed) in enumerate(planned, start=1):
            if (base, name) in over:
                continue
            line = run_one(world, base, name, seed, call)
            store.add(line)
            if "values" not in line:
                over.add((base, name))
            print(f"{time.monotonic() - began:7.0f} s  {number}/{len(planned)}  {told(world, line)}", flush=True)


def told(world, line: dict[str, Any]) -> str:
    """A line for the terminal."""
    name = f"{line['base']}{line['method'] and '+'}{line['method']} seed {line['seed']}"
    if "values" not in line:
        return f"{name}: {'refused' if 'refused' in line else 'failed'}: {line.get('refused', line.get('failed'))}"
    values = line["values"]
    found = (
        f"success {values['success']:.3f}, {values[world.coverage]:.2f} winners, {line['cpu_seconds']:.1f} CPU seconds"
    )
    return f"{name}: {found}"


def call(name: str, words: Sequence[str], log: Path) -> None:
    """A program in this process, what it prints appended to ``log``, the traceback of what it raises, too."""
    from polytune.app.calls import call_here
    from polytune.running.ending import as_a_part

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file), as_a_part():
        handlers = logging.getLogger().handlers[:]
        try:
            call_here(name, words)
        except BaseException:
            traceback.print_exc(file=file)
            raise
        finally:
            logging.getLogger().handlers[:] = handlers


if __name__ == "__main__":
    run(main)
