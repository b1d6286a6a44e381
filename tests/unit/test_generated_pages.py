"""Pages made from the code: every row, field and figure is on one, families are known, Markdown is whole."""

import json
import re
import sys
from pathlib import Path

import pytest

from polytune.meanings import METRICS
from polytune.tables import BRANCHING, CREDIT, DIVERSITY, METHODS, OBJECTIVES, SET_NORMALISE

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))

sys.path.insert(0, str(ROOT / "docs/trees"))

import families  # noqa: E402
import named  # noqa: E402
import planets  # noqa: E402
import prose  # noqa: E402
import reference  # noqa: E402
import trees  # noqa: E402


@pytest.fixture(scope="module")
def pages():
    """All of them."""
    return dict([*families.pages(), *named.pages(), *reference.pages()])


def test_what_an_index_says_of_a_page_is_its_first_paragraph(pages):
    for path, text in pages.items():
        told = prose.lead(text)
        assert told and not told.startswith(("`" * 3, "#", "|")), f"{path}: {told[:80]!r}"
        assert "%%" not in text, path


def test_every_method_is_on_one_page(pages):
    for name in METHODS:
        assert families.family_of(name) in families.FAMILIES, f"{name}: unknown page {families.family_of(name)!r}"
        own = [path for path, text in pages.items() if f"\n### {name}\n" in text and "## Methods" in text]
        assert own == [f"methods/{families.family_of(name)}.md"]


#: the methods that were asked for, by name
WANTED = """
RepExp, RepExp as diversity, RepExp as chooser, DPH-RL, SubPO, Clip-Cov, KL-Cov, Lp-Reg, STEER, THR, EAD, Knapsack, VAS,
Go-Explore, Intelligent Go-Explore, SPEAR, EPO, VERL, EMPG, InfiGUI, Novelty archive, B-STaR, Words as Beacons, BC on
demonstrations, D3S, ALP-GMM, Trajectory weighting, Swarm sharing, Early stopping, Context-conditioned rollouts,
Duration weights, Step-GRPO, REC, RED (REC family), OPMD, AsymRE, BNPO, MDPO, ReMix, NFT, CoPG, OREAL, MRT, Dynamic
reward weights, HPT, Critique-GRPO, f-DPG, Chi-squared guard, SALSA, Implicit-reward SFT, RED (recall-extend), L2M,
PROPS, Nash Mirror Prox, Lite PPO, f-DPO, RPO, Tulu 3 RLVR, MaxRL, SetPO, Unsolved problems only
"""


def test_every_method_that_was_asked_for_has_its_file_tests_and_line(pages):
    """None is missing: a row or a recipe, tests of formula and effect, a verdict; or why it is not here."""
    every = [one for part in named.PARTS.values() for one in part]
    assert {" ".join(name.split()) for name in WANTED.split(",")} <= {one.name for one in every}
    assert {*METHODS} <= {one.run for one in every}
    missing = (ROOT / "docs/methods/not_here.md").read_text()
    for one in every:
        if not one.formula:
            assert f"\n## {one.name}, " in missing and "not_here.md" in one.told, one
            continue
        assert one.told or one.run, one
        assert not one.run or one.run in METHODS or (ROOT / named.recipe(one.run)).is_file(), one
        for test in (one.formula, one.effect):
            file, function = named.test_of(test)
            assert function in (ROOT / file).read_text(), f"{one.name}: {file} has no {function}"
    rows = [line for line in pages["methods/all.md"].splitlines() if line.startswith("| ") and "`test" not in line]
    assert len(rows) >= len(every) and not any("None" in row for row in rows)


def test_no_page_is_longer_than_a_written_one_may_be(pages):
    assert not {path: text.count("\n") for path, text in pages.items() if text.count("\n") > reference.MOST_LINES}


def test_a_long_page_of_the_api_becomes_two(pages, monkeypatch):
    monkeypatch.setattr(reference, "MOST_LINES", 20)
    (path, functions), (rest, classes) = reference.api_pages("measures")
    assert (path, rest) == ("reference/api-measures.md", "reference/api-measures-classes.md")
    named = re.findall(r"^## (\w+)$", functions + classes, re.MULTILINE)
    assert sorted(named) == sorted(re.findall(r"^## (\w+)$", pages[path], re.MULTILINE))


def test_a_new_method_appears_by_itself(monkeypatch):
    monkeypatch.setitem(METHODS, "another", METHODS["ead"]._replace(told="hotter still"))
    assert "\n### another\n" in families.family_page("sampling") and "hotter still" in families.papers_page()


def test_every_row_of_a_table_is_told_of(pages):
    told = "".join(pages[f"methods/{key}.md"] for key in families.FAMILIES)
    for name in [*OBJECTIVES, *DIVERSITY, *CREDIT, *SET_NORMALISE, *BRANCHING]:
        assert f"\n### {name}\n" in told


def test_every_figure_and_field_is_in_the_reference(pages):
    for name in METRICS:
        assert f"| `{name}` |" in pages["reference/metrics.md"]
    told = pages["reference/fields-finetune.md"] + pages["reference/fields-inherited.md"]
    for name in reference.fields():
        assert f"\n| `{name}` |" in told


@pytest.mark.parametrize("key", families.FAMILIES)
def test_what_a_family_names_is_there(key):
    family = families.FAMILIES[key]
    for start in family.fields:
        assert any(name.startswith(start) for name in reference.fields()), f"no field begins with {start}"
    for start in family.figures:
        assert any(name.startswith(start) for name in METRICS), f"no figure begins with {start}"


def test_papers_have_a_recipe_that_runs_them(pages):
    rows = [line for line in pages["methods/papers.md"].splitlines() if line.startswith("| [arXiv")]
    assert len(rows) > 40
    for row in rows:
        paths = re.findall(r"`(recipes/[^`]+)`", row)
        assert all((ROOT / path).is_file() for path in paths)
    for number in ("2509.25424", "2604.17654", "2505.15201", "2602.02710", "2602.01062"):  # Poly-PPO ... SetPO
        [row] = [row for row in rows if number in row]
        assert "`recipes/" in row, f"nothing runs {number}"


def test_pages_are_whole_markdown(pages):
    for path, text in pages.items():
        assert all((ROOT / recipe).is_file() for recipe in re.findall(r"--config (recipes/\S+)", text)), path
        assert text.startswith("# ") and text.count("\n```") % 2 == 0, path
        assert all(len(line) for line in text.rstrip().split("\n\n")), path


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Says a*b of\narXiv 2509.25424.", "Says a\\*b of [arXiv 2509.25424](https://arxiv.org/abs/2509.25424)."),
        ("Formula:\n    x = 1\n    y\nso.", "Formula:\n\n```text\nx = 1\ny\n```\n\nso."),
        ("Args:\n    x, y: two\n        numbers.", "**Arguments:**\n\n- `x, y`: two numbers."),
        ("One.\n\n>>> 1 + 1\n2", "One.\n\n```python\n>>> 1 + 1\n2\n```"),
        ("Kinds:\n\nhead    the one\nown     the other", "Kinds:\n\n```text\nhead    the one\nown     the other\n```"),
        ("A *kind* of a*b.", "A <em>kind</em> of a\\*b."),
        ("It is 0. Assumes that x < 1.", "It is 0. **Assumes** that x &lt; 1."),
    ],
)
def test_docstrings_become_markdown(docstring, expected):
    assert prose.as_markdown(docstring) == expected


@pytest.mark.parametrize("name", trees.SHAPES)
def test_committed_trees_are_small_and_whole(name):
    path = trees.TREES / f"{name}.json"
    assert path.stat().st_size < trees.MOST_BYTES
    found = json.loads(path.read_text())
    assert found["name"] == trees.SHAPES[name].title
    [tree] = found["trees"]
    members = [member for group in tree["groups"] for member in group.get("members", group.get("answers"))]
    assert (tree["map"] is None) == (name == "answer") and len(members) > 1
    assert any(member["a"] for member in members), "a tree whose sets all tie shows nothing"


def test_the_player_has_all_trees():
    page, html = trees.pages()
    assert page[0] == "learn/trees.md" and 'src="trees-player.html"' in page[1]
    assert html[0] == "learn/trees-player.html" and all(f'"{own.title}"' in html[1] for own in trees.SHAPES.values())
    assert "src=" not in html[1].split("<body>")[0], "it needs no other file"


def test_the_question_of_the_answers_tree():
    reward, signature = planets.names_three, planets.named
    assert reward("Mars, Venus, Mars, Earth", {}) == 1 and signature("Venus, Mars", {}) == "Mars, Venus"
    assert reward("Mars and Venus", {}) == 0 and signature("Pluto", {}) is None


NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_what_they_showed(path):
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run from its beginning"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" for output in outputs)
    assert path.stat().st_size < 300_000 and "".join(notebook["cells"][0]["source"]).startswith("# ")


def test_there_are_three_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"vines", "honest_pass_at_k", "own_world"}


def test_a_class_docstring_defines_names():
    doc = "A rule.\n\nof(x) -> (N,): the first\n    of them.\nlast: none."
    assert prose.as_markdown(doc, defines=True) == "A rule.\n\n- `of(x) -> (N,)`: the first of them.\n- `last`: none."
