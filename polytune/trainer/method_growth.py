"""What methods have done beside the trees of an update: before the first one, and once the trees have grown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

import torch
from accelerate.utils import gather_object

from polytune.methods import Beginning, Grown
from polytune.rollout import RolloutCounters, Row, Start, Trajectory, Tree, Turn, trajectory_row
from polytune.tasks.demonstrations import act_out


class GrowsForMethods:
    """The part of :class:`~polytune.trainer.rollouts.GrowsTrees` that grows, acts out and scores for methods."""

    _begun = False

    def _begin_methods(self) -> None:
        """Once in a run: what methods do with the policy that it begins with; the steps are paid from its budget."""
        if self._begun or self.state.global_step:
            return
        self._begun = True
        states = tuple(self.schedule.start_states)
        shown = self.task.shown_signatures
        beginning = Beginning(states, self._grow_together, self._demonstrated, self._score_given, shown)
        for method in self.methods.values():
            method.begin(beginning)
        if any(method.has("begin") for method in self.methods.values()):
            [steps] = self._sum([self._counters.env_steps])  # a process may have had no start state
            self.env_steps += int(steps)
            self._counters = RolloutCounters()
            self.generator.reset()

    def _grow_together(self, starts: Sequence[Start]) -> list[Tree]:
        """The trees of all processes, each of which grew some; in the order of ``starts``."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        own = range(process, len(starts), processes)
        trees = self._grow_whole([starts[i] for i in own])
        return [tree for _, tree in sorted(gather_object([*zip(own, trees, strict=True)]), key=itemgetter(0))]

    def _grow_whole(self, starts: Sequence[Start]) -> list[Tree]:
        """Trees of whole episodes that no critic and no pass will see."""
        whole = replace(self.rollout, num_rollout_states=0, num_vines=0)
        trees = self._grow(starts, whole)[0] if starts else []
        for turn in (turn for tree in trees for trajectory in tree.trajectories() for turn in trajectory.turns):
            turn.hidden, turn.entropies = None, ()
        return trees

    def _grow_again(self) -> None:
        """What methods grow after the update's trees."""
        methods = [method for method in self.methods.values() if method.has("again")]
        if methods:
            progress = self.state.global_step / self.args.max_steps
            say = partial(self.renderer.tokenizer.decode, skip_special_tokens=True)  # a hint's text is no control token
            grown = Grown(self._trees, self._grow_whole, self._score_given, say, gather_object, self._record, progress)
            for method in methods:
                method.again(grown)

    def _demonstrated(self, start_state: int) -> Row | None:
        """The expert's episode as a row, its logprobs 0; None where the expert does not succeed."""
        try:
            told = act_out(self.task, start_state)
        except NotImplementedError as error:
            raise ValueError(f"a method asks for demonstrations, but {error}.") from error
        if not told["success"]:
            return None
        actions = [tuple(self.renderer.action_ids(action)) for action in told["actions"]]
        seen = [self.renderer.feedback_ids(*pair) for pair in zip(told["observations"][1:], actions, strict=False)]
        turns = [Turn(ids, (0.0,) * len(ids), 0.0, told) for ids, told in zip(actions, [*seen, ()], strict=True)]
        return trajectory_row(self.renderer.prompt_ids(told["observations"][0]), Trajectory(turns=turns))

    def _score_given(self, rows: Sequence[Row]) -> list[tuple[list[float], list[float]]]:
        """Of any rows (logprobs, entropies) of the completion's tokens, by the policy of now. Nobody reads the pass."""
        if not rows:
            return []
        logprobs_B_C, entropies_B_C = self._pass_over_given(rows)
        sizes = [len(row.completion_ids) for row in rows]
        scored = zip(logprobs_B_C.tolist(), entropies_B_C.tolist(), sizes, strict=True)
        return [(logprobs[:size], entropies[:size]) for logprobs, entropies, size in scored]

    def _pass_over_given(self, rows: Sequence[Row], *, graph: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs and entropies (B, C) of any rows; ``graph``: with gradients."""
        held = self._rows, self._pass_logprobs
        self._rows = list(rows)
        output = self._as_batch(self._rows)
        self._pass_logprobs = output["completion_ids"]  # the pass is not the first of these rows
        try:
            return self._pass_over(output, graph=graph)
        finally:
            self._rows, self._pass_logprobs = held
