"""The rollouts of an update: trees within the budget, their signatures, and what is wrong with their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch

from polytune.checks import require
from polytune.config import RolloutConfig
from polytune.digests import number_from
from polytune.methods import Method
from polytune.rollout import (
    Duplicates,
    RolloutCounters,
    RolloutError,
    Row,
    SeedView,
    Start,
    Trajectory,
    Tree,
    blank_row,
    count_duplicates,
    find_branching,
    grow_trees,
    trajectory_row,
    tree_rows,
)
from polytune.running.watchdog import stage
from polytune.terminal import say_warning
from polytune.trainer.advantages import sibling_groups
from polytune.trainer.budget import grow_to_budget
from polytune.trainer.method_growth import GrowsForMethods
from polytune.trainer.replayed import wanted_rows
from polytune.trainer.scoring import pad


def seeds_of_starts(methods: Mapping[str, Method], run_seed: int) -> dict[str, int]:
    """The ``run_seed`` of each method that chooses starts: the run's for the first of them, others for those after it,
    so that what one of them draws at a start says nothing of what the next one draws there."""
    choosing = [name for name, method in methods.items() if method.has("starts")]
    later = {name: number_from(f"{run_seed} {name}".encode(), 7) for name in choosing[1:]}
    return {name: later.get(name, run_seed) for name in choosing}


class GrowsTrees(GrowsForMethods):
    """The part of a trainer that fills TRL's ``rollout_func``.

    Leaves ``self._trees`` and ``self._rows`` (those that were grown; the batch is filled with replayed rows after them,
    then with blank ones) and ``self._counters``. To TRL a replayed row looks like a blank one with text: no own token.
    """

    @stage("rollouts")
    def _roll_out(self, prompts: list[str]) -> dict[str, list]:
        """TRL's ``rollout_func``: only the number of prompts counts; the start states are those that are due."""
        self.generator.reset()  # the weights have changed since the last rollouts
        self._counters = RolloutCounters()
        self._trees: list[Tree] = []
        with self.accelerator.autocast():  # rows are scored under it, too
            self._renew_reference()
            self._begin_methods()
            with self._behaving():
                self._grow_update(self._room(len(prompts)) * self.accelerator.num_processes)
            self._grow_again()
        self.generator.reset()
        canary = getattr(self.generator, "canary_gap", None)
        if canary is not None:
            self._record("sampling/canary_gap", canary)
        self._set_signatures(self._trees)
        self._check_duplicates(self._trees)
        self._record_episodes(self._trees)
        self._rows = [row for tree in self._trees for row in tree_rows(tree)]
        returns = [t.discounted_return() for tree in self._trees for t in tree.trajectories()]
        missing = len(prompts) - len(self._rows)  # rows of trees that did not fit
        others = self._replay(missing, len(prompts))
        blank = blank_row(self._trees[0].prompt_ids, self.processing_class.pad_token_id)
        self._check_blank(missing - len(others))
        others += [blank] * (missing - len(others))
        rows = self._rows + others
        return {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.logprobs for row in rows],
            "env_mask": [row.own for row in self._rows] + [[0] * len(row.own) for row in others],
            "episode_return": returns + [0.0] * missing,
        }

    def _check_blank(self, rows: int) -> None:
        """RolloutError for blank rows that the loss would take for rows: a method started too few seed trajectories."""
        if rows and not self.args.averages_over_tokens:
            raise RolloutError(
                f"{rows} rows of the update are blank, since methods ({', '.join(self.methods)}) started fewer "
                f"attempts than were due, and loss_type {self.args.loss_type!r} averages over them: set it to 'dapo'."
            )

    def _room(self, rows: int) -> int:
        """Trees that this process has room for beside what methods want; refuses rows that would split one."""
        if rows % self.num_generations:
            raise ValueError(
                f"process {self.accelerator.process_index} got {rows} rows, which splits a tree of "
                f"{self.num_generations}: make per_device_train_batch_size * steps_per_generation a multiple of "
                f"{self.num_generations}, so that a tree lives in one process."
            )
        return (rows - wanted_rows(self.methods.values(), rows)) // self.num_generations

    def _grow_update(self, room: int) -> None:
        """The update's trees: as many as the batch has room for over all processes, or as fit into the budget."""
        if self.args.max_env_steps is None:
            self._grow_next(room)
            return
        spent = 0.0

        def grow(count: int) -> float:
            nonlocal spent
            [steps] = self._sum([self._grow_next(count)])
            spent += steps
            return steps

        due, processes = self._env_steps_due(), self.accelerator.num_processes
        trees = grow_to_budget(room, grow, due, self._steps_per_tree, least=processes)
        if trees == room:
            self._warn_of_unspent(due, spent, trees)
        elif trees == processes:
            self._warn_of_overspent(spent, trees)

    def _grow_next(self, count: int) -> int:
        """This process's trees of the next ``count`` start states; returns the environment steps that they took."""
        starts = self.schedule.take(count, self.accelerator.process_index, self.accelerator.num_processes)
        if not starts:
            return 0
        own = self.rollout.num_seeds
        rows, per_seed = len(starts) * self.num_generations, self.num_generations // own
        starts = [start._replace(num_seeds=own) for start in starts]
        for name, seed in seeds_of_starts(self.methods, self.args.seed).items():
            starts = self.methods[name].starts(starts, seed)
            seeds = sum(start.num_seeds for start in starts)
            require(
                0 < seeds * per_seed <= rows,
                f"method {name!r} starts {seeds} seed trajectories, {per_seed} rows each, and there "
                f"is room for {rows} rows: its starts must keep within those that are due.",
            )
        trees, steps = self._grow(starts)
        self._trees += trees
        return steps

    def _grow(self, starts: Sequence[Start], rollout: RolloutConfig | None = None) -> tuple[list[Tree], int]:
        """Trees from ``starts`` and the environment steps they took; ``rollout``: unset, of the run's shape."""
        before = self._counters.env_steps
        rule = find_branching(self.rollout.rollout_states)
        trees = grow_trees(
            self.task,
            self.renderer,
            self.generator,
            starts,
            self.rollout if rollout is None else rollout,
            run_seed=self.args.seed,
            max_branches=self.policy_config.max_branches,
            counters=self._counters,
            view_seeds=self._view_seeds if rule.needs_values or rule.needs_entropies else None,
            keep_snapshots=any(method.needs_snapshots for method in self.methods.values()),
            stops=self._stops if rollout is None and any(m.has("stop") for m in self.methods.values()) else None,
        )
        return trees, self._counters.env_steps - before

    def _stops(self, start_state: int, episode: Trajectory) -> bool:
        """Whether a method stops an episode; each is asked."""
        return any([method.stop(start_state, episode) for method in self.methods.values()])

    def _set_signatures(self, trees: list[Tree]) -> None:
        """Replace the task's signatures where ``signature`` asks for the actions or for a judge's clusters."""
        if self.objective.signature == "task":
            return
        groups, failed = sibling_groups(trees), 0 if self.judge is None else self.judge.failures
        for group in groups:
            texts = [[self.renderer.action_text(turn.whole_ids) for turn in trajectory.turns] for trajectory in group]
            if self.judge is None:
                signatures = [tuple(actions) for actions in texts]
            else:
                signatures = self.judge([" ".join(actions) for actions in texts])
            for trajectory, signature in zip(group, signatures, strict=True):
                trajectory.signature = signature
        if self.judge is not None and self.judge.failure != "refuse":
            failed, asked = self._sum([self.judge.failures - failed, len(groups)])
            self._record("judge/failed", failed / max(1, asked))

    def _check_duplicates(self, trees: list[Tree]) -> None:
        """Log repeated attempts; refuse more of them than the policy's own probabilities could bring about."""
        found = count_duplicates(sibling_groups(trees))
        found = Duplicates(*self._sum([found.attempts, found.observed, found.expected]))
        if found.alarm:
            raise RolloutError(
                f"{found}: the generator repeats its random numbers (one seed for every attempt?) or samples a sharper "
                "distribution than its logprobs say (temperature?). Nothing was trained on them."
            )
        if found.attempts:
            self._record("duplicates/observed", found.observed / found.attempts)
            self._record("duplicates/expected", found.expected / found.attempts)

    def _env_steps_due(self) -> float:
        """What the run should have spent after this update and has not, over all processes."""
        done = self.state.global_step // self.args.steps_per_update + 1
        return self.args.max_env_steps * done / self.args.num_updates - self.env_steps

    def _warn_of_unspent(self, due: float, spent: float, trees: int) -> None:
        """One line when the batch has too little room for what an update should spend."""
        mean = spent / trees
        if due - spent < mean or self._said_unspent:
            return
        self._said_unspent = True
        if self.is_world_process_zero():
            say_warning(
                f"the budget allows this update {due:,.0f} environment steps, but the batch has room for {trees} trees "
                f"of about {mean:,.0f}: raise per_device_train_batch_size or num_updates, or lower max_env_steps."
            )

    def _warn_of_overspent(self, spent: float, trees: int) -> None:
        """One line when the updates to come, a tree a process each, would take more than the budget has left."""
        left, updates = self.args.max_env_steps - self.env_steps - spent, self.args.num_updates
        to_come = updates - self.state.global_step // self.args.steps_per_update - 1
        if to_come * spent < max(left, 0.0) + spent or self._said_unspent:
            return
        self._said_unspent = True
        if self.is_world_process_zero():
            say_warning(
                f"max_env_steps is {self.args.max_env_steps:,}, of which {max(left, 0.0):,.0f} are left for "
                f"{to_come:,} updates, and each grows {trees} tree{'s' * (trees > 1)} at least, of about "
                f"{spent / trees:,.0f} steps: the run will take about {self.env_steps + spent * (to_come + 1):,.0f}. "
                "Raise max_env_steps, or lower num_updates."
            )

    def _view_seeds(self, trees: list[Tree]) -> list[list[SeedView]]:
        """The critic's values and the policy's entropies along the seed trajectories, from their rollouts or from one
        pass over them."""
        rows = [trajectory_row(tree.prompt_ids, seed) for tree in trees for seed in tree.seeds]
        grown, training = (self._trees, self._rows), self.model.training
        self._pass_logprobs = self._first_B_C = None
        self._trees, self._rows = trees, rows
        output, values_B_T = self._as_batch(rows), None
        entropies = self._entropies(output)
        if find_branching(self.rollout.rollout_states).needs_values:
            first_B_C = self._first_tokens(self._turn_index(output["completion_ids"]))
            values_B_T = self._values(self._decisions(output, first_B_C)).tolist()
        self.model.train(training)
        self._pass_logprobs = self._first_B_C = None
        self._trees, self._rows = grown
        views = []
        for index, turns in enumerate(entropies):
            values = None if values_B_T is None else values_B_T[index][: len(turns)]
            found = list(turns[0]) if self.rollout.branch_at == "token" else [sum(tokens) for tokens in turns]
            views.append(SeedView(len(found), values, found))
        after = iter(views)
        return [list(islice(after, len(tree.seeds))) for tree in trees]

    def _as_batch(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Rows as TRL lays them out."""
        device, pad_id = self.accelerator.device, self.processing_class.pad_token_id
        batch = {}
        for name, side in (("prompt", "left"), ("completion", "right")):
            parts = [torch.tensor(getattr(row, f"{name}_ids")) for row in rows]
            batch[f"{name}_ids"] = pad(parts, pad_id, side).to(device)
            batch[f"{name}_mask"] = pad([torch.ones_like(x) for x in parts], 0, side).to(device)
        return batch

    def _pass_over(self, output: dict[str, torch.Tensor], *, graph: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs and entropies (B, C) of ``self._rows``; ``graph``: with gradients."""
        with torch.set_grad_enabled(graph):
            logprobs_B_C, entropies_B_C, _ = self._get_per_token_logps_and_entropies(
                self.accelerator.unwrap_model(self.model),
                torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                output["completion_ids"].size(1),
                compute_entropy=True,
            )
        return logprobs_B_C, entropies_B_C

    def _entropies(self, output: dict[str, torch.Tensor]) -> list[list[Sequence[float]]]:
        """Of ``self._rows``, which are seed trajectories: row by row and turn by turn, those of its tokens."""
        if self.observes:
            return [[turn.entropies for turn in seed.turns] for tree in self._trees for seed in tree.seeds]
        _, entropies_B_C = self._pass_over(output)
        found: list[list[list[float]]] = []
        for row, data in zip(entropies_B_C.tolist(), self._rows, strict=True):
            turns: list[list[float]] = [[] for _ in range(max(data.turn_index) + 1)]
            for column, turn in enumerate(data.turn_index):
                if turn >= 0:
                    turns[turn].append(row[column])
            found.append(turns)
        return found
