"""MiniGrid's BabyAIBot as the expert of the BabyAI tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from polytune.tasks.base import Episode, ExpertError
from polytune.tasks.grid.common import MiniGridEnv

# isort: split
from minigrid.utils.baby_ai_bot import BabyAIBot


class QuickBot(BabyAIBot):
    """BabyAIBot, which takes the same decisions in less time: `sight` knows what the agent sees without turning the
    level round for it, and the search has a queue that it need not copy."""

    def __init__(self, env: MiniGridEnv, sight: Callable[[], Iterable[tuple[int, int]]]):
        """`sight`: the cells that the agent sees in `env` as it is now."""
        super().__init__(env)
        self._sight = sight

    def _process_obs(self) -> None:
        for cell in self._sight():
            self.vis_mask[cell] = True

    def _breadth_first_search(self, initial_states, accept_fn, ignore_blockers) -> tuple[Any, Any, dict]:
        self.bfs_counter += 1
        queue = deque((tuple(map(int, state)), None) for state in initial_states)
        grid, known = self.mission.unwrapped.grid, self.vis_mask.tolist()
        previous: dict[tuple[int, int], tuple[int, int] | None] = {}
        while queue:
            (i, j, di, dj), before = queue.popleft()
            here = (i, j)
            if here in previous:
                continue
            self.bfs_step_counter += 1
            previous[here] = before
            cell = grid.get(i, j)
            if accept_fn(here, cell):
                path, place = [], here
                while place:
                    path.append(place)
                    place = previous[place]
                return path, here, previous
            if not known[i][j]:
                continue
            if cell and (cell.type == "wall" or (not cell.is_open if cell.type == "door" else not ignore_blockers)):
                continue
            for k, m in ((di, dj), (dj, di), (-dj, -di), (-di, -dj)):
                queue.append(((i + k, j + m, k, m), here))
        return None, None, previous


class Guide:
    """A bot that follows one episode and names the next action.

    It explores: it knows what it has seen since it began, so a guide that begins in mid-episode (after `restore`, or
    when turns were taken that it was not asked about) begins with what is in sight then.
    """

    def __init__(self, bot: BabyAIBot, actions: tuple[str, ...]):
        self.bot, self.actions = bot, actions
        self.turn: int | None = None
        self.advice: str | None = None

    def follows(self, turn: int) -> bool:
        """Whether the guide has seen every turn up to this one."""
        return self.turn is None or turn - self.turn in (0, 1)

    def advise(self, episode: Episode, last_action: str | None) -> str:
        """The next action. `last_action`: what the latest turn did, None for nothing.

        Raises ExpertError where the bot gives up.
        """
        if self.turn == episode.turn:
            return self.advice
        taken = None
        if self.turn is not None and last_action != self.advice:
            actions = self.bot.mission.unwrapped.actions
            taken = actions.done if last_action is None else actions(self.actions.index(last_action))
        try:
            suggested = self.bot.replan(taken)
        except Exception as error:  # the bot's own assertions, whatever they are
            raise ExpertError(f"BabyAIBot gave up ({type(error).__name__}: {error})") from error
        if int(suggested) >= len(self.actions):
            raise ExpertError("BabyAIBot takes the mission to be accomplished, the verifier does not")
        self.turn, self.advice = episode.turn, self.actions[int(suggested)]
        return self.advice
