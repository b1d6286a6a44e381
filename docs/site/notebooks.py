"""Run the notebooks of docs/notebooks from nothing, in a folder of their own.

    python docs/site/notebooks.py            # a check: what they show goes to outputs/notebooks
    python docs/site/notebooks.py --keep     # and into docs/notebooks, to be committed

A cell that raises ends it with its error. ``pages`` are the notebooks with what they showed last, as the site has them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS, SHOWN = ROOT / "docs/notebooks", ROOT / "outputs/notebooks"
#: seconds after which a cell is given up, on a machine that others use as well
LIMIT = 1500


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; nbclient's error names the cell that raised."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=LIMIT, resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_kept, cell.outputs) if output]
    return notebook


def _kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without what only a terminal shows: progress, notes of libraries on stderr, bars that move."""
    if output.output_type != "stream":
        return None if "<progress" in "".join(output.get("data", {}).get("text/html", "")) else output
    if output.name == "stderr":
        return None
    output.text = "".join(line.split("\r")[-1] for line in output.text.splitlines(keepends=True))
    return output if output.text.strip() else None


def pages() -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """(path, Markdown, pictures beside it) of every notebook as it is committed."""
    from nbconvert import MarkdownExporter

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        exporter = MarkdownExporter()
        settings = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        text, resources = exporter.from_notebook_node(nbformat.read(path, as_version=4), resources=settings)
        title, rest = text.lstrip().split("\n", 1)
        link = f"[This page is a notebook]({path.name}); `make notebooks` runs it."
        yield f"notebooks/{path.stem}.md", f"{title}\n\n{link}\n{rest}", resources["outputs"]


def main(words: list[str]) -> None:
    """Run all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="without .ipynb; none: all of them")
    parser.add_argument("--keep", action="store_true", help="write what they show into docs/notebooks")
    options = parser.parse_args(words)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    SHOWN.mkdir(parents=True, exist_ok=True)
    for name in options.names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        begun = time.perf_counter()
        notebook = run(NOTEBOOKS / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        nbformat.write(notebook, (NOTEBOOKS if options.keep else SHOWN) / f"{name}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
