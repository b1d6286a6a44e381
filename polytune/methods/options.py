"""Options of methods: checks of their values."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any

from polytune.checks import require, require_number
from polytune.lookup import find
from polytune.methods.base import Method
from polytune.tables import METHODS

#: types that an option's annotation may name, and what a message calls them; others are for the method to check
NAMES = {bool: "true or false", int: "a whole number", float: "a number"}


def require_option(
    name: str, value: object, minimum: float, maximum: float = math.inf, *, unset: bool = False, above: bool = False
) -> None:
    """Raise ``ValueError`` unless the option ``value`` is a finite number in [minimum, maximum]; ``unset``: None will
    do; ``above``: the minimum itself will not."""
    if value is None and unset:
        return
    where = "change it in method_args"
    require(not above or value != minimum, f"{name} must be above {minimum:g}, got {value!r}: {where}.")
    require_number(name, value, minimum, maximum, where=where)


def require_types(kind: type, options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for an option of another type than its annotation in the dataclass ``kind`` says: bool, int,
    float, or one of them or None. Whole numbers are numbers; true and false are none."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # annotations of a user's class that are there for type checkers alone
        return
    for name, value in options.items():
        wanted = set(typing.get_args(hints[name]) or [hints[name]])
        if wanted <= {*NAMES, type(None)}:
            known = " or ".join(NAMES[own] for own in NAMES if own in wanted)
            fits = any(_fits(value, own) for own in wanted)
            require(fits, f"{name} must be {known}, got {value!r}: change it in method_args.")


def _fits(value: object, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, int | float if wanted is float else wanted)


def require_token_mean(method: str, trainer: Any) -> None:
    """Raise ``ValueError`` unless the loss is a mean over all tokens, in which attempts count by their length."""
    require(
        trainer.loss_type == "dapo",
        f"method {method!r} corrects a mean over all tokens, loss_type 'dapo', not {trainer.loss_type!r}: set it.",
    )


def require_lasting_signatures(method: str, what: str, objective: Any, fix: str) -> None:
    """Raise ``ValueError`` where signatures number the clusters of each group anew, or another method gives attempts
    those of an update; ``what`` the method does with them over several updates."""
    given = _signing(objective)
    require(
        not given,
        f"method {method!r} {what}, but method {given} gives attempts other ones in every update: leave one of them "
        "out.",
    )
    require(
        objective.signature in ("task", "actions"),
        f"method {method!r} {what}, but signature {objective.signature!r} numbers the clusters of a group anew in "
        f"every update: {fix}.",
    )


def require_names(method: str, objective: Any) -> None:
    """Raise ``ValueError`` where another method makes signatures vectors, for a method that counts equal ones."""
    given = _signing(objective)
    require(
        not given,
        f"method {method!r} counts equal signatures, but method {given} makes them vectors, of which hardly two are "
        "equal: leave one of them out.",
    )


def _signing(objective: Any) -> str:
    """The methods of a run that give attempts signatures."""
    kinds = ((name, find("method", name, METHODS)) for name in objective.methods)
    return ", ".join(repr(name) for name, kind in kinds if getattr(kind, "signs", None) is not None)


def require_run_temperature(method: str, what: str, objective: Any) -> None:
    """Raise ``ValueError`` where another method changes temperatures by token: ``Seen.head`` and ``Seen.entropies`` are
    without its factors, logprobs with them; ``what`` the method compares."""
    tempering = [
        name for name in objective.methods if find("method", name, METHODS).temperature is not Method.temperature
    ]
    require(
        not tempering,
        f"method {method!r} compares {what} at the run's temperature, which method "
        f"{', '.join(map(repr, tempering))} changes by token: leave one of them out.",
    )
