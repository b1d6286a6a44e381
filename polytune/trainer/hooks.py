"""Where the hooks of methods are called (``polytune.methods``), and where what they remember is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file

from polytune.checks import require
from polytune.config import ObjectiveConfig
from polytune.methods import Method, Minibatch, Seen, Update, build_methods
from polytune.methods.behaviour_kl import BehaviourKL
from polytune.methods.per_set import PerSetRows
from polytune.objective import find_credit
from polytune.rollout import snapshots_on
from polytune.trainer.advantages import TurnAdvantages, sibling_groups, turn_rewards
from polytune.trainer.config import PolychromicConfig
from polytune.trainer.scored import Reader
from polytune.trainer.scoring import Chunk, PackedRows

METHODS_FILE = "methods.safetensors"
#: before the names of tensors that methods send along with the rows
SENT = "methods/"


def methods_of(args: PolychromicConfig, objective: ObjectiveConfig) -> dict[str, Method]:
    """Name -> method: the loss's own terms, then those that the run names, in their order."""
    terms: dict[str, Method] = {}
    if find_credit(objective.credit).deductions is not None:
        terms["per_set"] = PerSetRows()
    if args.kl_coef > 0.0 and args.kl_reference == "behaviour":
        terms["behaviour_kl"] = BehaviourKL(args.kl_coef)
    return terms | build_methods(objective.methods, objective.method_options)


def save_methods(folder: Path, methods: Mapping[str, Method]) -> None:
    """One file of tensors, METHOD/NAME; none where no method remembers anything."""
    state = {f"{name}/{key}": tensor for name, method in methods.items() for key, tensor in method.state().items()}
    if state:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, folder / METHODS_FILE)


def load_methods(folder: Path, methods: Mapping[str, Method], snapshots_on: Callable | None = None) -> None:
    """ValueError when the checkpoint holds other things of a method than it remembers now.

    ``snapshots_on``: what makes snapshots anew (``Method.revisit``); None: of methods that have none.
    """
    path = folder / METHODS_FILE
    found = load_file(path) if path.is_file() else {}
    for name, method in methods.items():
        own = {key.removeprefix(f"{name}/"): found[key] for key in found if key.startswith(f"{name}/")}
        wanted = method.state().keys()
        require(
            own.keys() == wanted,
            f"{path} holds {', '.join(sorted(own)) or 'nothing'} of method {name!r}, which wants "
            f"{', '.join(sorted(wanted))}: another version wrote it, so train from the start in another output_dir.",
        )
        method.restore(own)
        if method.has("revisit"):
            method.revisit(snapshots_on)


class CallsMethods:
    """Mixin before a TRL trainer: calls the hooks of ``self.methods``. Without a method the loss is TRL's.

    Expects ``_trees``, ``_rows``, ``_turn_index``, ``_sum``, ``_record``, ``_score_given`` and ``_draw_seed`` of the
    trainer, and of its
    passes over rows: ``_scored_chunk`` is what they run, and the first one since ``_pass_logprobs`` was cleared leaves
    its logprobs there.
    """

    methods: dict[str, Method]
    _handed: tuple | None = None  # a pass over the rows of a minibatch, for TRL's loss

    # ------------------------------------------------------------------ what they read in passes

    @property
    def _probes(self) -> dict[str, Method]:
        """The methods that read the scoring pass."""
        return {name: method for name, method in self.methods.items() if method.has("probe")}

    @property
    def _reads_everywhere(self) -> bool:
        return bool(self._probes)

    def _readers(self, ids_B_L: torch.Tensor, width: int) -> list[Reader]:
        readers = super()._readers(ids_B_L, width)
        if self._probes and self._rows is not None and not torch.is_grad_enabled():
            self._probed_ids_B_C = ids_B_L[:, -width:]
            self._probed_own_B_C = self._turn_index(self._probed_ids_B_C) >= 0
            self._found_by_probes: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
            readers.append(self._probe)
        return readers

    def _probe(self, chunk: Chunk | PackedRows, hidden: torch.Tensor) -> None:
        """What the probes make of some rows."""
        ids_b_C, own_b_C = self._probed_ids_B_C[chunk.rows_b], self._probed_own_B_C[chunk.rows_b]
        seen = Seen(chunk.left(hidden), chunk.prompts_b, ids_b_C, own_b_C, self._logits)
        found: dict[str, torch.Tensor] = {}
        for name, method in self._probes.items():
            own = method.probe(seen)
            require(not found.keys() & own, f"methods probe for two tensors {', '.join(found.keys() & own)}: {name!r} "
                    "must name its own otherwise.")  # fmt: skip
            found |= own
        self._found_by_probes.append((chunk.rows_b, found))

    def _logits(self, hidden_d_H: torch.Tensor) -> torch.Tensor:
        """(d, V) at the rollouts' temperature."""
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        return head(hidden_d_H) / self.temperature

    def _probed(self, rows: int) -> dict[str, torch.Tensor]:
        """Name -> (B, ...) of the first ``rows`` rows of the pass."""
        if not self._probes:
            return {}
        parts, self._found_by_probes = self._found_by_probes, []
        order_B = torch.cat([rows_b for rows_b, _ in parts]).argsort()[:rows]
        assert len(order_B) == rows, "a row of the update has no own token"
        return {name: torch.cat([found[name] for _, found in parts])[order_B] for name in parts[0][1]}

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        """The pass that was made for TRL's loss, once; else a new one."""
        handed, self._handed = self._handed, None
        if handed is not None:
            return handed
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    # ------------------------------------------------------------------ of an update

    def _see_update(self, output: dict[str, torch.Tensor], turn_index_B_C: torch.Tensor) -> Update:
        """What methods see of the rollouts in ``self._trees``, before they are scored."""
        rows = {id(t): row for row, t in enumerate(t for tree in self._trees for t in tree.trajectories())}
        return Update(
            seed=self._draw_seed(),
            trees=self._trees,
            turns_mask_B_T=turn_rewards(self._trees)[1],
            turn_index_B_C=turn_index_B_C,
            logprobs_B_C=output["sampling_per_token_logps"],
            groups_G_N=[[rows[id(member)] for member in group] for group in sibling_groups(self._trees)],
            probed=self._probed(len(rows)),
            sum=self._sum,
            gather=gather_object,
            record=self._record,
            progress=self.state.global_step / self.args.max_steps,
            gamma=self.objective.gamma,
            head=self._logits,
            text=self.renderer.action_text,
            reference_B_C=output.get("ref_per_token_logps"),
            score=self._score_given,
        )

    def _bonus(self, update: Update) -> torch.Tensor | float:
        """What all methods add to the rewards of turns, (B, T); the update holds it, too."""
        update.bonus_B_T = sum(method.reward(update) for method in self.methods.values())
        return update.bonus_B_T

    def _change_turns(self, update: Update, turns: TurnAdvantages) -> None:
        update.scored_B_T = turns.set_mask_B_T | turns.gae_mask_B_T
        for method in self.methods.values():
            turns.advantages_B_T = method.turn_advantage(update, turns.advantages_B_T)

    def _change_tokens(self, update: Update, output: dict[str, torch.Tensor]) -> None:
        """New ``advantages``; what methods send along with the rows joins ``output``."""
        for name, method in self.methods.items():
            sent: dict[str, torch.Tensor] = {}
            output["advantages"] = method.advantage(update, output["advantages"], sent)
            for key, tensor in sent.items():
                sent_as = f"{SENT}{key}"
                require(sent_as not in output, f"methods {', '.join(self.methods)} send two tensors {key!r}: {name!r} "
                        "must name its own otherwise.")  # fmt: skip
                output[sent_as] = tensor

    def _learn_methods(self, update: Update) -> None:
        for method in self.methods.values():
            method.learn(update)

    # ------------------------------------------------------------------ of a minibatch

    def _compute_loss(self, model, inputs):
        batch = self._minibatch(model, inputs)
        batch.weight = math.prod(method.weight(batch) for method in self.methods.values())
        loss = super()._compute_loss(model, {**inputs, "advantages": inputs["advantages"] * batch.weight})
        for method in self.methods.values():
            loss = loss + method.loss(batch) / self._divisor(inputs)
        return loss

    def _minibatch(self, model, inputs: Mapping[str, torch.Tensor]) -> Minibatch:
        """The pass over the rows that TRL's loss would make is made here, and handed to it: weights need it before."""
        self._pass_logprobs, own_b_C = None, inputs["completion_mask"] * inputs["tool_mask"]
        self._own_b_C = own_b_C.bool() | inputs.get("replay_mask", own_b_C).bool()
        handed = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].size(1),
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )
        self._handed, self._own_b_C = handed, None
        return Minibatch(
            logprobs_b_C=handed[0],
            old_b_C=inputs.get("old_per_token_logps", inputs["sampling_per_token_logps"]),
            advantages_b_C=inputs["advantages"],
            set_deductions_b_C=inputs.get("set_deductions"),
            mask_b_C=own_b_C,
            epsilon=(self.epsilon_low, self.epsilon_high),
            tensors={key.removeprefix(SENT): inputs[key] for key in inputs if key.startswith(SENT)},
            entropies_b_C=handed[1],
            record=self._record_mean,
        )

    def _divisor(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | int:
        """What a sum over own tokens is divided by beside TRL's clipped term: tokens, or rows x max_completion_length
        where that is (``dr_grpo``). Under ``grpo``, a mean over each row, it is a mean over tokens."""
        if self.loss_type != "dr_grpo":
            return self._normaliser(inputs["num_items_in_batch"])
        steps = self.current_gradient_accumulation_steps if self.model.training else 1
        return len(inputs["completion_ids"]) * self.max_completion_length * steps

    def _normaliser(self, count: torch.Tensor) -> torch.Tensor:
        """What a sum over a minibatch is divided by, so that a step's gradient is that of a mean over its share of
        ``count`` (tokens or decisions of the update, over all processes), however it is split."""
        share = count.clamp(min=1) / self.accelerator.num_processes
        if self.model.training:
            share = share * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return share

    def _record_mean(self, name: str, values_B_C: torch.Tensor, mask_B_C: torch.Tensor) -> None:
        """Log a mean over the masked entries of all processes."""
        total, count = self._sum([float(values_B_C.detach().sum()), float(mask_B_C.sum())])
        if count:
            self._record(name, total / count)

    # ------------------------------------------------------------------ checkpoints

    def _save_extra_state(self, folder: Path) -> None:
        super()._save_extra_state(folder)
        save_methods(folder, self.methods)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_methods(Path(checkpoint), self.methods, partial(snapshots_on, self.task, self.renderer))
