"""The campaign's page shows the figures that are kept, and its places are places of the programs."""

import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(f"campaign_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    return load(ROOT / "tests/campaign/page.py")


def test_the_page_has_the_tables_of_what_was_kept(page, tmp_path):
    kept = json.loads(page.KEPT.read_text())
    assert page.tables(kept) in page.PAGE.read_text(), "python tests/campaign/page.py writes it"
    killed = [row for row in kept["ends"] if row["signal"] == "SIGKILL"]
    tried, survived = (sum(row[name] for row in killed) for name in ("tried", "survived"))
    assert f"**SIGKILL: {survived} of {tried} survived.**" in page.PAGE.read_text()
    copy = tmp_path / "page.md"
    copy.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    page.write(copy)
    assert copy.read_text() == f"before\n{page.BEGIN}{page.tables(kept)}{page.END}after\n"


def test_what_did_not_survive_is_said(page):
    row = {"program": "export", "signal": "SIGKILL", "place": "proof", "tried": 2, "survived": 1,
           "seconds_median": 0.04, "seconds_most": 0.06}  # fmt: skip
    made = {"date": "2026-11-29", "cores": 2, "seed": 1, "python": "3",
            "versions": dict.fromkeys(("torch", "transformers", "trl"), "1")}  # fmt: skip
    kept = {"made": made, "ends": [row], "others": [], "problems": {"export proof": "run/README.md: a != b"}}
    text = page.tables(kept)
    assert "**SIGKILL: 1 of 2 survived.**" in text and "| export | proof | 2 | 1 | 0.0 (0.1) |" in text
    assert text.endswith("What did not survive:\n\n- export proof: run/README.md: a != b\n")


def test_programs_have_the_places_at_which_they_are_killed():
    sys.path.insert(0, str(ROOT / "tests/integration"))
    try:
        places = import_module("run_and_die").PLACES
    finally:
        sys.path.remove(str(ROOT / "tests/integration"))
    for program, own in places.items():
        assert (ROOT / f"recipes/{program}.py").is_file()
        for module, holder, name in own.values():
            owner = import_module(module) if holder is None else getattr(import_module(module), holder)
            assert callable(getattr(owner, name)), (program, name)
