"""Intelligent Go-Explore (arXiv 2405.15143): a judge of texts says which state to come back to, and which are new.

Go-Explore roots (``go_explore.py``) with two functions of your own, "package.module:name":
    judge(texts) -> a place in the list: of the states known at a start state, as the policy saw them, where to begin
    admits(text, texts) -> bool: whether the archive takes a state beside those known there; unset: any
The judge may ask a language model, the policy itself even. Every process asks; equal texts must get equal answers.
``least_alike``, which is taken where none is named, needs no model.

Source: the authors' code for BabyAI: an archive by state with the shortest way to each, a judge for the state and one
for what is interestingly new. Not built: its choice of actions (the policy acts), its filter of untried actions, and
its fallback (a judge that answers anything else ends the run, with its answer). Assumes, and degenerates, as
``go_explore``.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch

from polytune.checks import require
from polytune.lookup import find, said
from polytune.methods.base import Update
from polytune.methods.go_explore import Cell, GoExplore
from polytune.methods.ragged import pack, unpack


@dataclass
class JudgedRoots(GoExplore):
    judge: str = "polytune.methods.judged_roots:least_alike"
    admits_by: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._judge = self._function("judge", self.judge)
        self._admits = self._function("admits_by", self.admits_by) if self.admits_by else None
        self.texts: dict[Cell, str] = {}

    @staticmethod
    def _function(option: str, path: str) -> Callable:
        found = find(option, path, {})
        require(callable(found), f"{option} {path!r} is {found!r}: name a function of texts.")
        return said(option, path, found)

    def says(self) -> str:
        return (
            f"**Intelligent Go-Explore roots** (arXiv 2405.15143): a share {self.share:g} of the trees began in states "
            f"that `{self.judge}` chose among those that earlier updates had reached."
        )

    def choose(self, cells: Sequence[Cell], random: Random) -> Cell:
        place = self._judge([self.texts[cell] for cell in cells])
        require(
            isinstance(place, int) and 0 <= place < len(cells),
            f"judge {self.judge!r} returned {place!r} for {len(cells)} texts: a place from 0 to {len(cells) - 1} "
            f"is due.",
        )
        return cells[place]

    def admits(self, cell: Cell, update: Update) -> bool:
        text = update.text(cell[1])
        known = [self.texts[other] for other in self.roots if other[0] == cell[0]]
        if self._admits is not None and not self._admits(text, known):
            return False
        self.texts[cell] = text
        return True

    def learn(self, update: Update) -> None:
        super().learn(update)
        self.texts = {cell: self.texts[cell] for cell in self.roots}

    def state(self) -> dict[str, torch.Tensor]:
        """Of ``go_explore``, and the code points of the texts."""
        return super().state() | pack("texts", [[*map(ord, self.texts[cell])] for cell in self.roots])

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        super().restore(state)
        told = unpack("texts", state)
        self.texts = {cell: "".join(map(chr, text)) for cell, text in zip(self.roots, told, strict=True)}


def least_alike(texts: Sequence[str]) -> int:
    """The place of the text whose words are the rarest among the texts: the largest mean of 1 / texts with the word."""
    words = [set(text.split()) for text in texts]
    held = Counter(word for own in words for word in own)
    return max(range(len(texts)), key=lambda i: sum(1 / held[word] for word in words[i]) / max(len(words[i]), 1))
