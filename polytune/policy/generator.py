"""What a generator is: branches of token ids that are extended, sampled, forked and closed.

Token-in, token-out: the text of a sampled action is never tokenised again. Every sample draws from its own uniform
number, a hash of its key, so what a branch samples depends neither on the batch it runs in nor on the order of calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

from polytune.digests import number_from


class SampleKey(NamedTuple):
    """Names a branch: (run seed, start state's seed, attempt, branch within the tree)."""

    run_seed: int
    start_state: int
    attempt: int
    branch: int


def sample_uniform(key: SampleKey, turn: int, token: int = 0) -> float:
    """The uniform number in [0, 1) for one sampled token: 53 bits of BLAKE2b over the key, the turn and the token."""
    packed = struct.pack("<6q", *key, turn, token)
    return (number_from(packed, 8) >> 11) / (1 << 53)


class Sample(NamedTuple):
    """One sampled action. From a generator that observes, also the entropy of the distribution of each token, in nats,
    and the last hidden state (H,) before the first one."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...] = ()
    hidden: torch.Tensor | None = None


@dataclass(eq=False, slots=True)
class Branch:
    """One token sequence that a generator keeps a cache for. Generators may subclass it; callers read ``ids`` only.
    ``begun``: how many tokens of the next action it ends with (a fork within an answer)."""

    key: SampleKey
    ids: list[int] = field(default_factory=list)
    begun: int = 0


@dataclass
class TokenCounters:
    """What generation cost, in tokens."""

    sampled: int = 0
    #: tokens run through the model: prompts, the environment's text, and sampled tokens on their way back in
    prefilled: int = 0
    #: prefix tokens of forks whose keys and values were shared instead of computed
    reused: int = 0
    #: prefix tokens of forks that had to be computed again
    recomputed: int = 0

    def as_dict(self) -> dict[str, int]:
        """For logs and checkpoints."""
        return {name: getattr(self, name) for name in ("sampled", "prefilled", "reused", "recomputed")}


class Generator(Protocol):
    """Samples a policy, many branches at a time."""

    counters: TokenCounters

    def open(self, ids: Sequence[int], key: SampleKey) -> Branch:
        """A new branch that begins with ``ids``; nothing is computed yet."""

    def extend(self, branch: Branch, ids: Sequence[int]) -> None:
        """Append environment tokens; nothing is computed yet."""

    def sample(self, branches: Sequence[Branch], turns: Sequence[int]) -> list[Sample]:
        """Sample one action for every branch, or the rest of one that has begun, all in one batch, and append it.

        ``turns`` are the decision numbers within the branch: they enter the sample's seed.
        """

    def fork(self, branch: Branch, length: int, key: SampleKey, *, begun: int = 0) -> Branch:
        """A new branch that shares the first ``length`` tokens of ``branch`` and their cache; the last ``begun`` of
        them begin its next action, which is as long with them as any other may be."""

    def close(self, branches: Iterable[Branch]) -> None:
        """Forget branches and free their cache."""

    def reset(self) -> None:
        """Forget every branch: the weights have changed, and a cache never outlives the weights that filled it."""
