"""Hooks of the site's build: the menu from the pages' links, figures and pictures from data/results."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import figures  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS.parent / "data/results"
#: folders in the menu's order; the order within one is that of the links on its index.md, and its title is that page's
SECTIONS = (
    "start",
    "learn",
    "how-to",
    "methods",
    "results",
    "reference",
    "troubleshooting",
    "contributing",
    "changes",
)
LINK = re.compile(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")


def github_slug(title: str, separator: str) -> str:
    """The anchor that GitHub gives a heading: lower case, letters, digits and hyphens, blanks become hyphens."""
    kept = re.sub(r"<[^>]+>", "", title)
    return re.sub(r"[^\w\- ]", "", kept.strip().lower()).replace(" ", separator)


def pages_of(folder: str) -> list[str]:
    """The pages of a section, its index first, in the order in which the index links them; the others after them."""
    index = DOCS / folder / "index.md"
    linked = [str((index.parent / link).resolve().relative_to(DOCS)) for link in LINK.findall(index.read_text())]
    own = sorted(str(path.relative_to(DOCS)) for path in (DOCS / folder).rglob("*.md") if path != index)
    ordered = [page for page in dict.fromkeys(linked) if page in own]
    return [f"{folder}/index.md", *ordered, *(page for page in own if page not in ordered)]


def on_config(config: Any) -> Any:
    """The menu, from the folders; anchors as GitHub makes them, so that links hold in both places."""
    config.mdx_configs["toc"]["slugify"] = github_slug
    titles = {folder: heading(DOCS / folder / "index.md") for folder in SECTIONS}
    config.nav = [{"polytune": "index.md"}, *({titles[folder]: pages_of(folder)} for folder in SECTIONS)]
    return config


def heading(path: Path) -> str:
    """The title of a page: its first heading."""
    return path.read_text().split("# ", 1)[1].split("\n", 1)[0].strip()


def on_files(files: Files, config: Any) -> Files:
    """Pictures of data/results join the site: pages link them as they lie in the repository."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"data/results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Figures are read from the result files once more; the repository's ``../../data/`` is ``../data/`` here."""
    return figures.fill(markdown, page.file.src_uri).replace("](../../data/results/", "](../data/results/")
