"""The structure: arrows point to the left, light rooms stay light, costs stay as promised."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = [
    "digests",
    "errors",
    "markdown",
    "privacy",
    "places",
    "tables",
    "meanings",
    "checks",
    "schedule",
    "config",
    "recipe",
    "lookup",
    "terminal",
]
ROOMS += ["helptext", "tasks", "policy", "rollout", "objective", "methods", "measures", "running", "trainer", "run"]
ROOMS += ["evaluation", "pictures", "comparison", "report", "export", "app"]
#: packages that only one room, or one module, may import
OWNED = {
    "trl": ("trainer/", "policy/chat.py", "app/plain_trl.py"),  # chat.py: TRL's training templates
    "vllm": ("policy/vllm_generator.py",),
    "minigrid": ("tasks/",),
    "matplotlib": ("pictures/", "comparison/plot.py"),
    "vl_convert": ("report/page.py",),
    "jinja2": ("report/page.py",),
}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "polytune")
    return relative.parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """All modules that a file imports, within functions, too."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: name the room"
            names.add(node.module)
    return names


SOURCES = sorted(
    p for p in (ROOT / "polytune").rglob("*.py") if p.parent != ROOT / "polytune" or p.name != "__init__.py"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_to_the_left(path):
    room = room_of(path)
    assert room in ROOMS, f"{path} is in no known room"
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "polytune" and len(parts) > 1:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {module}, which lies to its right"
        if parts[0] in OWNED:
            own = str(path.relative_to(ROOT / "polytune")).startswith(OWNED[parts[0]])
            assert own, f"{path} imports {parts[0]}, which belongs to {OWNED[parts[0]]}"


def test_playing_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys; from polytune.app import play; play.main(['fourrooms', '--expert']); "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'polytune.pictures') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_only_the_vllm_generator_loads_vllm_and_late():
    """Importing the library, the trainer included, must not need it."""
    source = (ROOT / "polytune/policy/vllm_generator.py").read_text()
    assert not re.search(r"^(from|import) vllm", source, re.MULTILINE)


@pytest.mark.parametrize(
    "module", ["tables", "config", "tasks", "tasks.splits", "measures", "measures.crossed", "app.console"]
)
def test_light_rooms_load_no_torch(module):
    heavy = ("torch", "transformers", "vllm", "matplotlib", "minigrid", *(["scipy"] if "measures" in module else []))
    code = f"import sys, polytune.{module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_measures_need_numpy_alone():
    """Everything else that an import of the room loads is polytune's or Python's own."""
    code = (
        "import sys, numpy; before = set(sys.modules); import polytune.measures; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() in ("['polytune']", "['numpy', 'polytune']")


def test_loading_a_task_loads_no_torch():
    code = "import sys, polytune.tasks as t; t.load_task('fourrooms').start(0); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


LAUNCHERS = sorted((ROOT / "recipes").glob("*.py"))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda p: p.stem)
def test_recipes_launch_programs(path):
    assert path.read_text().endswith(f"""
from polytune.app.{path.stem} import main, run

if __name__ == "__main__":
    run(main)
"""), f"{path} does more than launch"
    assert len(path.read_text().splitlines()) == 6
    program = ROOT / "polytune/app" / path.name
    for own in (path, program):
        assert f"recipes/{path.name}" in ast.get_docstring(ast.parse(own.read_text())), f"{own}: no launch command"
    assert len(program.read_text().splitlines()) <= 300 and program.read_text().endswith("    run(main)\n")


PROGRAMS = [*(path.stem for path in LAUNCHERS), "play"]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("words", [["--help"], ["--sede", "1"]], ids=["help", "typo"])
def test_help_and_typos_load_nothing_heavy(name, words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', *{words!r}]\n"
        f"try: runpy.run_module('polytune.app.{name}', run_name='__main__')\n"
        "except SystemExit as end: print(f'\\n{end.code}', end=' ')\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == ("0 []" if words == ["--help"] else "2 []"), result.stderr


def test_pyproject_holds_only_the_build_system():
    import tomllib

    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())) == {"build-system"}
