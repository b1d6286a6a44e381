"""A hook of the site's build: pages made from the code join it, in the menu and on their section's index."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import families  # noqa: E402
import menu  # noqa: E402
import named  # noqa: E402
import notebooks  # noqa: E402
import reference  # noqa: E402
import trees  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from prose import lead, title  # noqa: E402

#: folder -> the section in whose menu its pages stand, where that is another one
SHOWN_UNDER = {"notebooks": "learn"}


@cache
def pages() -> dict[str, str]:
    """path -> Markdown, or the HTML of a page that is whole."""
    texts = {path: text for path, text, _ in notebooks.pages()}
    return dict([*families.pages(), *named.pages(), *reference.pages(), *trees.pages()]) | texts


def pages_of(folder: str) -> list[str]:
    """Those that a section's menu has."""
    return [path for path in pages() if path.endswith(".md") and section_of(path) == folder]


def section_of(path: str) -> str:
    """The section to which a page belongs."""
    folder = path.split("/")[0]
    return SHOWN_UNDER.get(folder, folder)


def on_config(config: Any) -> Any:
    """Generated pages stand in the menu after those that are written."""
    for section in config.nav:
        for entries in section.values():
            if isinstance(entries, list):
                folder = entries[0].split("/")[0]
                entries += [path for path in pages_of(folder) if path not in entries]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Each generated page is a file of the build alone; one that is longer than a written one may be ends it."""
    for path, markdown in pages().items():
        if path.endswith(".md") and (lines := markdown.count("\n")) > reference.MOST_LINES:
            raise PluginError(f"{path} has {lines} lines, {reference.MOST_LINES} are allowed: make two pages of it.")
        files.append(File.generated(config, path, content=markdown))
    for _, _, pictures in notebooks.pages():
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A list of generated pages where an index asks for it."""
    folder = page.file.src_uri.split("/")[0]
    found = {path: pages()[path] for path in pages_of(folder)}
    listed = [f"- [{title(text)}]({os.path.relpath(path, folder)}): {lead(text)}" for path, text in found.items()]
    return menu.with_generated(markdown, listed)
