"""Signatures of texts: a judge puts a batch of texts into clusters, and a cluster is a strategy.

A judge may be an embedding model, a language model or a rule, behind one function: batch in, cluster ids out. An id is
any hashable and says nothing beyond its own batch; None marks a degenerate text, which adds no strategy to any set.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from polytune.lookup import find, said
from polytune.tables import JUDGES


@runtime_checkable
class SignatureJudge(Protocol):
    """Clusters a batch of texts: `judge(texts)` returns one id per text, None for a degenerate one."""

    def __call__(self, texts: Sequence[str]) -> list[Hashable | None]: ...


@dataclass(frozen=True)
class CheckedJudge:
    """A judge whose input and output are checked on every call."""

    name: str
    judge: SignatureJudge

    def __call__(self, texts: Sequence[str]) -> list[Hashable | None]:
        """Cluster ids of `texts`. ValueError when the texts are no list of strings or the ids do not fit them."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise ValueError(f"a judge takes a list of texts, got {type(texts).__name__}: {texts!r}")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {index} is {text!r} ({type(text).__name__}), not a string")
        ids = self.judge(texts)
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
        return list(ids)


def find_judge(name: Any) -> CheckedJudge:
    """A row of JUDGES, or "package.module:name": a function or an object called with a batch of texts; a class is built
    without arguments first. ValueError for an unknown name, a path that leads nowhere, or what cannot be called."""
    found = find("judge", name, JUDGES)
    if isinstance(found, type):
        found = said("judge", name, found)()
    if not callable(found):
        raise ValueError(f"judge {name!r} is {found!r}: give a function judge(texts) -> list of cluster ids")
    return found if isinstance(found, CheckedJudge) else CheckedJudge(str(name), said("judge", name, found))
