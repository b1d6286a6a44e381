"""Rows of earlier updates that methods replay (hook ``replay``): who gets which, and their term of the loss.

    loss += - mean of min(r A, clip(r) A) over the replayed own tokens of the update, over all processes
r = pi / pi_old of a token, pi_old the policy that sampled it, whenever that was. A method may give its own rows another
term than -min(r A, clip(r) A) (hook ``replayed``). TRL sees these rows as blank ones, so
that entropy, KL, clip ratios, the mean of fresh tokens and all else are those of the fresh rollouts. The loss's own
options for ratios (``importance_sampling_level``) and weights of methods do not reach them; ``epsilon``,
``epsilon_high`` and ``delta`` do. Degenerate case: where nothing is replayed, the term is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate.utils import gather_object

from polytune.checks import require
from polytune.methods import Method, Minibatch
from polytune.rollout import Row


def wanted_rows(methods: Iterable[Method], rows: int) -> int:
    """Of a process's ``rows`` in an update, those that methods want for replay."""
    return sum(method.wanted_rows(rows) for method in methods)


def share_out(count: int, rooms: Sequence[int]) -> list[int]:
    """Process of each of ``count`` rows, in turn as long as a process has room; at most ``sum(rooms)`` of them."""
    slots = sorted((slot, process) for process, room in enumerate(rooms) for slot in range(room))
    return [process for _, process in slots[:count]]


class ReplaysRows:
    """Mixin before a TRL trainer: the only change is the term above. Without a method that replays there is none.

    Expects ``methods``, ``_rows``, ``_pass_logprobs``, ``_normaliser``, ``_record`` and ``_record_mean``.
    """

    methods: dict[str, Method]
    _replayed: Sequence[tuple[str, Row, float | Sequence[float]]] = ()  # this process's rows after the fresh ones

    @property
    def _replays(self) -> bool:
        """The same in every process."""
        return any(method.has("replay") for method in self.methods.values())

    def _replay(self, room: int, rows: int) -> list[Row]:
        """What methods put into the ``room`` that the trees of this process leave of its ``rows``."""
        if not self._replays:
            return []
        rooms = gather_object([room])
        found = self._ask(sum(rooms), rows)
        own = self.accelerator.process_index
        self._replayed = [
            told for told, process in zip(found, share_out(len(found), rooms), strict=True) if process == own
        ]
        self._record("replay/rows", len(found))
        return [row for _, row, _ in self._replayed]

    def _ask(self, room: int, rows: int) -> list[tuple[str, Row, float | Sequence[float]]]:
        """Of all processes, method by method: each is offered what is left beside what those after it want."""
        found: list[tuple[str, Row, float | Sequence[float]]] = []
        progress, methods = self.state.global_step / self.args.max_steps, list(self.methods.items())
        for index, (name, method) in enumerate(methods):
            later = wanted_rows((other for _, other in methods[index + 1 :]), rows) * self.accelerator.num_processes
            offered = max(0, room - len(found) - later)
            told = list(method.replay(offered, progress))
            require(len(told) <= offered, f"method {name!r} replays {len(told)} rows, but there is room for {offered}.")
            found += [(name, *own) for own in told]
        return found

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        output = super()._generate_and_score_completions(inputs)
        if self._replays:
            mask_B_C = torch.zeros_like(output["completion_ids"])
            advantages_B_C = torch.zeros_like(output["sampling_per_token_logps"])
            owner_B_1 = mask_B_C.new_full((len(mask_B_C), 1), -1)
            for index, (name, row, advantage) in enumerate(self._replayed, start=len(self._rows)):
                own_C = torch.tensor(row.own)
                owner_B_1[index] = list(self.methods).index(name)
                mask_B_C[index, : len(own_C)] = own_C
                advantages_B_C[index, : len(own_C)] = torch.as_tensor(advantage) * own_C
            output |= {"replay_mask": mask_B_C, "replay_advantages": advantages_B_C, "replay_owner": owner_B_1}
            output["num_replayed"] = self.accelerator.gather(mask_B_C.sum()).sum()
            self._replayed = ()
        return output

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if "replay_mask" not in inputs:
            return loss
        mask_b_C = inputs["replay_mask"]
        ratio_b_C = ((self._pass_logprobs - inputs["sampling_per_token_logps"]) * mask_b_C).exp()
        self._record_mean("replay/ratio", ratio_b_C * mask_b_C, mask_b_C)
        clipped_b_C = ratio_b_C.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        if self.args.delta is not None:
            ratio_b_C = ratio_b_C.clamp(max=self.args.delta)
        terms_b_C = -torch.min(ratio_b_C * inputs["replay_advantages"], clipped_b_C * inputs["replay_advantages"])
        for index, method in enumerate(self.methods.values()):
            own_b_C = mask_b_C * (inputs["replay_owner"] == index)
            if method.has("replayed") and (own := self._terms_of(method, own_b_C, inputs)) is not None:
                terms_b_C = torch.where(own_b_C.bool(), own, terms_b_C)
        return loss + (terms_b_C * mask_b_C).sum() / self._normaliser(inputs["num_replayed"])

    def _terms_of(self, method: Method, own_b_C: torch.Tensor, inputs) -> torch.Tensor | None:
        """What a method makes of the rows that it replays, (b, C)."""
        old_b_C = inputs["sampling_per_token_logps"]
        batch = Minibatch(
            logprobs_b_C=torch.where(own_b_C.bool(), self._pass_logprobs, old_b_C),
            old_b_C=old_b_C,
            advantages_b_C=inputs["replay_advantages"],
            set_deductions_b_C=None,
            mask_b_C=own_b_C,
            epsilon=(self.epsilon_low, self.epsilon_high),
            tensors={},
            record=self._record_mean,
        )
        return method.replayed(batch)
