"""The critic in the trainer: what it reads while rows are scored, its values, its passes, its part of a checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

from polytune.rollout import find_branching
from polytune.running.watchdog import stage
from polytune.trainer.advantages import TurnAdvantages
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.critic import (
    PASSES,
    RATES,
    Critic,
    Decisions,
    Trunk,
    copied_trunk,
    decision_turns,
    explained_variance,
    in_order,
    variance_sums,
)
from polytune.trainer.critic_adapter import CriticAdapter
from polytune.trainer.scored import Reader
from polytune.trainer.scoring import Chunk, PackedRows
from polytune.trainer.value_features import NUM_FEATURES, value_features, with_vine_values


class LearnsValues:
    """Mixin before a TRL trainer: a value of each decision, for GAE; without a critic it changes nothing.

    Expects ``self._trees`` and ``self._rows`` of the update. ``self.critic_seconds`` adds up what values and passes
    took (kind ``shared``: without its share of the policy's own backward pass).
    """

    critic: Critic | None = None
    critic_adapter: CriticAdapter | None = None
    critic_seconds = 0.0

    # ------------------------------------------------------------------ what it is made of

    def _build_critic(self, policy: nn.Module, args: PolychromicConfig) -> None:
        """Raises ValueError for an adapter that finds no layer."""
        self._first_B_C: torch.Tensor | None = None  # decisions whose hidden states the next pass keeps
        if args.has_critic:
            trunk = self._own_trunk(policy, args) if args.critic == "own" else None
            self.critic = Critic(
                policy.config.get_text_config().hidden_size,
                NUM_FEATURES,
                width=args.critic_width,
                seed=args.seed,
                trunk=trunk,
                learning_rate=args.critic_learning_rate or RATES[args.critic],
                passes=args.critic_passes or PASSES[args.critic],
                minibatches=args.critic_minibatches,
                max_grad_norm=args.max_grad_norm,
                epsilon=args.adam_epsilon,
                reduce=self._sum_tensor if self.accelerator.num_processes > 1 else None,
            ).to(self.accelerator.device)

    def _sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        return self.accelerator.reduce(tensor, reduction="sum")

    def _own_trunk(self, policy: nn.Module, args: PolychromicConfig) -> Trunk:
        """A copy of the policy's trunk in float32, or an adapter of the critic's on its frozen base."""
        if args.critic_lora_r:
            self.critic_adapter = adapter = CriticAdapter(policy, args.critic_lora_r, seed=args.seed)
            return Trunk(adapter, self._run_adapted, self._packer(policy))
        packs = self._packer(policy) is not None
        return copied_trunk(self._transformer, self.accelerator.autocast, packs=packs)

    def _run_adapted(self, **arguments) -> torch.Tensor:
        with self.critic_adapter.activate(), self.accelerator.autocast():
            return self._transformer(**arguments).last_hidden_state

    # ------------------------------------------------------------------ what it reads

    def _readers(self, ids_B_L: torch.Tensor, width: int) -> list[Reader]:
        """The critic reads a pass over fresh rollouts, and one for the loss of kind ``shared``."""
        readers = super()._readers(ids_B_L, width)
        if self.critic is None or self.args.critic == "own" or (self.observes and not torch.is_grad_enabled()):
            return readers
        if self._first_B_C is None:
            if self._rows is None or torch.is_grad_enabled():
                return readers
            self._first_B_C = self._first_tokens(self._turn_index(ids_B_L[:, -width:]))
        self._found: list[tuple[torch.Tensor, torch.Tensor]] = []
        return [*readers, self._keep_hidden]

    def _keep_hidden(self, chunk: Chunk | PackedRows, hidden: torch.Tensor) -> None:
        """The hidden states before the decisions of some rows."""
        self._found.append((chunk.rows_b, chunk.before(hidden, self._first_B_C[chunk.rows_b])))

    def _hidden(self) -> torch.Tensor:
        """(D, H) of the pass that has just been made, in the order of :class:`Decisions`."""
        return in_order(self._found, self._first_B_C)

    def _decisions(self, output: dict[str, torch.Tensor], first_B_C: torch.Tensor) -> Decisions:
        """The decisions of ``self._rows``, whose scoring pass has been made."""
        rows_D, turns_D = self._decision_turns(first_B_C)
        features_B_T_F = value_features(
            self._trees,
            self.task.horizon,
            self.objective.gamma,
            foresees=find_branching(self.rollout.rollout_states).foresees,
            vine_values=self.args.vine_values,
        )
        return Decisions(
            torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
            torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
            first_B_C,
            features_B_T_F[rows_D, turns_D].float().to(first_B_C.device),
            self._hidden_before() if self.args.critic != "own" else None,
        )

    def _hidden_before(self) -> torch.Tensor:
        """(D, H) before the decisions of ``self._rows``, from the rollouts or from their scoring pass."""
        return self._observed_hidden() if self.observes else self._hidden()

    @staticmethod
    def _decision_turns(first_B_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows (D,), turns (D,)) of the decisions, on the CPU."""
        return decision_turns(first_B_C.cpu())

    # ------------------------------------------------------------------ what it says and learns

    @stage("critic")
    def _values(self, decisions: Decisions) -> torch.Tensor:
        """Values (B, T) before each own turn, float64 on the CPU; rows and turns as in :func:`turn_advantages`."""
        begin = time.perf_counter()
        rows_D, turns_D = self._decision_turns(decisions.first_B_C)
        values_B_T = torch.zeros(len(self._rows), int(turns_D.max()) + 1, dtype=torch.float64)
        values_B_T[rows_D, turns_D] = self.critic.values(decisions).double().cpu()
        self.critic_seconds += time.perf_counter() - begin
        return values_B_T

    @stage("critic")
    def _learn_values(self, output: dict[str, torch.Tensor], decisions: Decisions, turns: TurnAdvantages) -> None:
        """The critic's passes; for kind ``shared`` also what the policy's loss needs of them."""
        begin = time.perf_counter()
        targets_B_T = turns.returns_B_T
        if self.args.vine_values:
            targets_B_T = with_vine_values(self._trees, targets_B_T, self.objective.gamma)
        first_B_C = decisions.first_B_C
        targets_D = targets_B_T[self._decision_turns(first_B_C)].float().to(first_B_C.device)
        salt = f"{self.args.seed} {self.state.global_step}"
        for name, value in self.critic.learn(decisions, targets_D, salt=salt).items():
            self._record(f"critic/{name}", value)
        if self.args.critic == "shared":
            output["value_mask"] = first_B_C
            output["value_targets"] = torch.zeros(first_B_C.shape, device=first_B_C.device)
            output["value_targets"][first_B_C] = targets_D
            features_B_C_F = torch.zeros(*first_B_C.shape, NUM_FEATURES, device=first_B_C.device)
            features_B_C_F[first_B_C] = decisions.features_D_F
            output["value_features"] = features_B_C_F
            output["num_decisions"] = self.accelerator.gather(first_B_C.sum()).sum()
        self.critic_seconds += time.perf_counter() - begin

    def _compute_loss(self, model, inputs):
        """For kind ``shared``, the value loss joins the policy's."""
        self._first_B_C = inputs.get("value_mask")
        loss = super()._compute_loss(model, inputs)
        if "value_mask" in inputs:
            value_loss = self._shared_value_loss(inputs)
            loss = loss + self.args.value_coef * value_loss / self._normaliser(inputs["num_decisions"])
        return loss

    def _shared_value_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Half the squared error of a minibatch's decisions, summed: it moves the trunk, the head stays."""
        first_b_C = inputs["value_mask"]
        if not first_b_C.any():
            return inputs["value_targets"].new_zeros(())
        head = {name: parameter.detach() for name, parameter in self.critic.head.named_parameters()}
        values_D = functional_call(self.critic.head, head, (self._hidden(), inputs["value_features"][first_b_C]))
        return 0.5 * ((values_D - inputs["value_targets"][first_b_C]) ** 2).sum()

    def _log_values(self, turns: TurnAdvantages, values_B_T: torch.Tensor) -> None:
        """Of fresh episodes, before anything was learnt from them."""
        mask = turns.turns_mask_B_T
        sums = self._sum(variance_sums(values_B_T[mask], turns.returns_B_T[mask]))
        if math.isfinite(explained := explained_variance(sums)):
            self._record("critic/explained_variance", explained)
        self._record("critic/value_mean", sums[1] / sums[0])

    # ------------------------------------------------------------------ checkpoints

    def _save_extra_state(self, folder: Path) -> None:
        super()._save_extra_state(folder)
        if self.critic is not None:
            self.critic.save(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.critic is not None:
            self.critic.load(Path(checkpoint))
