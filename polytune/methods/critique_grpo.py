"""Critique-GRPO's refinements (arXiv 2506.03106): a failed attempt is tried again with a critique of it, in one group.

    hint of a refinement: what a function of texts makes of (observation, failed answer), its critique
    replayed token of a refinement: - f(pi) A,   f(p) = p / (p + gamma),   A = R - m' as in ``context_rollouts.py``
Its slope in log pi, p gamma / (p + gamma)^2, is largest at p = gamma, so that unlikely tokens weigh more than sure
ones. No clip and no pi_old in it. Of each start state the first ``each`` failures are refined; where all succeed, none.

Source: the authors' code (critique-GRPO): gamma 0.1 ("p_div_p_0.1"), 7 attempts and 1 refinement in a group, advantages
without a division. ``critic``: "package.module:name", a function (observation, answer) -> text; unset: ``words``, with
{observation} and {answer} in it filled in, which is the answer alone unless set, as much as a tiny policy can read.
Assumes as ``context_rollouts``; of an episode of several turns the observation is the first, the answer all it said.
Degenerate cases: where nothing fails nothing is refined; a critique that says nothing gives further attempts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from polytune.checks import require
from polytune.lookup import find, is_path
from polytune.meanings import Metric
from polytune.methods.base import Minibatch
from polytune.methods.context_rollouts import ContextRollouts
from polytune.methods.options import require_option
from polytune.rollout import Tree


@dataclass
class CritiqueGRPO(ContextRollouts):
    critic: str = ""
    words: str = "{answer}"
    gamma: float = 0.1
    name: ClassVar[str] = "critique_grpo"
    logs: ClassVar[dict[str, Metric]] = {
        "critique_grpo/rows": Metric(
            "rows that the second growth gave", "rows", "above 0", "0: nothing was to be tried again"
        ),
        "critique_grpo/advantage": Metric("mean advantage of those rows", "advantage"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option("gamma", self.gamma, 1e-6)
        require(not self.hint, f"hint is {self.hint!r}, but a critique is the hint: give words or critic.")
        require(
            not self.critic or is_path(self.critic), f"critic is {self.critic!r}: name a function, package.module:name."
        )
        self.words = str(self.words)
        self._critic = find("critic", self.critic, {}) if self.critic else None

    def says(self) -> str:
        return (
            f"**Critique-GRPO** (arXiv 2506.03106): {self.each} failed attempts of a start state were tried again with "
            f"a critique of them, and trained on without it, weighed by p / (p + {self.gamma:g})."
        )

    def hints(self, tree: Tree, text) -> Iterable[str]:
        asked = text(tree.prompt_ids)
        failed = [seed for seed in tree.seeds if not seed.success][: self.each]
        answers = [" ".join(text(turn.whole_ids) for turn in seed.turns) for seed in failed]
        if self._critic is not None:
            return [self._critic(asked, answer) for answer in answers]
        return [self.words.replace("{observation}", asked).replace("{answer}", answer.strip()) for answer in answers]

    def replayed(self, batch: Minibatch) -> torch.Tensor:
        chance_b_C = batch.logprobs_b_C.exp()
        return -batch.advantages_b_C * chance_b_C / (chance_b_C + self.gamma)
