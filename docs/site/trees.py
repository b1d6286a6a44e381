"""Three trees for the player in the documentation: FourRooms, GoTo, and an answer of a language model.

    python docs/site/trees.py            # all of them; make trees makes the policies first

Each is the tree that one update of a recipe logs, as the report draws it; they lie in docs/trees, and `player` is the
page that steps through them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TREES, MADE = ROOT / "docs/trees", ROOT / "outputs/trees"
#: of one tree's file
MOST_BYTES = 300_000


class Grown(NamedTuple):
    """A tree: what it is called, what is told of it, and the words of its `finetune`."""

    title: str
    told: str
    words: tuple[str, ...]


ONE_UPDATE = ("--num_updates", "1", "--save_updates", "1", "--steps_per_generation", "1", "--quiet")
FOUR_TREES = ("--per_device_train_batch_size", "68", "--max_env_steps", "100000")
QUESTION = (
    "path=docs/trees/question.jsonl", "prompt=messages", "reward=docs.trees.planets:names_one",
    "signature=docs.trees.planets:named", "max_tokens=40",
)  # fmt: skip
SHAPES: dict[str, Grown] = {
    "fourrooms": Grown(
        "FourRooms",
        "The quick start's policy walks from one room to a goal in another; vines leave its way at two turns. "
        "Colours are the sets of rooms that an attempt saw.",
        ("--config", "recipes/fourrooms/poly_ppo_equally_spaced.yaml", "--task_horizon", "40", *FOUR_TREES),
    ),
    "goto": Grown(
        "BabyAI GoTo",
        "Nine rooms with doors, and a mission in words. The policy sees only what is before it.",
        ("--config", "recipes/babyai/poly_ppo_equally_spaced.yaml", *FOUR_TREES),
    ),
    "answer": Grown(
        "An answer of a language model",
        "SmolLM2-135M-Instruct answers a question; vines leave its answer between two tokens and say it to its end "
        "anew. Signatures are the planets that they name.",
        (
            "--config", "recipes/arithmetic/grpo.yaml", "--model", "outputs/smollm2", "--task_args", *QUESTION,
            "--num_seeds", "1", "--num_rollout_states", "3", "--num_vines", "8", "--branch_at", "token",
            "--set_scope", "vines", "--objective", "polychromic", "--set_size", "4",
            "--per_device_train_batch_size", "25",
        ),
    ),
}  # fmt: skip


def grow(name: str) -> dict[str, Any]:
    """One update of the tree's recipe, and its tree as the report draws it."""
    from polytune.config import TaskConfig
    from polytune.report.tracks import trees_of
    from polytune.tasks.starts import task_of

    folder, shape = MADE / name, SHAPES[name]
    words = [*shape.words, *ONE_UPDATE, "--output_dir", str(folder)]
    subprocess.run([sys.executable, "-m", "polytune.app.finetune", *words], check=True, cwd=ROOT)
    settings = json.loads((folder / "run.json").read_text())
    lines = [json.loads(line) for line in (folder / "trees.jsonl").read_text().splitlines()]
    return {"name": shape.title, "trees": list(trees_of(task_of(TaskConfig(**settings["task"])), lines, signed=True))}


def player() -> str:
    """The page: the report's player with the trees of docs/trees."""
    from polytune.report.page import Page, as_html

    page = Page("Trees of vines", "One update each: what was tried from one start state, and what it was credited.")
    section = page.section("vines", "Step through", "The buttons, the slider or the arrow keys go from turn to turn.")
    section.parts.append(page.widget("vines", [json.loads((TREES / f"{name}.json").read_text()) for name in SHAPES]))
    return as_html(page)


def pages() -> Iterator[tuple[str, str]]:
    """(path, Markdown or HTML): the player, and the page of the documentation that holds it."""
    told = "\n".join(f"- **{shape.title}.** {shape.told}" for shape in SHAPES.values())
    yield "learn/trees-player.html", player()
    yield (
        "learn/trees.md",
        (
            "# A tree in the browser\n\n"
            "Three trees of vines, each from one update of a recipe: choose one, and step through its turns. "
            "[The player alone](trees-player.html) fills the window.\n\n"
            f"{told}\n\n"
            '<iframe src="trees-player.html" title="trees of vines" loading="lazy" '
            'style="width:100%;height:60rem;border:1px solid #8888;border-radius:.3rem"></iframe>\n\n'
            "A number on the thick line is a rollout state. `make trees` grows them again; every run keeps about ten of its "
            "own trees, and `report.html` shows them the same way.\n"
        ),
    )


def main(names: list[str]) -> None:
    """Grow all trees, or those that are named."""
    TREES.mkdir(exist_ok=True)
    for name in names or SHAPES:
        text = json.dumps(grow(name), separators=(",", ":"))
        if len(text) > MOST_BYTES:
            raise ValueError(
                f"the tree {name} takes {len(text):,} bytes, {MOST_BYTES:,} are allowed: grow a smaller one."
            )
        (TREES / f"{name}.json").write_text(text + "\n")
        print(f"docs/trees/{name}.json: {len(text):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
