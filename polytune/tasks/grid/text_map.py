"""A MiniGrid level as text, two characters a cell: what is there, its colour's letter; the agent's view stands out.

Without colours the view is told by dots on its floor; walls in sight are `##`, others `::`.
"""

from __future__ import annotations

from polytune.tasks.grid.common import MiniGridEnv, visible_cells

AGENT = (">", "v", "<", "^")
"""The agent, by MiniGrid's directions 0..3."""

SYMBOLS = {"key": "k", "ball": "o", "box": "b", "goal": "G", "lava": "~"}
DOORS = {"open": "/", "closed": "+", "locked": "L"}
COLOUR_LETTERS = {"red": "r", "green": "g", "blue": "b", "purple": "p", "yellow": "y", "grey": "e"}

_CODES = {"red": 196, "green": 40, "blue": 39, "purple": 135, "yellow": 226, "grey": 250}  # of the 256 terminal colours
_DIM_CODES = {"red": 124, "green": 34, "blue": 31, "purple": 97, "yellow": 136, "grey": 245}
_SEEN_FLOOR, _FLOOR, _SEEN_WALL, _WALL = 238, 234, 246, 240
_RESET = "\x1b[0m"


def text_map(env: MiniGridEnv, *, colours: bool) -> str:
    """The whole level, a line a row. `colours`: with the escape sequences of a terminal of 256 colours."""
    seen = set(visible_cells(env).values())
    x, y = (int(value) for value in env.agent_pos)
    lines = []
    for row in range(env.grid.height):
        cells = []
        for column in range(env.grid.width):
            in_sight = (column, row) in seen
            if (column, row) == (x, y):
                cells.append(_painted(_agent(env), 231, 160, bold=True) if colours else _agent(env))
            else:
                cells.append(_cell(env.grid.get(column, row), in_sight, colours))
        lines.append("".join(cells))
    return "\n".join(lines if colours else map(str.rstrip, lines))


def map_legend(env: MiniGridEnv) -> str:
    """What the characters of `text_map` mean, only of those that the level (or the agent's hand) holds."""
    held = getattr(env, "carrying", None)
    things = [thing for thing in (*env.grid.grid, held) if thing is not None]
    kinds = {thing.type for thing in things}
    parts = [f"{''.join(AGENT)} you", *(f"{symbol} {kind}" for kind, symbol in SYMBOLS.items() if kind in kinds)]
    if "door" in kinds:
        parts += [f"{symbol} {state} door" for state, symbol in DOORS.items()]
    legend = ", ".join(parts)
    coloured = {thing.color for thing in things if thing.type in ("door", "key", "ball", "box")}
    if coloured:
        letters = ", ".join(f"{letter} {name}" for name, letter in COLOUR_LETTERS.items() if name in coloured)
        legend += f"; second letter: {letters}"
    return legend


def carried(env: MiniGridEnv) -> str | None:
    """ "red key", or None with empty hands."""
    thing = getattr(env, "carrying", None)
    return None if thing is None else f"{thing.color} {thing.type}"


def _agent(env: MiniGridEnv) -> str:
    return f"{AGENT[env.agent_dir]} "


def _cell(thing, in_sight: bool, colours: bool) -> str:
    """One cell that the agent is not in; `thing` is MiniGrid's object there, or None."""
    kind = None if thing is None else thing.type
    if kind == "wall":
        return _painted("  ", 0, _SEEN_WALL if in_sight else _WALL) if colours else "##" if in_sight else "::"
    background = _SEEN_FLOOR if in_sight else _FLOOR
    if kind is None or kind == "floor":
        return _painted("  ", 0, background) if colours else ". " if in_sight else "  "
    if kind == "door":
        symbol = DOORS["open" if thing.is_open else "locked" if thing.is_locked else "closed"]
    else:
        symbol = SYMBOLS.get(kind, "?")
    letter = " " if kind in ("goal", "lava") else COLOUR_LETTERS.get(thing.color, "?")
    codes = _CODES if in_sight else _DIM_CODES
    return (
        _painted(symbol + letter, codes.get(thing.color, 250), background, bold=in_sight)
        if colours
        else symbol + letter
    )


def _painted(text: str, code: int, background: int, *, bold: bool = False) -> str:
    return f"\x1b[{'1;' if bold else ''}38;5;{code};48;5;{background}m{text}{_RESET}"
