"""Rows in the trainer: their passes in chunks of like length, and what is known by turn spread over tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from polytune.trainer.scoring import Chunk, length_chunks, rows_per_chunk

#: gets rows of a pass and the last hidden states (b, L, H) that it gave them
Reader = Callable[[Chunk, torch.Tensor], None]


class ScoresRows:
    """Mixin before a TRL trainer: the same logprobs and entropies for less work, and readers of the hidden states.

    Expects ``self._rows`` of the update. Critic and methods read the policy's trunk as it scores rows: whoever wants a
    pass gives a reader (``_readers``), and no pass is made twice.
    """

    _scored: torch.Tensor | None = None
    _scored_chunk: Chunk | None = None  # what runs through the policy at this moment
    _reading: list[Reader] | tuple = ()

    def _watch_trunk(self, transformer: nn.Module) -> None:
        """Hand the last hidden states of the policy's trunk to the readers of a pass."""
        self._transformer = transformer
        transformer.register_forward_hook(self._read_chunk)

    def _read_chunk(self, module, args, output) -> None:
        if self._scored_chunk is not None:
            for read in self._reading:
                read(self._scored_chunk, output.last_hidden_state)

    def _readers(self, ids_B_L: torch.Tensor, width: int) -> list[Reader]:
        """Who reads the pass over these rows that begins; ``width``: columns of the completions."""
        return []

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        """TRL's pass over rows, in chunks of rows of like length without padding before them: same numbers, less work.

        The first pass since ``self._scored`` was cleared leaves its logprobs (B, C) there, and has readers.
        """
        results = []
        # with gradients, DDP takes one forward pass for each backward pass
        one_pass = self.accelerator.num_processes > 1 and torch.is_grad_enabled()
        count = None if one_pass else rows_per_chunk(attention_mask.size(1))
        chunks = length_chunks(attention_mask, logits_to_keep, count)
        self._reading = self._readers(input_ids, logits_to_keep) if self._scored is None else ()
        for chunk in chunks:
            self._scored_chunk = chunk
            ids_b_L = input_ids[chunk.rows_b].gather(1, chunk.moved_b_L)
            # attention never looks at what follows, but a router counts tokens
            mask_b_L = chunk.mask_b_L if kwargs.get("compute_aux_loss") else torch.ones_like(ids_b_L)
            try:
                logprobs, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                    model, ids_b_L, mask_b_L, chunk.scored_width, **kwargs
                )
            finally:
                self._scored_chunk = None
            scored = [None if x is None else chunk.completions(x, logits_to_keep) for x in (logprobs, entropies)]
            results.append((*scored, aux_loss))
        order, padding_B_C = torch.cat([c.rows_b for c in chunks]).argsort(), attention_mask[:, -logits_to_keep:] == 0
        logprobs, entropies = (
            # 0 on padding: chunks differ from pass to pass, and TRL takes ratios everywhere
            None if parts[0] is None else torch.cat(parts)[order].masked_fill(padding_B_C, 0)
            for parts in list(zip(*results, strict=True))[:2]
        )
        aux_losses = [result[2] for result in results if result[2] is not None]
        if self._scored is None:  # the policy is scored first, the reference after it
            self._scored = logprobs
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
