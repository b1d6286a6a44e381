"""Signatures of texts: a judge puts a batch of texts into clusters, and a cluster is a strategy.

A judge may be an embedding model, a language model or a rule, behind one function: batch in, cluster ids out. An id is
any hashable and says nothing beyond its own batch; None marks a degenerate text, which adds no strategy to any set.

A judge that fails, one that raises or returns what does not fit, ends the run unless another answer is named for it:
`all_same` (no diversity) or `all_distinct` (all that there can be, which rewards whatever makes a judge fail).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from polytune.lookup import find, said
from polytune.tables import JUDGES
from polytune.tasks.base import as_strategy
from polytune.terminal import say_warning

FAILURES = ("refuse", "all_same", "all_distinct")


@runtime_checkable
class SignatureJudge(Protocol):
    """Clusters a batch of texts: `judge(texts)` returns one id per text, None for a degenerate one."""

    def __call__(self, texts: Sequence[str]) -> list[Hashable | None]: ...


@dataclass
class CheckedJudge:
    """A judge whose input and output are checked on every call. `failure`: what a call that fails gives, one of
    `FAILURES`; `failures` counts them."""

    name: str
    judge: SignatureJudge
    failure: str = "refuse"
    failures: int = field(default=0, compare=False)

    def __call__(self, texts: Sequence[str]) -> list[Hashable | None]:
        """Cluster ids of `texts`; None, too, for one that names nothing (NaN, blank text).

        Raises:
            ValueError: the texts are no list of strings; or, with `refuse`, the judge raised or its ids do not fit.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError(f"a judge takes a list of texts, got {type(texts).__name__}: {texts!r}")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {index} is {text!r} ({type(text).__name__}), not a string")
        if self.failure == "refuse":
            return self._ask(texts)
        try:
            return self._ask(texts)
        except ValueError as error:
            self.failures += 1
            if self.failures == 1:
                say_warning(f"{error}; taken as {self.failure} (judge_failure), as all further failures.")
            return [0] * len(texts) if self.failure == "all_same" else list(range(len(texts)))

    def _ask(self, texts: Sequence[str]) -> list[Hashable | None]:
        try:
            ids = self.judge(texts)
        except ValueError:
            raise
        except Exception as error:  # a judge may ask a model over a network
            raise ValueError(f"judge {self.name!r} raised {type(error).__name__}: {error}") from error
        if not isinstance(ids, list | tuple):
            raise ValueError(f"judge {self.name!r} returned {type(ids).__name__}: {ids!r}; a list of ids is due")
        if len(ids) != len(texts):
            raise ValueError(f"judge {self.name!r} returned {len(ids)} ids for {len(texts)} texts")
        for index, cluster in enumerate(ids):
            try:
                hash(cluster)
            except TypeError as error:
                raise ValueError(
                    f"judge {self.name!r}: id {index} = {cluster!r} is not hashable: use an int or a string"
                ) from error
        return list(map(as_strategy, ids))


def find_judge(name: Any, failure: str = "refuse") -> CheckedJudge:
    """A row of JUDGES, or "package.module:name": a function or an object called with a batch of texts; a class is built
    without arguments first. `failure`: one of `FAILURES`. ValueError for an unknown name, a path that leads nowhere, or
    what cannot be called."""
    found = find("judge", name, JUDGES)
    if isinstance(found, type):
        found = said("judge", name, found)()
    if not callable(found):
        raise ValueError(f"judge {name!r} is {found!r}: give a function judge(texts) -> list of cluster ids")
    if isinstance(found, CheckedJudge):
        return found
    return CheckedJudge(str(name), said("judge", name, found), failure)
