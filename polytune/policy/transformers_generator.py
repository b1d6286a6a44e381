"""The transformers generator: lock-step sampling with a key-value cache that lives across turns.

A turn costs one forward pass over the new tokens of all running branches. They stand side by side in one sequence, so
only attention, which looks into each branch's row of the cache (``row_cache.py``), is padded. A model that cannot be
run like that (``packer.py``) takes blocks that are padded on the left, so that the last column always holds the token
to sample from; padding is written to a spare slot that nothing attends to. Prompts that begin several branches run
once. A fork starts from the logits that its parent stored, so it computes no prefix token again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from polytune.policy.canary import attention_kinds, check_cache
from polytune.policy.generator import Sample, SampleKey, TokenCounters, sample_uniform
from polytune.policy.loading import positions_of
from polytune.policy.packer import find_packer
from polytune.policy.row_cache import CachedBranch, Point, RowCache, next_block, seen_mask


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
        self.max_positions = positions_of(model)
        self.temperature, self.greedy = temperature, greedy
        self.factors: Sequence[float] = ()
        self.max_action_tokens, self.stop_ids = max_action_tokens, frozenset(stop_ids)
        self.counters = TokenCounters()
        self.epoch = 0
        self._packer = find_packer(_bare(model))[0]
        self._checked = checked
        self._observes = self._runs = False
        self._hidden_1_L_H: torch.Tensor | None = None  # of the block that has just run
        self.reset()

    def observe(self) -> None:
        """From now on samples tell their entropies and the hidden states that they come from."""
        _bare(self.model).base_model.register_forward_hook(self._keep_hidden)
        self._observes = True

    def _keep_hidden(self, module, args, output) -> None:
        if self._runs:
            self._hidden_1_L_H = output.last_hidden_state

    # ------------------------------------------------------------------ the contract

    def reset(self) -> None:
        """Forget every branch (the weights have changed): sampling or forking one from before is an error."""
        self.epoch += 1
        self.cache = RowCache()

    def open(self, ids: Sequence[int], key: SampleKey, *, forkable: bool = False) -> CachedBranch:
        """A new branch that begins with ``ids``; ``forkable`` keeps the logits of its sampling points for forks."""
        if not ids:
            raise ValueError("a branch needs at least one token to begin with.")
        return CachedBranch(key=key, ids=list(ids), forkable=forkable, epoch=self.epoch)

    def extend(self, branch: CachedBranch, ids: Sequence[int]) -> None:
        """As ``Generator`` says; the tokens run with the next ``sample``."""
        branch.ids.extend(ids)

    def fork(self, branch: CachedBranch, length: int, key: SampleKey, *, begun: int = 0) -> CachedBranch:
        """As ``Generator`` says; keys and values of the prefix are shared."""
        if not 0 < length <= len(branch.ids):
            raise ValueError(f"cannot fork at token {length}: the branch has {len(branch.ids)} tokens.")
        self._check_current(branch)
        holder = branch.source or branch  # an unloaded fork has nothing of its own yet
        if branch.closed and holder.row < 0 and holder.parked is None:
            raise ValueError("cannot fork a closed branch whose cache is freed: fork it before closing it.")
        point = branch.points.get(length)
        shared = min(length, branch.cached) if point is not None else min(length - 1, branch.cached)
        fork = CachedBranch(key=key, ids=branch.ids[:length], begun=begun, epoch=self.epoch)
        fork.share(holder, shared)
        if point is not None:
            fork.points[length] = point
        self.counters.reused += shared
        self.counters.recomputed += length - shared
        self.counters.prefilled -= length - shared  # counted as recomputed, not once more when it runs
        return fork

    def close(self, branches: Iterable[CachedBranch]) -> None:
        """As ``Generator`` says; a cache that forks still need stays."""
        for branch in branches:
            branch.closed = True
            branch.points.clear()
            if not branch.waiting_forks:
                branch.parked = None
            branch.release_source()

    @torch.inference_mode()
    def sample(self, branches: Sequence[CachedBranch], turns: Sequence[int]) -> list[Sample]:
        """As ``Generator`` says, all branches in one pass a token."""
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
        self._share_prompts(branches)
        self.cache = self.cache.seat(branches)
        ids: list[list[int]] = [[] for _ in branches]
        logprobs: list[list[float]] = [[] for _ in branches]
        entropies: list[list[float]] = [[] for _ in branches]
        hidden: list[torch.Tensor | None] = [None] * len(branches)
        active, most = list(range(len(branches))), [self.max_action_tokens - branch.begun for branch in branches]
        for token in range(max(most)):
            points = self._next_logits([branches[i] for i in active])
            if token == 0:
                hidden = [point[1] for point in points]
                for branch, point in zip(branches, points, strict=True):
                    if branch.forkable:
                        branch.points[len(branch.ids)] = point
            uniforms = [sample_uniform(branches[i].key, turns[i], token) for i in active]
            chosen, scores, spreads = self._choose(torch.stack([p[0] for p in points]), uniforms, self._factor(token))
            for n, i in enumerate(active):
                branches[i].ids.append(chosen[n])
                ids[i].append(chosen[n])
                logprobs[i].append(scores[n])
                entropies[i] += spreads[n : n + 1]
            self.counters.sampled += len(active)
            active = [i for i in active if ids[i][-1] not in self.stop_ids and len(ids[i]) < most[i]]
            if not active:
                break
        for branch in branches:
            branch.begun = 0
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

    def _next_logits(self, branches: Sequence[CachedBranch]) -> list[Point]:
        """What follows the last token of each branch, running what each has not run yet."""
        pending = sorted((b for b in branches if b.cached < len(b.ids)), key=lambda branch: branch.row)
        found: dict[int, Point] = {}
        if pending:
            self._make_room(max(len(b.ids) for b in branches))
            run = self._run_packed if self._packer is not None else self._run_padded
            self._runs = self._observes
            try:
                logits_R_V, hidden_R_H = run(pending)
            finally:
                self._runs = False
            self.counters.prefilled += sum(len(b.ids) - b.cached for b in pending)
            hidden_R = [None] * len(pending) if hidden_R_H is None else hidden_R_H
            for branch, logits_V, hidden_H in zip(pending, logits_R_V, hidden_R, strict=True):
                branch.cached = len(branch.ids)
                found[id(branch)] = (logits_V, hidden_H)
        return [found[id(b)] if id(b) in found else b.points[len(b.ids)] for b in branches]

    def _run_packed(self, branches: Sequence[CachedBranch]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (R, V) and, if observed, hidden states (R, H) after the last token of each branch."""
        packer, model = self._packer, self.model
        block = next_block(self.cache, branches, model.dtype, model.device, packer.last_layer)
        with packer.running(block, block.last_n):
            arguments = packer.arguments(block) | {"past_key_values": self.cache, "use_cache": True}
            logits = model(**arguments).logits
        rows = len(branches)
        return logits[0, :rows], None if self._hidden_1_L_H is None else self._hidden_1_L_H[0, :rows]

    def _run_padded(self, branches: Sequence[CachedBranch]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same with all rows of the buffer, padded on the left; position -1 marks padding."""
        rows, width = len(self.cache.rows), max(len(b.ids) - b.cached for b in branches)
        input_BQ = np.zeros((rows, width), dtype=np.int64)
        position_BQ = np.full((rows, width), -1, dtype=np.int64)
        for branch in branches:
            new = branch.ids[branch.cached :]
            input_BQ[branch.row, width - len(new) :] = new
            position_BQ[branch.row, width - len(new) :] = range(branch.cached, len(branch.ids))
        device, length = self.model.device, int(position_BQ.max()) + 1
        input_BQ, position_BQ = (torch.from_numpy(x).to(device) for x in (input_BQ, position_BQ))
        rows_BQ = torch.arange(rows, device=device)[:, None].expand(-1, width)
        at_BQ = torch.where(position_BQ < 0, self.cache.slots - 1, position_BQ)
        self.cache.write(rows_BQ.flatten(), at_BQ.flatten(), length)
        position_BQ = position_BQ.clamp(min=0)  # padding looks at position 0 only, so its softmax is defined
        output = self.model(
            input_ids=input_BQ,
            attention_mask=seen_mask(position_BQ, length, self.model.dtype),
            position_ids=position_BQ,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows_R = torch.tensor([b.row for b in branches], device=device)
        return output.logits[rows_R, -1], None if self._hidden_1_L_H is None else self._hidden_1_L_H[rows_R, -1]

    # ------------------------------------------------------------------ rows of the buffer

    def _share_prompts(self, branches: Sequence[CachedBranch]) -> None:
        """Branches that begin with the same tokens get them from one that runs them."""
        fresh: dict[tuple[int, ...], list[CachedBranch]] = defaultdict(list)
        for branch in branches:
            if not branch.cached and branch.source is None:
                fresh[tuple(branch.ids)].append(branch)
        groups = [group for group in fresh.values() if len(group) > 1]
        if not groups:
            return
        first = [CachedBranch(group[0].key, list(group[0].ids), epoch=self.epoch) for group in groups]
        self.cache = self.cache.seat(first)
        for holder, point, group in zip(first, self._next_logits(first), groups, strict=True):
            holder.closed = True
            for branch in group:
                branch.share(holder, len(holder.ids))
                branch.points[len(holder.ids)] = point

    def _make_room(self, tokens: int) -> None:
        if self.max_positions is not None and tokens > self.max_positions:
            raise ValueError(
                f"an episode has reached {tokens} tokens, but the policy has only {self.max_positions} positions "
                "(max_position_embeddings): shorten task_horizon or use a policy with a longer context."
            )
        self.cache.make_room(tokens)


def _bare(model: PreTrainedModel) -> PreTrainedModel:
    """Without its adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
