"""What the rollouts tell the trainer, so that no pass scores their tokens again.

The transformers generator computes the logprob of every token that it samples, its entropy and the hidden state that it
comes from, with the weights that the update begins with. Those are the old logprobs, what rules of ``rollout_states``
ask for, and what a critic on the policy's features reads. In float32 they are a scoring pass's numbers to rounding
(mean difference below 1e-6 nats). Under bfloat16 autocast a step with the cache rounds otherwise than a pass over rows
(about 6e-4 nats a token), so there the pass stays; so it does for methods that probe hidden states of all tokens, and
where another policy samples (``behaving.py``).
"""

from __future__ import annotations

import torch


class ReadsRollouts:
    """Mixin before :class:`~polytune.trainer.scored.ScoresRows`: the only change is the pass that is not made.

    ``observes``: whether the generator tells what a pass would. Expects ``self._trees`` and ``self._rows``.
    """

    observes = False
    _rolled = False  # the pass over the rollouts that TRL asks for is still due
    _gap_due = False  # the sampler's logprobs have not been compared with the trainer's yet

    def _observe_rollouts(self) -> None:
        """Ask the generator to observe, where that says the same as a pass."""
        in_float32 = self.forward_dtype == torch.float32 and not self.args.bf16
        if self.policy_config.generator == "transformers" and in_float32 and not self._probes and not self._behaves:
            self.observes = True
            self.generator.observe()

    @property
    def _trl_scores_rollouts(self) -> bool:
        """Whether TRL asks for a pass of the policy over fresh rollouts: not when one optimiser step takes them all."""
        return self.args.gradient_accumulation_steps % (self.args.steps_per_generation * self.num_iterations) != 0

    def _roll_out(self, prompts: list[str]) -> dict[str, list]:
        found = super()._roll_out(prompts)
        self._rolled = self.observes and self._trl_scores_rollouts
        self._gap_due = self.observes
        return found

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        """Of fresh rollouts what was observed, once; else a pass."""
        if not self._rolled:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        self._rolled = False
        logprobs_B_C = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
        for row, data in enumerate(self._rows):
            logprobs_B_C[row, : len(data.logprobs)] = torch.tensor(data.logprobs)
        self._pass_logprobs = logprobs_B_C
        return logprobs_B_C, None, None

    def _observed_hidden(self) -> torch.Tensor:
        """(D, H) before the decisions of ``self._trees``, row by row, turn by turn."""
        turns = [turn for tree in self._trees for trajectory in tree.trajectories() for turn in trajectory.turns]
        return torch.stack([turn.hidden for turn in turns])

    def _minibatch(self, model, inputs):
        """The first one of an update with tokens shows whether the sampler's logprobs are the trainer's, unless
        replayed rows have moved the policy before it."""
        batch = super()._minibatch(model, inputs)
        if self._gap_due and not self._moved:
            sampled_b_C, own_b_C = inputs["sampling_per_token_logps"], batch.mask_b_C.bool()
            self._gap_due = not self._check_sampler(sampled_b_C, batch.logprobs_b_C.detach(), own_b_C)
        return batch
