"""Rows in the trainer: their passes, and what is known by turn spread over tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from polytune.policy.packer import Packer, find_packer
from polytune.terminal import say_warning
from polytune.trainer.scoring import PACKED_TOKENS, Chunk, PackedRows, length_chunks, packed_rows, rows_per_chunk

#: gets rows of a pass and the last hidden states that it gave them, for ``before`` and ``left`` of the rows
Reader = Callable[[Chunk | PackedRows, torch.Tensor], None]


class ScoresRows:
    """Mixin before a TRL trainer: the same logprobs and entropies for less work, and readers of the hidden states.

    Expects ``self._rows`` of the update. Critic and methods read the policy's trunk as it scores rows: whoever wants a
    pass gives a reader (``_readers``), and no pass is made twice.
    """

    _pass_logprobs: torch.Tensor | None = None
    _scored_chunk: Chunk | None = None  # what runs through the policy at this moment
    _reading: list[Reader] | tuple = ()
    _own_b_C: torch.Tensor | None = None  # True at the own tokens of a minibatch
    _tokens_run: tuple[int, int] = (0, 0)  # tokens computed and distinct ones of the minibatches so far

    def _watch_trunk(self, policy: PreTrainedModel) -> None:
        """Hand the last hidden states of the policy's trunk to the readers of a pass; see how rows can be run."""
        self._transformer = policy.base_model
        self._transformer.register_forward_hook(self._read_chunk)
        self._packers: dict[int, Packer | None] = {id(policy): self._find_packer(policy)}

    def _find_packer(self, policy: PreTrainedModel) -> Packer | None:
        packer, reason = find_packer(policy)
        if packer is None and self.accelerator.is_main_process:
            say_warning(f"rows of {type(policy).__name__} run one by one, shared prefixes more than once: {reason}.")
        return packer

    def _packer(self, model) -> Packer | None:
        """Of the policy, or of its reference."""
        model = self.accelerator.unwrap_model(model)
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        if id(model) not in self._packers:
            self._packers[id(model)] = self._find_packer(model)
        return self._packers[id(model)]

    def _read_chunk(self, module, args, output) -> None:
        if self._scored_chunk is not None:
            for read in self._reading:
                read(self._scored_chunk, output.last_hidden_state)

    def _readers(self, ids_B_L: torch.Tensor, width: int) -> list[Reader]:
        """Who reads the pass over these rows that begins; ``width``: columns of the completions."""
        return []

    def _factors(self, ids_B_L: torch.Tensor, width: int) -> torch.Tensor | None:
        """(B, C) on the temperature of the tokens of a packed pass; None: 1 everywhere."""
        return None

    #: whether the readers of a pass want the hidden states of all tokens, not only those before own ones
    _reads_everywhere = False

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        """TRL's pass over rows, with the same numbers at own tokens, 0 elsewhere, and less work: packed, or in chunks.

        The first pass since ``self._pass_logprobs`` was cleared leaves its logprobs (B, C) there, and has readers.
        """
        first = self._pass_logprobs is None
        self._reading = self._readers(input_ids, logits_to_keep) if first else ()
        chosen_B_C = self._chosen(input_ids, attention_mask, logits_to_keep)
        packer = None if kwargs.get("compute_aux_loss") else self._packer(model)
        one_by_one = packer is None or not bool(chosen_B_C.any())
        run = self._score_chunks if one_by_one else self._score_packed
        logprobs, entropies, aux_loss = run(model, input_ids, attention_mask, chosen_B_C, packer, **kwargs)
        if first:  # the policy is scored first, the reference after it
            self._pass_logprobs = logprobs
        return logprobs, entropies, aux_loss

    def _chosen(self, ids_B_L: torch.Tensor, mask_B_L: torch.Tensor, width: int) -> torch.Tensor:
        """True at the completion tokens (B, C) that are scored: the rows' own, where they are known."""
        own_B_C = self._own_b_C
        if own_B_C is None and self._rows is not None:
            own_B_C = self._turn_index(ids_B_L[:, -width:]) >= 0
        real_B_C = mask_B_L[:, -width:].bool()
        return real_B_C if own_B_C is None else own_B_C & real_B_C

    @property
    def _in_one_pass(self) -> bool:
        """With gradients, DDP takes one forward pass for each backward pass."""
        return self.accelerator.num_processes > 1 and torch.is_grad_enabled()

    def _score_packed(self, model, ids_B_L, mask_B_L, chosen_B_C, packer: Packer, **kwargs):
        """Logprobs and entropies (B, C) of the chosen tokens, no prefix twice."""
        one = torch.is_grad_enabled()
        parts = packed_rows(
            ids_B_L, mask_B_L, chosen_B_C, most_tokens=None if one else PACKED_TOKENS,
            last_layer=packer.last_layer, everywhere=bool(self._reading) and self._reads_everywhere,
        )  # fmt: skip
        width, found = chosen_B_C.size(1), []
        factors_B_C = self._factors(ids_B_L, width)
        for part in parts:
            rows_n, columns_n = part.chosen_b_C.nonzero(as_tuple=True)
            labels_n = ids_B_L[:, -width:][part.rows_b[rows_n], columns_n]

            def read(hidden_1_R_H: torch.Tensor, part: PackedRows = part) -> None:
                for reader in self._reading:
                    reader(part, hidden_1_R_H)

            divide_n = None if factors_B_C is None else factors_B_C[part.rows_b[rows_n], columns_n]
            to_read = packer.running(part.packed, part.find(part.chosen_b_C), read, divide_n)
            with to_read, self.accelerator.autocast():
                output = model(**packer.arguments(part.packed), shift_labels=labels_n[None], fused_lm_head=True)
            found.append((part.rows_b[rows_n], columns_n, output.log_probs[0], output.entropy))
            if one:
                self._tokens_run = tuple(
                    a + b for a, b in zip(self._tokens_run, (sum(part.packed.sizes), part.packed.distinct), strict=True)
                )
        where = (torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]))

        def spread(parts: list[torch.Tensor]) -> torch.Tensor:
            numbers_n = torch.cat(parts)
            return numbers_n.new_zeros(chosen_B_C.shape).index_put(where, numbers_n)

        entropies = None if found[0][3] is None else spread([f[3][0] for f in found])
        return spread([f[2] for f in found]), entropies, None

    def _score_chunks(self, model, ids_B_L, mask_B_L, chosen_B_C, packer: Packer | None, **kwargs):
        """The same by TRL's pass, in chunks of rows of like length without padding before them."""
        results, width = [], chosen_B_C.size(1)
        chunks = length_chunks(mask_B_L, width, None if self._in_one_pass else rows_per_chunk(mask_B_L.size(1)))
        for chunk in chunks:
            self._scored_chunk = chunk
            ids_b_L = ids_B_L[chunk.rows_b].gather(1, chunk.moved_b_L)
            # attention never looks at what follows, but a router counts tokens
            mask_b_L = chunk.mask_b_L if kwargs.get("compute_aux_loss") else torch.ones_like(ids_b_L)
            try:
                logprobs, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                    model, ids_b_L, mask_b_L, chunk.scored_width, **kwargs
                )
            finally:
                self._scored_chunk = None
            scored = [None if x is None else chunk.completions(x, width) for x in (logprobs, entropies)]
            results.append((*scored, aux_loss))
        order = torch.cat([c.rows_b for c in chunks]).argsort()
        logprobs, entropies = (
            # 0 off own tokens: chunks differ from pass to pass, and TRL takes ratios everywhere
            None if parts[0] is None else torch.cat(parts)[order].masked_fill(~chosen_B_C, 0)
            for parts in list(zip(*results, strict=True))[:2]
        )
        aux_losses = [result[2] for result in results if result[2] is not None]
        return logprobs, entropies, torch.stack(aux_losses).mean() if aux_losses else None

    def _score_rows(self, output: dict[str, torch.Tensor]) -> None:
        """One pass over the rows without gradients, for what is read on the way."""
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        with torch.no_grad():
            self._get_per_token_logps_and_entropies(
                self.model, input_ids, attention_mask, output["completion_ids"].size(1)
            )

    def _turn_index(self, like_B_C: torch.Tensor) -> torch.Tensor:
        """Own turn of each completion token, -1 for the environment's, the prefix's and padding."""
        index_B_C = torch.full_like(like_B_C, -1)
        for row, data in enumerate(self._rows):
            index_B_C[row, : len(data.turn_index)] = torch.tensor(data.turn_index)
        return index_B_C

    @staticmethod
    def _per_token(numbers_B_T: torch.Tensor, turn_index_B_C: torch.Tensor) -> torch.Tensor:
        """Numbers (B, C), float32, of the tokens from those of the turns; 0 off own turns and in blank rows."""
        numbers_B_T = numbers_B_T.float().to(turn_index_B_C.device)
        missing = len(turn_index_B_C) - len(numbers_B_T)
        padded_B_T = torch.nn.functional.pad(numbers_B_T, (0, 0, 0, missing))
        return torch.where(turn_index_B_C >= 0, padded_B_T.gather(1, turn_index_B_C.clamp(min=0)), 0.0)

    @staticmethod
    def _first_tokens(turn_index_B_C: torch.Tensor) -> torch.Tensor:
        """True at the first token of each own action: the decision that the critic values."""
        before = torch.nn.functional.pad(turn_index_B_C[:, :-1], (1, 0), value=-1)
        return (turn_index_B_C >= 0) & (turn_index_B_C != before)
