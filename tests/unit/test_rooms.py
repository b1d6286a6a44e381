"""The structure: arrows point to the left, light rooms stay light, costs stay as promised."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["config", "lookup", "terminal", "helptext", "tasks", "policy", "rollout", "objective", "methods", "trainer"]
ROOMS += ["evaluation", "export", "cli", "completion", "console"]
#: packages that only one room, or one module, may import
OWNED = {
    "trl": ("trainer/", "policy/chat.py"),  # chat.py: TRL's training templates
    "vllm": ("policy/vllm_generator.py",),
    "minigrid": ("tasks/",),
    "matplotlib": ("evaluation/",),
    "vl_convert": ("evaluation/report/page.py",),
}
#: programs, which nobody imports -> the rooms to their right that they may import, within functions
PROGRAMS = {
    # the promised command `python -m polytune.tasks.play` also shows policies, whose rooms lie to the right of tasks
    "tasks/play.py": ("evaluation",),
}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "polytune")
    return relative.parts[0].removesuffix(".py")


def imported_modules(path: Path, *, at_import: bool = False) -> set[str]:
    """All modules that a file imports; `at_import`: those that importing it imports, functions left out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if at_import and id(node) in inner:
            continue
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
    doors = PROGRAMS.get(str(path.relative_to(ROOT / "polytune")), ())
    early = imported_modules(path, at_import=True)
    for module in imported_modules(path):
        parts = module.split(".")
        through_a_door = len(parts) > 1 and parts[1] in doors and module not in early
        if parts[0] == "polytune" and len(parts) > 1 and not through_a_door:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {module}, which lies to its right"
        if parts[0] in OWNED:
            own = str(path.relative_to(ROOT / "polytune")).startswith(OWNED[parts[0]])
            assert own, f"{path} imports {parts[0]}, which belongs to {OWNED[parts[0]]}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_imports_a_program(program):
    name = f"polytune.{program.removesuffix('.py').replace('/', '.')}"
    room, _, module = name.rpartition(".")
    for path in [*SOURCES, *(ROOT / "recipes").glob("*.py")]:
        source = path.read_text()
        assert name not in imported_modules(path), f"{path} imports the program {name}"
        assert not re.search(rf"from {re.escape(room)} import .*\b{module}\b", source), f"{path} imports {name}"


def test_playing_loads_neither_torch_nor_matplotlib():
    code = (
        "import sys; from polytune.tasks import play; play.main(['fourrooms', '--expert']); "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'polytune.evaluation') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_only_the_vllm_generator_loads_vllm_and_late():
    """Importing the library, the trainer included, must not need it."""
    source = (ROOT / "polytune/policy/vllm_generator.py").read_text()
    assert not re.search(r"^(from|import) vllm", source, re.MULTILINE)


@pytest.mark.parametrize("module", ["polytune.config", "polytune.tasks", "polytune.tasks.splits"])
def test_light_rooms_load_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_loading_a_task_loads_no_torch():
    code = "import sys, polytune.tasks as t; t.load_task('fourrooms').start(0); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_recipes_are_short_and_have_a_launch_command():
    for path in sorted((ROOT / "recipes").glob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 150 or path.name == "bench.py", f"{path.name} is longer than 150 lines"
        assert f"recipes/{path.name}" in ast.get_docstring(ast.parse(text)), f"{path.name} shows no launch command"


def test_pyproject_holds_only_the_build_system():
    import tomllib

    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())) == {"build-system"}
