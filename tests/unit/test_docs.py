"""The pages are true and whole: figures from result files, links, lengths, the tree, examples, quoted messages."""

import ast
import doctest
import functools
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))

import figures  # noqa: E402
import menu  # noqa: E402
import pictures  # noqa: E402
import tables  # noqa: E402

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in figures.pages()}
#: folders of one file a row, named as folders
ONE_FILE_A_ROW = ("diversity", "set_objectives", "credit", "methods")
FENCED = re.compile(r"^```.*?^```$|^(?: {4}[^\n]*\n)+", re.DOTALL | re.MULTILINE)
pages = pytest.mark.parametrize("name", PAGES)


#: tables that the benchmark of methods writes from its result
MADE = re.compile(r"<!-- tables: begin -->.*?<!-- tables: end -->", re.DOTALL)


def prose(text):
    """A page without its code, and without what is read from result files."""
    return FENCED.sub("", MADE.sub("", figures.BLOCK.sub("", figures.INLINE.sub("", text))))


@pages
def test_figures_are_those_of_the_result_files(name):
    assert figures.fill(PAGES[name], name) == PAGES[name], "run `python docs/site/figures.py`"


def test_a_figure_that_is_wrong_is_written_anew():
    wrong = "success <!-- = fourrooms_collapse:policies:ppo:success -->.999<!-- . -->"
    right = "success <!-- = fourrooms_collapse:policies:ppo:success -->.673 [.580,\N{NO-BREAK SPACE}.754]<!-- . -->"
    assert figures.fill(wrong, "page") == right


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a <!-- = nothing:policies -->1<!-- . -->", "no figure for 'nothing:policies'"),
        ("a <!-- = fourrooms_collapse:policies:ppp -->1<!-- . -->", "ppp"),
        ("<!-- = fourrooms_collapse:level -->.95<!-- . --> of them", "GitHub would show it as HTML"),
        ("<!-- table nothing -->\n<!-- end -->", "no figure for 'nothing'"),
    ],
)
def test_comments_that_name_no_figure_are_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        figures.fill(text, "page")


def test_figures_are_written_as_they_are_read():
    cell = {"estimate": -0.0004, "low": -0.0512, "high": 1.25}
    assert figures.interval(cell, sign=True) == ".000 [-.051,\N{NO-BREAK SPACE}1.250]"
    assert (
        figures.short(0.6725) == ".672"
        and figures.short(1.2, 2) == "1.20"
        and figures.short(0.043, sign=True) == "+.043"
    )
    assert figures.whole(12500.4) == "12,500" and figures.FORMATS["%"](0.154) == "15.4"


def test_tables_hold_every_policy_and_mark_what_is_resolved():
    told = tables.differences("fourrooms_collapse", "ppo", "success=success").splitlines()
    found = figures.look_up("fourrooms_collapse:differences:ppo")
    assert len(told) == 2 + len(found)
    for line, own in zip(told[2:], found.values(), strict=True):
        assert ("**" in line) == (own["success"]["low"] > 0 or own["success"]["high"] < 0)


@pages
def test_no_interval_is_typed(name):
    typed = re.findall(r"\[[+-]?\d*\.\d+,\s[+-]?\d*\.\d+\]", prose(PAGES[name]))
    assert not [text for text in typed if text != "[3, 14]"], "read it from its result file (docs/site/figures.py)"


def test_lengths():
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert not {name: text.count("\n") for name, text in PAGES.items() if text.count("\n") > 300}


@functools.cache
def anchors(path):
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {menu.github_slug(title.replace("`", ""), "-") for title in titles}


@pages
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[name])):
        assert not target.startswith(("http:", "https:", "/")), f"{target}: a page must be readable without a network"
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.is_file(), f"{target} is no file"
        assert not anchor or anchor in anchors(found.resolve()), f"{target} is no heading"


def test_every_page_is_linked_from_its_sections_index():
    for folder in menu.SECTIONS:
        index = ROOT / "docs" / folder / "index.md"
        linked = {(index.parent / target).resolve() for target in menu.LINK.findall(index.read_text())}
        assert {path for path in index.parent.rglob("*.md") if path != index} <= linked


@pytest.mark.parametrize("folder", ["methods", "reference"])
def test_an_index_says_where_generated_pages_are_until_they_are_built(folder):
    text = PAGES[f"docs/{folder}/index.md"]
    [told] = [found["told"] for found in menu.UNBUILT.finditer(text)]
    assert "`make docs`" in told and f"`outputs/site/{folder}/index.html`" in told
    built = menu.with_generated(text, ["- [A](a.md): one", "- [B](b.md): two"])
    assert "make docs" not in built and built.endswith("- [A](a.md): one\n- [B](b.md): two\n")


def test_every_picture_of_docs_is_drawn_by_the_command_and_shown():
    drawn = {f"{make.__name__}.png" for make in pictures.PICTURES_MADE}
    assert {path.name for path in (ROOT / "docs/pictures").iterdir()} == drawn
    assert all(any(f"pictures/{name}" in text for text in PAGES.values()) for name in drawn)


def test_a_picture_is_drawn(tmp_path):
    pictures.window().savefig(tmp_path / "window.png")
    assert (tmp_path / "window.png").stat().st_size > 5000


def test_tree_names_every_module_and_nothing_else():
    named = set(re.findall(r"[\w/]+\.py", PAGES["docs/contributing/tree.md"]))
    for path in (ROOT / "polytune").rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name not in ONE_FILE_A_ROW:
            assert path.name in named, f"docs/contributing/tree.md does not name {path.relative_to(ROOT)}"
    folders = ("polytune", "recipes", "data", "docs")
    existing = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert named <= existing, f"docs/contributing/tree.md names {named - existing}, which do not exist"


@pages
def test_code_on_pages_can_be_read(name):
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[name], re.DOTALL | re.MULTILINE):
        if language == "python":
            compile(code, name, "exec")
        if language == "jsonl":
            assert [json.loads(line) for line in code.splitlines()]


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if ">>> " in text])
def test_examples_say_what_comes_out(name):
    space = {}
    for example in doctest.DocTestParser().get_examples(PAGES[name]):
        if not example.want:
            exec(example.source, space)
            continue
        want, _, rounded = example.want.partition("#")
        found = eval(example.source, space)
        assert ast.literal_eval(want.strip()) == ([round(x, 4) for x in found] if rounded else found)


def test_the_wheels_description_needs_no_repository():
    described = re.search(r"^long_description = file: (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    assert not re.search(r"\]\((?!https://)|<img", PAGES[described]), (
        "a relative link leads nowhere on an index of packages"
    )


@functools.cache
def messages():
    """Every text of the code, with a mark where a value is put in."""
    told = []
    for path in (ROOT / "polytune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                told.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                told.append(node.value)
    return "\n".join(told)


QUOTED = [
    (name, line)
    for name, text in PAGES.items()
    for block in re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if "troubleshooting/" in name
]


@pytest.mark.parametrize(("name", "line"), QUOTED)
def test_quoted_messages_are_printed_by_the_code(name, line):
    for part in line.split("..."):
        assert part.strip() in messages(), f"{name} quotes {part.strip()!r}, which nothing prints"


def test_there_are_quoted_messages():
    assert len(QUOTED) > 30
