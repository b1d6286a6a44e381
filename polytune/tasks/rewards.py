"""Reward and signature functions for `task: dataset`, each called with (answer, row)."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from polytune.tasks.base import is_missing
from polytune.tasks.maths import Verifier

_ALLOWED = re.compile(r"[0-9+\-*/() ]{1,200}", re.ASCII)
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


# ---------------------------------------------------------------- arithmetic: reach a target with given numbers


def reaches_target(answer: str, row: Mapping[str, Any]) -> float:
    """1 if `answer` is an expression over exactly the numbers of row["numbers"] that equals row["target"], else 0.

    Numbers, + - * /, parentheses and single spaces; each number once; exact arithmetic. No text ever raises.
    """
    tree = _expression(answer)
    if tree is None:
        return 0.0
    leaves: list[int] = []
    try:
        value = _value(tree, leaves)
    except (ZeroDivisionError, ValueError, RecursionError):
        return 0.0
    return float(value == row["target"] and sorted(leaves) == sorted(row["numbers"]))


def calculation(answer: str, row: Mapping[str, Any]) -> str | None:
    """The calculation that a right answer does, whatever its brackets and the order of sums and products: the strategy.

    a - b + c and c - (b - a) are one sum of a, c and -b; 2 * 3 and 3 * 2 one product. None for a wrong answer.
    """
    return _canonical(_expression(answer)) if reaches_target(answer, row) else None


def _expression(answer: str) -> ast.expr | None:
    text = answer.strip(" \n")
    if _ALLOWED.fullmatch(text) is None or "**" in text or "//" in text:
        return None
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, leaves: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        leaves.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, leaves), _value(node.right, leaves)
        return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[
            _OPERATORS[type(node.op)]
        ](right)
    raise ValueError(f"{ast.dump(node)} is no arithmetic")


def _canonical(node: ast.expr) -> str:
    """Sums as sorted signed terms, products as sorted factors and divisors."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    plus, minus = (ast.Add, ast.Sub) if isinstance(node.op, ast.Add | ast.Sub) else (ast.Mult, ast.Div)
    parts: list[tuple[int, str]] = []

    def collect(part: ast.expr, sign: int) -> None:
        if isinstance(part, ast.BinOp) and isinstance(part.op, plus | minus):
            collect(part.left, sign)
            collect(part.right, sign if isinstance(part.op, plus) else -sign)
        else:
            parts.append((-sign, _canonical(part)))

    collect(node, 1)
    signs = ("+", "-") if plus is ast.Add else ("*", "/")
    return "(" + "".join(f"{signs[sign > 0]}{text}" for sign, text in sorted(parts)) + ")"


# ---------------------------------------------------------------- mathematics: the final answer of a problem

_BOXED = re.compile(r"\\boxed\{")
_ANSWER_LINE = re.compile(r"^[ *]*Answer[ *]*:([^\n]*)$", re.MULTILINE)
_VERIFIER = Verifier()


def final_answer(answer: str, row: Mapping[str, Any] | None = None) -> str | None:
    """What the last \\boxed{...} of an answer holds, else its last line `Answer: ...`; spaces, $ and ** removed.

    None without either.
    """
    places = [match.end() for match in _BOXED.finditer(answer)]
    if not places:
        lines = _ANSWER_LINE.findall(answer)
        return ("".join(lines[-1].replace("$", "").split()).strip("*") or None) if lines else None
    depth = 1
    for index in range(places[-1], len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[index], 0)
        if depth == 0:
            return "".join(answer[places[-1] : index].replace("$", "").split())
    return None


def math_verified(answer: str, row: Mapping[str, Any]) -> float:
    """1 if the answer's final result equals row["answer"] by `math-verify` (pip install 'polytune[maths]'), else 0, as
    for every answer to a row without a reference.

    The final result is looked for in the last 2,000 characters. No text raises or hangs (`polytune.tasks.maths`).

    Raises:
        ImportError: math-verify is not installed.
        KeyError: the row has no column `answer`: name it with the task's option `reference`.
    """
    if "answer" not in row:
        raise KeyError("the row has no column 'answer': add reference=COLUMN to task_args")
    reference = row["answer"]
    if is_missing(reference) or not str(reference).strip():
        return 0.0
    return float(_VERIFIER.equal(str(reference), answer))
