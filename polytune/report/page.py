"""One HTML page that needs nothing else: styles, scripts, charts and data are in it, and it opens from disk."""

from __future__ import annotations

import functools
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vl_convert

from polytune.report.charts import Spec

HERE = Path(__file__).parent


class Html(str):
    """Text that is HTML already; any other text is escaped where it is put into the page."""


def text(value: Any) -> str:
    """``value`` as HTML."""
    return value if isinstance(value, Html) else html.escape(str(value))


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
        label = html.escape(spec["description"], quote=True)
        return Html(f'<figure class="chart {width}" role="img" aria-label="{label}" '
                    f'data-chart="{key}"></figure>')  # fmt: skip

    def widget(self, kind: str, data: Any) -> Html:
        """A place where the script builds an interactive part (``maps``, ``vines``) from ``data``."""
        key = f"{kind}{len(self.data) + 1}"
        self.data[key] = data
        return Html(f'<div class="widget" data-widget="{kind}" data-key="{key}"></div>')


def grid(parts: Sequence[str]) -> Html:
    """Parts side by side where there is room, below each other on a phone."""
    return Html(f'<div class="grid">{"".join(parts)}</div>')


def table(rows: Sequence[Sequence[Any]], *, caption: str = "") -> Html:
    """Rows, the first being the header, the first column naming them; wide ones scroll within the page."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows[1:]
    )
    title = f'<p class="caption">{text(caption)}</p>' if caption else ""
    label = f' aria-label="{html.escape(caption, quote=True)}"' if caption else ""
    inner = f"<table{label}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Html(f'<div class="table">{title}<div class="scroll" tabindex="0">{inner}</div></div>')


def paragraphs(lines: Sequence[str], *, kind: str = "") -> Html:
    """Lines as a list."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return Html(f'<ul class="{kind}">{items}</ul>') if lines else Html("")


def command(line: str) -> Html:
    """A command with a button that copies it."""
    return Html(f'<div class="command"><code>{text(line)}</code><button type="button" class="copy">copy</button></div>')


def folded(title: str, parts: Sequence[str]) -> Html:
    """Parts that a click opens."""
    return Html(f"<details><summary>{text(title)}</summary>{''.join(parts)}</details>")


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script (seconds the first time)."""
    return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def as_html(page: Page) -> str:
    """The whole page as text."""
    shown = [section for section in page.sections if section.parts]
    links = "".join(f'<a href="#{section.key}">{text(section.title)}</a>' for section in shown)
    bodies = "".join(
        f'<section id="{section.key}"><h2>{text(section.title)}</h2>'
        + (f'<p class="lead">{text(section.lead)}</p>' if section.lead else "")
        + "".join(section.parts)
        + "</section>"
        for section in shown
    )
    script = f"<script>{_library()}</script>" if page.charts else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(page.title)} - polytune</title><style>{(HERE / 'style.css').read_text()}</style></head><body>"
        f'<header><p class="brand">polytune report</p><h1>{text(page.title)}</h1>'
        f'<p class="sub">{text(page.subtitle)}</p>'
        '<button type="button" id="theme" aria-label="dark or light">dark / light</button></header>'
        f'<nav aria-label="sections">{links}</nav><main>{bodies}</main>'
        f'<script type="application/json" id="report-data">{_json({"charts": page.charts, "data": page.data})}</script>'
        f"{script}<script>{(HERE / 'script.js').read_text()}</script></body></html>\n"
    )


def _json(value: Mapping[str, Any]) -> str:
    """JSON that no browser takes for markup; numbers that JSON has not are refused."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write_page(page: Page, path: str | Path) -> None:
    """Write the page so that a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(as_html(page), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
