"""Published methods beside the set objective, and the loss's own terms: one file a method, one row of METHODS."""

from polytune.methods.base import Apart, Beginning, Grown, Method, Minibatch, Seen, Update
from polytune.methods.options import require_option
from polytune.methods.table import build_methods
from polytune.tables import METHODS

__all__ = [
    "METHODS",
    "Apart",
    "Beginning",
    "Grown",
    "Method",
    "Minibatch",
    "Seen",
    "Update",
    "build_methods",
    "require_option",
]
