"""Three trees for the player in the documentation: FourRooms, GoTo, and an answer of a language model.

    python docs/site/trees.py            # all of them; `make trees` makes the policies first

Each is grown from one start state by a policy as it is, scored by sets of four, and drawn as the report draws it. They
lie in docs/trees; ``pages`` are the player and the page that holds it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / "docs/trees"
LEAD = (
    "The buttons, the slider or the arrow keys go from turn to turn. Advantages are what sets of four vines give; "
    "nothing was trained on these."
)
#: of one tree's file
MOST_BYTES = 300_000


class Grown(NamedTuple):
    """A tree: title and words for the page; policy, task and its options; where it grows, and in what shape."""

    title: str
    told: str
    policy: str
    task: str
    options: dict[str, Any]
    start: int
    run_seed: int
    shape: dict[str, Any]
    temperature: float = 1.0


QUESTION = {
    "path": "docs/trees/question.jsonl", "prompt": "messages", "reward": "planets:names_three",
    "signature": "planets:named", "max_tokens": 16,
}  # fmt: skip
SHAPES: dict[str, Grown] = {
    "fourrooms": Grown(
        "FourRooms",
        "The quick start's pretrained policy looks for a goal in four rooms; vines leave its way at two turns. "
        "Colours are the sets of rooms that an attempt saw.",
        "outputs/quickstart/pretrained", "fourrooms", {"horizon": 40}, 0, 0, {"num_rollout_states": 2},
    ),
    "goto": Grown(
        "BabyAI GoTo",
        "Nine rooms with doors, and a mission in words. The policy sees only what is before it.",
        "outputs/reproduce/babyai-goto_cpu/pretrained", "babyai-goto", {"horizon": 100}, 1, 0,
        {"num_rollout_states": 2},
    ),
    "answer": Grown(
        "An answer of a language model",
        "SmolLM2-135M-Instruct is asked for three planets, at temperature .6; vines leave its answer between two "
        "tokens and go on to its end anew. A signature is the planets that were named.",
        "outputs/smollm2", "dataset", QUESTION, 0, 0, {"num_rollout_states": 2, "branch_at": "token"}, 0.6,
    ),
}  # fmt: skip


def grow(name: str, **changes: Any) -> dict[str, Any]:
    """The tree as the report draws it; ``changes``: of its shape."""
    from polytune.config import ObjectiveConfig, RolloutConfig
    from polytune.pictures.replay import grow_tree, load_player
    from polytune.report.tracks import trees_of
    from polytune.tasks import load_task
    from polytune.trainer.advantages import turn_advantages
    from polytune.trainer.tree_log import tree_as_json

    shape = SHAPES[name]._replace(**changes)
    sys.path.insert(0, str(TREES))  # planets.py
    task = load_task(shape.task, **shape.options)
    player = load_player(task, shape.policy)
    player.generator.temperature = shape.temperature
    tree = grow_tree(task, shape.start, player, RolloutConfig(**shape.shape, num_vines=8), run_seed=shape.run_seed)
    turns = turn_advantages([tree], ObjectiveConfig(set_scope="vines", set_size=4, set_normalise="group_std"), None)
    line = {"update": 1, "env_steps": 0, "start_state": shape.start}
    line |= {"seeds": tree_as_json(tree, player.renderer, turns, 0)}
    return {"name": shape.title, "trees": list(trees_of(task, [line], signed=True))}


def player() -> str:
    """The page: the report's player with the trees of docs/trees."""
    from polytune.report.page import Page, as_html

    page = Page("Trees of vines", "What was tried from one start state, and what it was credited.")
    section = page.section("vines", "Step through", LEAD)
    section.parts.append(page.widget("vines", [json.loads((TREES / f"{name}.json").read_text()) for name in SHAPES]))
    return as_html(page)


def pages() -> Iterator[tuple[str, str]]:
    """(path, text): the page of the documentation, and the player that stands in it."""
    told = "\n".join(f"- **{shape.title}.** {shape.told}" for shape in SHAPES.values())
    yield (
        "learn/trees.md",
        "# A tree in the browser\n\n"
        "Three trees of vines: choose one, and step through its turns. "
        "[The player alone](trees-player.html) fills the window.\n\n"
        f"{told}\n\n"
        '<iframe src="trees-player.html" title="trees of vines" loading="lazy" '
        'style="width:100%;height:60rem;border:1px solid #8888;border-radius:.3rem"></iframe>\n\n'
        "A number on the thick line is a rollout state. `make trees` grows them again; every run keeps about ten of "
        "its own trees, and `report.html` shows them the same way.\n",
    )
    yield "learn/trees-player.html", player()


def main(names: list[str]) -> None:
    """Grow all trees, or those that are named."""
    for name in names or SHAPES:
        text = json.dumps(grow(name), separators=(",", ":"))
        if len(text) > MOST_BYTES:
            raise ValueError(f"the tree {name} takes {len(text):,} bytes; {MOST_BYTES:,} are allowed")
        (TREES / f"{name}.json").write_text(text + "\n")
        print(f"docs/trees/{name}.json: {len(text):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
