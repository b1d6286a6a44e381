"""Charts of a report as Vega-Lite specifications: plain data, drawn in the reader's browser.

Colours and text sizes come from the page, which knows whether it is dark and how wide: a specification only says which
policy a line is of. Rows of data are short dicts; an interval has ``estimate``, ``low`` and ``high``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
Rows = list[dict[str, Any]]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: the causes of a group without signal, in the order in which they are stacked
CAUSES = (
    ("groups/without_signal_equal_rewards", "equal rewards"),
    ("groups/without_signal_equal_signatures", "equal signatures"),
    ("groups/without_signal_ties", "scores tie"),
)


def _chart(title: str, rows: Rows, layers: Sequence[Spec], *, height: int = 250, subtitle: str = "") -> Spec:
    heading = {"text": title, "subtitle": subtitle} if subtitle else {"text": title}
    return {
        "$schema": SCHEMA,
        "description": title,
        "title": heading,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": rows},
        "layer": list(layers),
    }


def _policy(names: Sequence[str], *, legend: bool = True) -> Spec:
    """The colour channel; its legend can be clicked to pick policies out."""
    return {
        "field": "policy",
        "type": "nominal",
        "scale": {"domain": list(names)},
        "legend": {"title": None, "symbolOpacity": 1, "symbolType": "circle"} if legend else None,
    }


PICK = {"name": "pick", "select": {"type": "point", "fields": ["policy"]}, "bind": "legend"}


def _picked(full: float, faint: float) -> Spec:
    return {"condition": {"param": "pick", "value": full}, "value": faint}


def _tooltip(x: str, title: str, value: str, *, form: str = ".3f") -> list[Spec]:
    return [
        {"field": "policy", "title": "policy"},
        {"field": x, "title": title},
        {"field": "estimate", "title": value, "format": form},
        {"field": "low", "format": form},
        {"field": "high", "format": form},
    ]


def _k_axis(ks: Sequence[int]) -> Spec:
    return {
        "field": "k",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "domain": [ks[0], ks[-1]], "nice": False},
        "axis": {"values": list(ks), "title": "samples k", "format": "d"},
    }


def curves_over_k(
    title: str, curves: Mapping[str, Mapping[int, Mapping[str, float]]], value: str, *, share: bool = True
) -> Spec:
    """A line with its band for each policy over k on a logarithmic axis.

    Args:
        curves: policy -> k -> interval.
        value: what the vertical axis is called; ``share``: it ends at 1.
    """
    ks = list(next(iter(curves.values())))
    rows = [{"policy": name, "k": k, **_ends(cell)} for name, own in curves.items() for k, cell in own.items()]
    if len(ks) == 1:  # one sample of each: there is no curve
        return bars(title, {name: own[ks[0]] for name, own in curves.items()}, value)
    least = min((row["low"] for row in rows if row["low"] is not None), default=0.0)
    scale = {"domain": [0 if least < 0.5 else max(0.0, least - 0.05), 1], "nice": False} if share else {"zero": True}
    y = {"type": "quantitative", "title": value, "scale": scale}
    colour = _policy(list(curves))
    return _chart(
        title,
        rows,
        [
            {
                "mark": {"type": "area", "clip": True},
                "encoding": {"x": _k_axis(ks), "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colour,
                             "opacity": _picked(0.13 if len(curves) <= 5 else 0.05, 0.0)},
            },
            {
                "params": [PICK],
                "mark": {"type": "line", "strokeWidth": 2.2, "point": {"size": 42, "filled": True}},
                "encoding": {"x": _k_axis(ks), "y": {"field": "estimate", **y}, "color": colour,
                             "opacity": _picked(1.0, 0.12), "tooltip": _tooltip("k", "k", value)},
            },
        ],
        height=300,
    )  # fmt: skip


def differences_over_k(title: str, gaps: Mapping[str, Mapping[int, Mapping[str, float]]], names: Sequence[str]) -> Spec:
    """Paired differences with intervals, side by side at each k, around the line of no difference.

    Args:
        gaps: policy -> k -> interval; ``names``: all policies, which fix the colours.
    """
    rows = [{"policy": name, "k": k, **_ends(cell)} for name, own in gaps.items() for k, cell in own.items()]
    beside = {"field": "policy", "type": "nominal", "scale": {"domain": list(gaps)}}
    x = {"field": "k", "type": "ordinal", "axis": {"title": "samples k", "labelAngle": 0}}
    y = {"type": "quantitative", "title": "difference in pass@k"}
    colour = _policy(names)
    return _chart(
        title,
        rows,
        [
            {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": {"datum": 0}}},
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"x": x, "xOffset": beside, "y": {"field": "low", **y}, "y2": {"field": "high"},
                             "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {"x": x, "xOffset": beside, "y": {"field": "estimate", **y}, "color": colour,
                             "tooltip": _tooltip("k", "k", "difference", form="+.3f")},
            },
        ],
        height=300,
    )  # fmt: skip


def success_by_start(shares: Mapping[str, Sequence[float]], starts: Sequence[int], what: str) -> Spec:
    """A row for each policy, a column for each start state, ordered by the first policy's success: dark is solved.

    Args:
        shares: policy -> success at each start state, in the order of ``starts``.
        what: what a start state is called.
    """
    first = next(iter(shares.values()))
    order = sorted(range(len(starts)), key=lambda i: (-first[i], starts[i]))
    rows = [
        {"policy": name, "place": place, "start": starts[i], "share": own[i]}
        for name, own in shares.items()
        for place, i in enumerate(order, start=1)
    ]
    axis = f"{what}, solved most often by {next(iter(shares))} first"
    mark = {
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "place", "type": "ordinal", "axis": {"title": axis, "labels": False, "ticks": False}},
            "y": {"field": "policy", "type": "nominal", "sort": list(shares), "title": None},
            "color": {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1]},
                      "legend": {"title": "success", "orient": "top", "gradientLength": 140}},
            "tooltip": [{"field": "policy"}, {"field": "start", "title": "seed of the start state"},
                        {"field": "share", "title": "success", "format": ".2f"}],
        },
    }  # fmt: skip
    return _chart(f"Success at each of {len(starts)} {what}", rows, [mark], height=26 * len(shares))


def bars(title: str, cells: Mapping[str, Mapping[str, float]], value: str, *, rule: float | None = None) -> Spec:
    """One bar with its interval for each policy; ``rule``: a dashed line, a ceiling say."""
    rows = [{"policy": name, **_ends(cell)} for name, cell in cells.items()]
    x = {"field": "policy", "type": "nominal", "sort": list(cells), "axis": {"title": None, "labelAngle": -25}}
    colour = _policy(list(cells), legend=False)
    layers = [
        {
            "mark": {"type": "bar", "opacity": 0.8, "cornerRadiusEnd": 2},
            "encoding": {"x": x, "y": {"field": "estimate", "type": "quantitative", "title": value}, "color": colour,
                         "tooltip": _tooltip("policy", "policy", value)[1:]},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 1.6},
            "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
        },
    ]  # fmt: skip
    if rule is not None:
        layers.append({"mark": {"type": "rule", "strokeDash": [5, 3]}, "encoding": {"y": {"datum": rule}}})
    return _chart(title, rows, layers, height=240)


def found_over_samples(title: str, rows: Rows, names: Sequence[str], value: str, ceiling: float) -> Spec:
    """What more samples find, on logarithmic axes of samples; a dashed line where nothing more can be found."""
    samples = sorted({row["samples"] for row in rows})
    x = {"field": "samples", "type": "quantitative", "scale": {"type": "log", "base": 2, "nice": False},
         "axis": {"values": samples, "format": ",d", "title": "samples"}}  # fmt: skip
    y = {"type": "quantitative", "title": value}
    layers: list[Spec] = [
        {"mark": {"type": "area"}, "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"},
                                                "color": _policy(names), "opacity": {"value": 0.13}}},
        {"mark": {"type": "line", "point": {"filled": True, "size": 42}},
         "encoding": {"x": x, "y": {"field": "estimate", **y}, "color": _policy(names),
                      "tooltip": _tooltip("samples", "samples", value, form=",.0f")}},
    ]  # fmt: skip
    if ceiling <= 3 * max(row["high"] for row in rows):
        layers.append({"mark": {"type": "rule", "strokeDash": [5, 3]}, "encoding": {"y": {"datum": ceiling}}})
    return _chart(title, rows, layers, height=240)


def training_curve(title: str, rows: Rows, names: Sequence[str], *, several: bool) -> Spec:
    """A metric against environment steps: the mean over seeds, with ``several`` of them a thin line for each.

    ``rows``: ``policy``, ``seed`` (None for the mean), ``steps``, ``update``, ``value``.
    """
    x = {
        "field": "steps",
        "type": "quantitative",
        "axis": {"title": "environment steps", "format": "~s", "tickCount": 5},
    }
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}}
    colour = _policy(names, legend=False)
    mean = {
        "transform": [{"filter": "datum.seed === null"}],
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 14, "filled": True}},
        "encoding": {"x": x, "y": y, "color": colour,
                     "tooltip": [{"field": "policy"}, {"field": "update"}, {"field": "steps", "format": ",.0f"},
                                 {"field": "value", "format": ".4g"}]},
    }  # fmt: skip
    thin = {
        "transform": [{"filter": "datum.seed !== null"}],
        "mark": {"type": "line", "strokeWidth": 0.8, "opacity": 0.35},
        "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "seed"}},
    }
    return _chart(title, rows, [thin, mean] if several else [mean], height=170)


def signal_causes(title: str, rows: Rows) -> Spec:
    """Why groups taught nothing, stacked over a run's updates. ``rows``: ``update``, ``cause``, ``share``."""
    order = [label for _, label in CAUSES]
    mark = {
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "update", "type": "quantitative", "bin": False, "axis": {"format": "d", "tickMinStep": 1}},
            "y": {"field": "share", "type": "quantitative", "stack": "zero", "title": "share of groups",
                  "scale": {"domain": [0, 1]}},
            "color": {"field": "cause", "type": "nominal", "scale": {"domain": order, "scheme": "tableau10"},
                      "legend": {"title": None}},
            "tooltip": [{"field": "update"}, {"field": "cause"}, {"field": "share", "format": ".2f"}],
        },
    }  # fmt: skip
    return _chart(title, rows, [mark], height=170, subtitle="groups without signal, by cause")


def _ends(cell: Mapping[str, float | None]) -> dict[str, float | None]:
    return {end: None if cell[end] is None else round(float(cell[end]), 5) for end in ("estimate", "low", "high")}
