"""Hooks of the site's build: the menu from the pages' links, figures and pictures from data/results."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import figures  # noqa: E402
import menu  # noqa: E402
import tables  # noqa: E402, F401  (figures imports it when the folder is no longer on the path)
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

RESULTS = figures.RESULTS
#: what a browser fetches by itself
FETCHED = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc="?https?:[^>]*>(?:</script>)?|<link\b[^>]*href="?https?:[^>]*>"""
)


def on_config(config: Any) -> Any:
    """The menu, from the folders; anchors as GitHub makes them, so that links hold in both places."""
    config.mdx_configs["toc"]["slugify"] = menu.github_slug
    titles = {folder: menu.heading(menu.DOCS / folder / "index.md") for folder in menu.SECTIONS}
    config.nav = [{"polytune": "index.md"}, *({titles[folder]: menu.pages_of(folder)} for folder in menu.SECTIONS)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Pictures of data/results join the site: pages link them as they lie in the repository."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"data/results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Figures are read from the result files once more; the repository's ``../../data/`` is ``../data/`` here."""
    return figures.fill(markdown, page.file.src_uri).replace("](../../data/results/", "](../data/results/")


def on_post_build(config: Any) -> None:
    """The site needs no network: a page that would fetch something from elsewhere ends the build."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := FETCHED.search(path.read_text()):
            raise PluginError(f"{path} would fetch {found[0][:120]!r}: bring it along, or leave it out.")
