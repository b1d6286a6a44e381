"""Methods by name, each imported only where a run asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from polytune.checks import require
from polytune.lookup import find, unknown
from polytune.methods.base import Method
from polytune.methods.options import require_types
from polytune.tables import METHODS


def build_methods(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """Name -> method, in the order of ``names``, each a row of METHODS or "package.module:Class".

    Args:
        options: name -> its options.

    Raises:
        ValueError: an unknown name or option (with near misses), no subclass of Method, or a value that it refuses.
    """
    return {name: _build(name, options.get(name, {})) for name in names}


def _build(name: str, options: Mapping[str, Any]) -> Method:
    kind = find("method", name, METHODS)
    require(
        isinstance(kind, type) and issubclass(kind, Method),
        f"method {name!r} is {kind!r}, which is no subclass of polytune.methods.Method: derive it from Method.",
    )
    known = {own.name: own for own in fields(kind)}
    for option in options:
        require(option in known, f"method_args: {unknown(f'option of {name}', option, known)}.")
    try:
        require_types(kind, options)
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {name!r}: {error}") from error
