"""The transformers generator: lock-step sampling with a key-value cache that lives across turns.

One row of a preallocated buffer belongs to each running branch. A turn costs one forward pass over the new tokens of
all running branches. Rows of different length need no alignment: a token is written at its own position, and a mask
over positions does the rest. Blocks are padded on the left, so the last column always holds the token to sample from;
padding is written to a spare slot that nothing attends to. Branches that end leave the buffer when a quarter of it
is idle; branches that may still be forked are parked outside of it. A fork copies its prefix's keys and values when
it first runs and starts from the logits that its parent stored there, so it computes no prefix token again.
Branches that begin with the same tokens (a group's prompt) run them once, and their rows are copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from polytune.policy.canary import attention_kinds, check_cache
from polytune.policy.generator import Branch, Sample, SampleKey, TokenCounters, sample_uniform

Layers = list[tuple[torch.Tensor, torch.Tensor]]
#: logits (V,) after a branch's last token and, of a generator that observes, the hidden state (H,) they come from
Point = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(eq=False, slots=True)
class CachedBranch(Branch):
    """A branch and where its keys and values are: a buffer row, its own parked copy, or (unloaded fork) its source."""

    forkable: bool = False
    cached: int = 0
    row: int = -1
    parked: Layers | None = None
    source: CachedBranch | None = None
    waiting_forks: int = 0
    closed: bool = False
    #: the generator's cache that it belongs to, counted in resets
    epoch: int = 0
    #: branch length -> what was seen there, for forks
    points: dict[int, Point] = field(default_factory=dict)


class RowCache(Cache):
    """Keys and values of the running branches: per layer two buffers of shape (rows, heads, slots, head size)."""

    def __init__(self, num_rows: int = 0) -> None:
        super().__init__(layers=[])
        self.buffers: Layers = []
        self.num_rows, self.slots = num_rows, 0
        self.rows_B1 = self.positions_BQ = torch.empty(0, dtype=torch.long)
        self.length = 0
        self.all_rows = True  # that run in this block

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write (B, heads, Q, size) at each row's own positions; return views over all positions in use."""
        if layer_idx == len(self.buffers):
            _, heads, _, size = key_states.shape
            self.buffers.append(
                (
                    key_states.new_zeros(self.num_rows, heads, self.slots, size),
                    value_states.new_zeros(self.num_rows, value_states.shape[1], self.slots, value_states.shape[3]),
                )
            )
        keys, values = self.buffers[layer_idx]
        keys[self.rows_B1, :, self.positions_BQ] = key_states.transpose(1, 2)
        values[self.rows_B1, :, self.positions_BQ] = value_states.transpose(1, 2)
        if not self.all_rows:
            keys, values = keys[self.rows_B1[:, 0]], values[self.rows_B1[:, 0]]
        return keys[:, :, : self.length], values[:, :, : self.length]

    def repeat(self, origin_B: torch.Tensor) -> None:
        """Make each row what row ``origin_B`` of it is, in the positions in use."""
        copies = (origin_B != torch.arange(len(origin_B), device=origin_B.device)).nonzero()[:, 0]
        for pair in self.buffers:
            for buffer in pair:
                buffer[copies, :, : self.length] = buffer[origin_B[copies], :, : self.length]

    def grow(self, slots: int) -> None:
        """Make room for ``slots`` positions."""
        for layer, pair in enumerate(self.buffers):
            grown = []
            for buffer in pair:
                grown.append(buffer.new_zeros(*buffer.shape[:2], slots, buffer.shape[3]))
                grown[-1][:, :, : self.slots] = buffer
            self.buffers[layer] = tuple(grown)
        self.slots = slots


class TransformersGenerator:
    """Generator over any causal transformer with full attention (``sdpa`` or ``eager``).

    Args:
        model: the policy; its weights are read at every call.
        temperature: of the sampling distribution; logprobs are those of that distribution.
        max_action_tokens: tokens of one action at most.
        stop_ids: tokens that end an action earlier.
        greedy: take the most likely token instead of sampling.
        checked: the model is known to give the same logprobs with the cache; else that is tried before it samples.

    ``factors``: on the temperature, by the number of a token in its action; the last one holds beyond them. None by
    default; they may change between calls.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        max_action_tokens: int = 1,
        stop_ids: Sequence[int] = (),
        greedy: bool = False,
        checked: bool = False,
    ):
        self.model = model
        config = model.config.get_text_config()
        self.attention = config._attn_implementation
        if self.attention not in ("sdpa", "eager"):
            raise ValueError(
                f"the transformers generator needs attn_implementation 'sdpa' or 'eager', got {self.attention!r}: load "
                "the policy with one of them."
            )
        kinds = attention_kinds(config)
        if kinds != {"full_attention"}:
            raise ValueError(
                f"the transformers generator needs full attention in every layer, {type(model).__name__} has "
                f"{', '.join(sorted(kinds))}: choose another policy."
            )
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self.temperature, self.greedy = temperature, greedy
        self.factors: Sequence[float] = ()
        self.max_action_tokens, self.stop_ids = max_action_tokens, frozenset(stop_ids)
        self.counters = TokenCounters()
        self.epoch = 0
        self._checked = checked
        self._observes = self._runs = False
        self._hidden_B_H: torch.Tensor | None = None  # of the block that has just run
        self.reset()

    def observe(self) -> None:
        """From now on samples tell their entropies and the hidden states that they come from."""
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        model.base_model.register_forward_hook(self._keep_hidden)
        self._observes = True

    def _keep_hidden(self, module, args, output) -> None:
        if self._runs:
            self._hidden_B_H = output.last_hidden_state[:, -1]

    # ------------------------------------------------------------------ the contract

    def reset(self) -> None:
        """Forget every branch (the weights have changed): sampling or forking one from before is an error."""
        self.epoch += 1
        self.rows: list[CachedBranch] = []
        self.cache = RowCache()

    def open(self, ids: Sequence[int], key: SampleKey, *, forkable: bool = False) -> CachedBranch:
        """A new branch that begins with ``ids``; ``forkable`` keeps the logits of its sampling points for forks."""
        if not ids:
            raise ValueError("a branch needs at least one token to begin with.")
        return CachedBranch(key=key, ids=list(ids), forkable=forkable, epoch=self.epoch)

    def extend(self, branch: CachedBranch, ids: Sequence[int]) -> None:
        branch.ids.extend(ids)

    def fork(self, branch: CachedBranch, length: int, key: SampleKey) -> CachedBranch:
        if not 0 < length <= len(branch.ids):
            raise ValueError(f"cannot fork at token {length}: the branch has {len(branch.ids)} tokens.")
        self._check_current(branch)
        holder = branch.source or branch  # an unloaded fork has nothing of its own yet
        if branch.closed and holder.row < 0 and holder.parked is None:
            raise ValueError("cannot fork a closed branch whose cache is freed: fork it before closing it.")
        point = branch.points.get(length)
        shared = min(length, branch.cached) if point is not None else min(length - 1, branch.cached)
        fork = CachedBranch(key=key, ids=branch.ids[:length], cached=shared, source=holder, epoch=self.epoch)
        if point is not None:
            fork.points[length] = point
        holder.waiting_forks += 1
        self.counters.reused += shared
        self.counters.recomputed += length - shared
        self.counters.prefilled -= length - shared  # counted as recomputed, not once more when it runs
        return fork

    def close(self, branches: Iterable[CachedBranch]) -> None:
        for branch in branches:
            branch.closed = True
            branch.points.clear()
            if not branch.waiting_forks:
                branch.parked = None
            self._release_source(branch)

    @torch.inference_mode()
    def sample(self, branches: Sequence[CachedBranch], turns: Sequence[int]) -> list[Sample]:
        for branch in branches:
            self._check_current(branch)
            if branch.closed:
                raise ValueError(f"cannot sample branch {tuple(branch.key)}: it is closed.")
        if not branches:
            return []
        training = self.model.training
        if training:
            self.model.eval()
        try:
            self.check()
            return self._sample(branches, turns)
        finally:
            if training:
                self.model.train()

    @torch.inference_mode()
    def check(self) -> None:
        """Refuse a model that scores a branch otherwise with the cache than without it, once; it is not training.

        Raises:
            CacheError: names the model's kind and the difference.
        """
        if not self._checked:
            check_cache(self.model, type(self))
            self._checked = True

    def _check_current(self, branch: CachedBranch) -> None:
        if branch.epoch != self.epoch:
            raise ValueError(f"branch {tuple(branch.key)} was opened before reset(): open it again.")

    # ------------------------------------------------------------------ one turn

    def _sample(self, branches: Sequence[CachedBranch], turns: Sequence[int]) -> list[Sample]:
        self._seat(branches)
        ids: list[list[int]] = [[] for _ in branches]
        logprobs: list[list[float]] = [[] for _ in branches]
        entropies: list[list[float]] = [[] for _ in branches]
        hidden: list[torch.Tensor | None] = [None] * len(branches)
        active = list(range(len(branches)))
        for token in range(self.max_action_tokens):
            logits_A_V, hidden_A_H = self._next_logits([branches[i] for i in active])
            if token == 0:
                hidden = [None] * len(branches) if hidden_A_H is None else list(hidden_A_H)
                for i, logits_V in zip(active, logits_A_V, strict=True):
                    if branches[i].forkable:
                        branches[i].points[len(branches[i].ids)] = (logits_V, hidden[i])
            uniforms = [sample_uniform(branches[i].key, turns[i], token) for i in active]
            chosen, scores, spreads = self._choose(logits_A_V, uniforms, self._factor(token))
            for n, i in enumerate(active):
                branches[i].ids.append(chosen[n])
                ids[i].append(chosen[n])
                logprobs[i].append(scores[n])
                entropies[i] += spreads[n : n + 1]
            self.counters.sampled += len(active)
            active = [i for i in active if ids[i][-1] not in self.stop_ids]
            if not active:
                break
        told = zip(ids, logprobs, entropies, hidden, strict=True)
        return [Sample(tuple(a), tuple(b), tuple(c), d) for a, b, c, d in told]

    def _factor(self, token: int) -> float:
        return self.factors[min(token, len(self.factors) - 1)] if self.factors else 1.0

    def _choose(
        self, logits_A_V: torch.Tensor, uniforms: list[float], factor: float = 1.0
    ) -> tuple[list[int], list[float], list[float]]:
        """Inverse-CDF sampling in float64: the first token whose cumulated probability exceeds the uniform number.
        Tokens, their logprobs and, if observed, entropies."""
        logprobs_A_V = torch.log_softmax(logits_A_V.float() / (self.temperature * factor), dim=-1)
        if self.greedy:
            chosen_A = logprobs_A_V.argmax(dim=-1)
        else:
            cumulated_A_V = logprobs_A_V.double().exp().cumsum(dim=-1)
            target_A = torch.tensor(uniforms, dtype=torch.float64, device=logits_A_V.device) * cumulated_A_V[:, -1]
            chosen_A = torch.searchsorted(cumulated_A_V, target_A[:, None], right=True)[:, 0]
            chosen_A = chosen_A.clamp(max=logits_A_V.shape[-1] - 1)
        scores_A = logprobs_A_V.gather(-1, chosen_A[:, None])[:, 0]
        if not bool(torch.isfinite(scores_A).all()):
            raise FloatingPointError(
                "the policy's logits are not finite: it has diverged. Lower learning_rate, or go back to an earlier "
                "checkpoint."
            )
        spreads = [] if not self._observes else (-(logprobs_A_V.exp() * logprobs_A_V).sum(dim=-1)).tolist()
        return chosen_A.tolist(), scores_A.tolist(), spreads

    def _next_logits(self, branches: list[CachedBranch]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (A, V) after the last token of each branch, running what each has not run yet, and their hidden states
        (A, H) if observed."""
        pending = [len(b.ids) - b.cached for b in branches]
        if not any(pending):
            logits, hidden = zip(*(b.points[len(b.ids)] for b in branches), strict=True)
            return torch.stack(logits), torch.stack(hidden) if self._observes else None
        width = max(pending)
        rows = len(self.rows)
        longest = max(len(b.ids) for b in branches)
        self._make_room(longest)
        origin_B = self._origins(branches)
        input_BQ = np.zeros((rows, width), dtype=np.int64)
        position_BQ = np.full((rows, width), -1, dtype=np.int64)
        for branch, count in zip(branches, pending, strict=True):
            if count:
                input_BQ[branch.row, width - count :] = branch.ids[branch.cached :]
                position_BQ[branch.row, width - count :] = range(branch.cached, len(branch.ids))
                branch.cached = len(branch.ids)
        self.counters.prefilled += sum(n for b, n in zip(branches, pending, strict=True) if origin_B[b.row] == b.row)
        logits_B_V = self._forward(torch.from_numpy(input_BQ), torch.from_numpy(position_BQ), longest, origin_B)
        rows_A = torch.tensor([b.row for b in branches], device=logits_B_V.device)
        logits_A_V, hidden_A_H = logits_B_V[rows_A], self._hidden_B_H[rows_A] if self._observes else None
        for index, (branch, count) in enumerate(zip(branches, pending, strict=True)):
            if not count:
                logits_A_V[index], hidden_H = branch.points[len(branch.ids)]
                if hidden_A_H is not None:
                    hidden_A_H[index] = hidden_H
        return logits_A_V, hidden_A_H

    def _origins(self, branches: Sequence[CachedBranch]) -> list[int]:
        """For each row of the buffer the first one that has run nothing yet and has the same tokens; else itself."""
        origin_B, first = list(range(len(self.rows))), {}
        for branch in branches:
            if not branch.cached:
                origin_B[branch.row] = first.setdefault(tuple(branch.ids), branch.row)
        return origin_B

    def _forward(
        self, input_BQ: torch.Tensor, position_BQ: torch.Tensor, length: int, origin_B: Sequence[int]
    ) -> torch.Tensor:
        """Run one block; position -1 marks padding. A row whose ``origin_B`` is another row becomes a copy of that.
        Returns the last column's logits (B, V)."""
        device = self.model.device
        run = [row for row, origin in enumerate(origin_B) if row == origin]
        if len(run) < len(origin_B):
            input_BQ, position_BQ = input_BQ[run], position_BQ[run]
        input_BQ, position_BQ = input_BQ.to(device), position_BQ.to(device)
        cache, padding_BQ = self.cache, position_BQ < 0
        cache.length, cache.all_rows = length, len(run) == len(origin_B)
        cache.rows_B1 = torch.tensor(run, device=device)[:, None]
        cache.positions_BQ = torch.where(padding_BQ, cache.slots - 1, position_BQ)
        position_BQ = position_BQ.clamp(min=0)  # padding looks at position 0 only, so its softmax is defined
        mask_B1QK = torch.arange(length, device=device) <= position_BQ[:, None, :, None]
        # as numbers, once: sdpa would make them of a boolean mask in every layer
        mask_B1QK = torch.where(mask_B1QK, 0.0, torch.finfo(self.model.dtype).min).to(self.model.dtype)
        self._runs = self._observes
        try:
            output = self.model(
                input_ids=input_BQ,
                attention_mask=mask_B1QK,
                position_ids=position_BQ,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        finally:
            self._runs = False
        logits_B_V = output.logits[:, -1]
        if cache.all_rows:
            return logits_B_V
        copy_B = torch.tensor([run.index(origin) for origin in origin_B], device=device)
        cache.repeat(torch.tensor(list(origin_B), device=device))
        if self._hidden_B_H is not None:
            self._hidden_B_H = self._hidden_B_H[copy_B]
        return logits_B_V[copy_B]

    # ------------------------------------------------------------------ rows of the buffer

    def _seat(self, branches: Sequence[CachedBranch]) -> None:
        """Give every branch a row; rebuild the buffer when a branch is new to it or a quarter of the rows is idle."""
        if all(b.row >= 0 for b in branches) and len(branches) > 0.75 * len(self.rows):
            return
        slots = max(len(b.ids) for b in branches)
        old_rows, old = self.rows, self.cache
        staying = {id(branch) for branch in branches}
        for branch in old_rows:
            if id(branch) not in staying and (branch.waiting_forks or not branch.closed):
                branch.parked = [(k[branch.row, :, : branch.cached].clone(), v[branch.row, :, : branch.cached].clone())
                                 for k, v in old.buffers]  # fmt: skip
        self.cache = RowCache(len(branches))
        self.cache.slots = max(old.slots, self._round_up(slots))
        if old.buffers or any(b.cached for b in branches):
            self._copy_rows(branches, old)
        for branch in old_rows:
            branch.row = -1
        for row, branch in enumerate(branches):
            branch.row, branch.parked = row, (branch.parked if branch.waiting_forks else None)
            self._release_source(branch)
        self.rows = list(branches)

    def _copy_rows(self, branches: Sequence[CachedBranch], old: RowCache) -> None:
        """Fill new buffers from the old ones, from parked copies and from the sources of forks."""
        holders = [b.source or b for b in branches]
        template = old.buffers or next(h.parked for h in holders if h.parked)
        for layer, pair in enumerate(template):
            new = tuple(t.new_zeros(len(branches), t.shape[-3], self.cache.slots, t.shape[-1]) for t in pair)
            for row, (branch, holder) in enumerate(zip(branches, holders, strict=True)):
                if not branch.cached:
                    continue
                have = old.buffers[layer] if holder.row >= 0 else holder.parked[layer]
                for target, tensor in zip(new, have, strict=True):
                    origin = tensor[holder.row] if holder.row >= 0 else tensor
                    target[row, :, : branch.cached] = origin[:, : branch.cached]
            self.cache.buffers.append(new)

    @staticmethod
    def _release_source(branch: CachedBranch) -> None:
        """An unloaded fork needs its source no longer: it was loaded, or closed."""
        source, branch.source = branch.source, None
        if source is not None:
            source.waiting_forks -= 1
            if source.closed and not source.waiting_forks:
                source.parked = None

    @staticmethod
    def _round_up(tokens: int) -> int:
        return (tokens // 32 + 1) * 32 + 1  # one spare slot at the end for padding

    def _make_room(self, tokens: int) -> None:
        if self.max_positions is not None and tokens > self.max_positions:
            raise ValueError(
                f"an episode has reached {tokens} tokens, but the policy has only {self.max_positions} positions "
                "(max_position_embeddings): shorten task_horizon or use a policy with a longer context."
            )
        if tokens > self.cache.slots - 1:
            self.cache.grow(self._round_up(max(tokens, self.cache.slots * 3 // 2)))
