"""A toy task for tests: `doors:Doors`."""

from polytune.tasks import Episode, Task


class DoorsEpisode(Episode):
    """Three doors: ``open`` solves the task from any of them, ``next`` walks to the following one."""

    def _begin(self):
        self.door = self.seed % 3

    def observation(self):
        return f"door{self.door}"

    def _act(self, action):
        self.door = (self.door + (action == "next")) % 3
        return action == "open" and self.turn > 1

    def _place(self):
        return self.door


class Doors(Task):
    """So small that an untrained policy often succeeds."""

    name = "doors"
    actions = ("next", "open")
    instructions = "Open a door."
    episode_class = DoorsEpisode

    def vocabulary(self):
        return ["next", "open", "door0", "door1", "door2"]
