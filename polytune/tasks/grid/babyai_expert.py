"""MiniGrid's BabyAIBot as the expert of the BabyAI tasks."""

from __future__ import annotations

from polytune.tasks.base import Episode, ExpertError
from polytune.tasks.grid.common import MiniGridEnv

# isort: split
from minigrid.utils.baby_ai_bot import BabyAIBot


class Guide:
    """A bot that follows one episode and names the next action.

    It explores: it knows what it has seen since it began, so a guide that begins in mid-episode (after `restore`, or
    when turns were taken that it was not asked about) begins with what is in sight then.
    """

    def __init__(self, env: MiniGridEnv, actions: tuple[str, ...]):
        self.bot, self.actions = BabyAIBot(env), actions
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
