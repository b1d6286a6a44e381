"""Small Gymnasium environments, right and wrong ones, for `gym:gym_worlds:NAME-v0`."""

import random

import gymnasium
from gymnasium import spaces


class Line(gymnasium.Env):
    """Cells 0 to 6; the goal is one of them. 0 goes west, 1 east."""

    action_space, observation_space = spaces.Discrete(2), spaces.MultiDiscrete([7, 7])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = int(self.np_random.integers(7))
        self.cell = (self.goal + 3) % 7
        return (self.cell, self.goal), {}

    def step(self, action):
        self.cell = min(6, max(0, self.cell + (1 if action else -1)))
        return (self.cell, self.goal), 0.5 * (self.cell == self.goal), self.cell == self.goal, False, {}


class Words(Line):
    """The same in words."""

    action_space, observation_space = spaces.Text(10), spaces.Text(40)

    def reset(self, **options):
        return f"you are at {super().reset(**options)[0][0]}", {}

    def step(self, action):
        moved = super().step(action == "east")
        return f"you are at {self.cell}", *moved[1:]


class Unseeded(Line):
    """Its walls move, and no seed says how."""

    def step(self, action):
        return super().step(random.randrange(2))


class Hidden(Line):
    """A copy loses a part of its state."""

    def reset(self, **options):
        self.steps = 0
        return super().reset(**options)

    def step(self, action):
        self.steps += 1
        (cell, goal), *rest = super().step(action)
        return (cell, goal + 7 * self.steps), *rest

    def __getstate__(self):
        return vars(self) | {"steps": 0}


class Shared(Hidden):
    """All episodes count together."""

    count = [0]  # noqa: RUF012

    def step(self, action):
        self.count[0] += 1
        self.steps = self.count[0]
        return super().step(action)


class Locked(Line):
    """Cannot be pickled."""

    def reset(self, **options):
        self.hook = lambda: None
        return super().reset(**options)


class Stateful(Locked):
    """Gives its own state."""

    def get_state(self):
        return self.cell, self.goal

    def set_state(self, state):
        self.cell, self.goal = state


class Timed(Stateful):
    """Its wrapper counts turns; no goal ends it before."""

    def step(self, action):
        observation, _, _, *rest = super().step(action)
        return observation, 0.0, False, *rest


class Unpaid(Line):
    """Pays what is no number."""

    pays = None

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, self.pays, *rest


class Unpriced(Unpaid):
    pays = float("nan")


class Broken(Line):
    def step(self, action):
        raise KeyError("boom")


for world in (Line, Words, Unseeded, Hidden, Shared, Locked, Stateful, Unpaid, Unpriced, Broken):
    gymnasium.register(f"{world.__name__}-v0", entry_point=world)
gymnasium.register("Timed-v0", entry_point=Timed, max_episode_steps=20)


def tell(observation, env):
    return f"cell={observation[0]} goal={observation[1]}"


def read(text, env):
    return {"go west": 0, "go east": 1}.get(text)


def side(env):
    return "west" if env.unwrapped.cell < 3 else "east"


WORDS = [f"{name}={number}" for name in ("cell", "goal") for number in range(7)] + ["west", "east"]
