"""The menu of the site, from the pages' own links, and the anchors of headings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prose import title

DOCS = Path(__file__).resolve().parents[1]
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
#: on an index.md: what is said where nothing was built, in whose place stand links to the section's generated pages
UNBUILT = re.compile(r"<!-- where the generated pages are -->\n(?P<told>.*?)<!-- generated pages -->", re.DOTALL)
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


def heading(path: Path) -> str:
    """The title of a page: its first heading."""
    return title(path.read_text()).strip()


def with_generated(markdown: str, listed: Sequence[str]) -> str:
    """An index with the links to generated pages in place of the words that say where they are."""
    return UNBUILT.sub(lambda _: "\n".join(listed), markdown)
