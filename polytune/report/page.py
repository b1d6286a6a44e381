"""One HTML page that needs nothing else: styles, scripts, charts and data are in it, and it opens from disk."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from polytune.privacy import private
from polytune.report.charts import Spec
from polytune.running.provenance import write_text

HERE = Path(__file__).parent
#: text that is HTML already; any other text is escaped where a template puts it into the page
Html = Markup


@functools.cache
def _templates() -> Environment:
    """The templates of ``templates/``, which escape whatever is not HTML and refuse a name that they are not given."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # numbers that JSON has not are refused; fields keep their order
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return found


def part(name: str, *values: Any) -> Html:
    """A macro of ``templates/parts.html`` with its values in order."""
    return getattr(_templates().get_template("parts.html").module, name)(*values)


@dataclass
class Section:
    """A part of the page. ``lead``: a line or two on how to read it; ``parts``: HTML."""

    key: str
    title: str
    lead: str = ""
    parts: list[Html] = field(default_factory=list)


@dataclass
class Page:
    """What a report holds: sections, the charts and the data that their parts refer to."""

    title: str
    subtitle: str
    sections: list[Section] = field(default_factory=list)
    charts: dict[str, Spec] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def section(self, key: str, title: str, lead: str = "") -> Section:
        """A new section at the end; it is left out of the page as long as it has no parts."""
        self.sections.append(Section(key, title, lead))
        return self.sections[-1]

    def chart(self, spec: Spec, *, width: str = "") -> Html:
        """A place where ``spec`` is drawn; ``width``: ``half`` or ``full`` of a row where there is room."""
        key = f"chart{len(self.charts) + 1}"
        self.charts[key] = spec
        return part("chart", key, spec["description"], width)

    def widget(self, kind: str, data: Any) -> Html:
        """A place where the script builds an interactive part (``maps``, ``vines``) from ``data``."""
        key = f"{kind}{len(self.data) + 1}"
        self.data[key] = data
        return part("widget", kind, key)


def grid(parts: Sequence[Html]) -> Html:
    """Parts side by side where there is room, below each other on a phone."""
    return part("grid", parts)


def table(rows: Sequence[Sequence[Any]], *, caption: str = "") -> Html:
    """Rows, the first being the header, the first column naming them; wide ones scroll within the page."""
    return part("table", rows, caption)


def paragraphs(lines: Sequence[str], *, kind: str = "") -> Html:
    """Lines as a list."""
    return part("paragraphs", lines, kind)


def command(line: str) -> Html:
    """A command with a button that copies it."""
    return part("command", line)


def folded(title: str, parts: Sequence[Html]) -> Html:
    """Parts that a click opens."""
    return part("folded", title, parts)


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script (seconds the first time)."""
    return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def as_html(page: Page) -> str:
    """The whole page as text.

    Raises:
        ValueError: its charts or data hold a number that JSON has not (NaN, infinity).
    """
    style, script = (Html((HERE / name).read_text()) for name in ("style.css", "script.js"))
    return (
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            sections=[section for section in page.sections if section.parts],
            style=style,
            script=script,
            library=Html(_library() if page.charts else ""),
        )
    )


def write_page(page: Page, path: str | Path) -> None:
    """Write the page whole, or leave the old one."""
    write_text(Path(path), private(as_html(page)))
