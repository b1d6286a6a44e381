"""MaxRL's maze (arXiv 2602.02710, appendix "Maze"): the whole grid is shown as words, the answer is a path of one-word
moves that ends with DONE.

    GRID_START WALL WALL ... NEWLINE WALL START PATH ... GRID_END PATH_START  ->  RIGHT RIGHT DOWN DOWN DONE

Mazes are grown by Prim's algorithm from the upper left cell to the whole grid, START lies there and GOAL in the lower
right one. The reward is 1 for a path that reaches the goal (what follows is not looked at) without walking into a wall,
else 0; the paper's policies are trained on the shortest path. Prim's mazes have one way without turning back, so
`loops` knocks through that many walls beside it (0, the default, is the paper's).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from polytune.digests import short_digest
from polytune.tasks.answers import AnswerTask
from polytune.tasks.rows import TEST_ROWS_START, RowEpisode

MOVES = {"UP": (-1, 0), "DOWN": (1, 0), "LEFT": (0, -1), "RIGHT": (0, 1)}
END = "DONE"
TEST_MAZES = 256
#: seeds of the mazes that pretraining shows
LINES_START = 500_000_000
#: one maze in so many is kept for tests, whatever its seed
HELD_OUT_SHARE = 8
_ANSWER = re.compile(rf"\s*((?:(?:{'|'.join(MOVES)})\s*)*){END}\s*", re.ASCII)
_MOVE = re.compile("|".join(MOVES))


class Walk(NamedTuple):
    """Where an answer leads: the moves of its path without the loops, and whether it reaches the goal."""

    path: str
    solved: bool


class Grid(NamedTuple):
    """A maze: `size` x `size` places, row by row, True where one can walk; START and GOAL are the corner cells."""

    size: int
    open: tuple[bool, ...]

    @property
    def goal(self) -> int:
        """The place in the far corner."""
        return (self.size - 2) * (self.size + 1)

    @property
    def start(self) -> int:
        """The place in the first corner."""
        return self.size + 1

    def after(self, place: int, move: str) -> int | None:
        """The place that a move leads to, None for a wall. The border is wall."""
        down, right = MOVES[move]
        place += down * self.size + right
        return place if self.open[place] else None

    def text(self) -> str:
        """The grid in the paper's words."""
        words = [("WALL", "PATH")[free] for free in self.open]
        words[self.start], words[self.goal] = "START", "GOAL"
        rows = (words[first : first + self.size] for first in range(0, len(words), self.size))
        return " ".join(["GRID_START", *(" ".join([*row, "NEWLINE"]) for row in rows), "GRID_END"])

    def distances(self) -> dict[int, int]:
        """Moves to the goal of each place from which it can be reached."""
        found, edge = {self.goal: 0}, [self.goal]
        for place in edge:
            for near in filter(None, (self.after(place, move) for move in MOVES)):
                if near not in found:
                    found[near] = found[place] + 1
                    edge.append(near)
        return found

    def shortest(self, draw: random.Random) -> list[str]:
        """The moves of a shortest way to the goal; where several moves lead on, `draw` takes one."""
        left, place, moves = self.distances(), self.start, []
        while left[place]:
            onward = [move for move in MOVES if left.get(self.after(place, move)) == left[place] - 1]
            moves.append(draw.choice(onward))
            place = self.after(place, moves[-1])
        return moves

    def walk(self, answer: str) -> Walk | None:
        """Follow an answer until it walks into a wall, reaches the goal or ends; None for any other text."""
        match = _ANSWER.fullmatch(answer)
        if match is None:
            return None
        places, moves = [self.start], []
        for move in _MOVE.findall(match[1]):
            place = self.after(places[-1], move)
            if place is None:
                break
            if place in places:  # a loop: what led back to this place goes
                del moves[places.index(place) :], places[places.index(place) + 1 :]
            else:
                places.append(place)
                moves.append(move)
            if place == self.goal:
                return Walk(_letters(moves), True)
        return Walk(_letters(moves), False)


def _letters(moves: list[str]) -> str:
    return "".join(move[0] for move in moves)


def _grow(size: int, loops: int, draw: random.Random) -> Grid:
    """Randomised Prim: of the cells beside the maze, one at random joins it, by one of its neighbours in it at random.
    Cells lie at odd rows and columns. Then `loops` of the walls that still divide two cells are opened."""
    steps = [down * 2 * size + right * 2 for down, right in MOVES.values()]
    cells = {row * size + column for row in range(1, size, 2) for column in range(1, size, 2)}
    near = {
        cell: [cell + step for step in steps if cell + step in cells and _beside(cell, step, size)] for cell in cells
    }
    grid, first = [False] * (size * size), size + 1
    grid[first], edge = True, list(near[first])
    while edge:
        cell = edge.pop(draw.randrange(len(edge)))
        joined = draw.choice([other for other in near[cell] if grid[other]])
        grid[cell] = grid[(cell + joined) // 2] = True
        edge += [other for other in near[cell] if not grid[other] and other not in edge]
    walls = sorted(
        {(cell + other) // 2 for cell in cells for other in near[cell]} - {p for p, free in enumerate(grid) if free}
    )
    for wall in draw.sample(walls, loops):
        grid[wall] = True
    return Grid(size, tuple(grid))


def _beside(cell: int, step: int, size: int) -> bool:
    """Whether a step of two places stays in the row or the column that it should stay in."""
    return abs(step) > 2 or cell // size == (cell + step) // size


@lru_cache(maxsize=4096)
def maze_of(seed: int, size: int, loops: int) -> Grid:
    """The maze of a seed. Mazes are drawn until one is on the seed's side: one in `HELD_OUT_SHARE`, told by a digest of
    its walls, is for seeds of tests alone, so that no training maze is among them. Assumes so many different mazes that
    both sides have some (7 x 7 without loops: 192)."""
    draw, wanted = random.Random(f"maze {size} {loops} {seed}"), seed >= TEST_ROWS_START
    while True:
        grid = _grow(size, loops, draw)
        if (int(short_digest(bytes(grid.open)), 16) % HELD_OUT_SHARE == 0) == wanted:
            return grid


class MazeEpisode(RowEpisode):
    """One maze, one path."""

    task: Maze


class Maze(AnswerTask):
    """Find the way through a maze that is shown whole.

    Args:
        size: rows and columns, walls and border included: an odd number of at least 7. The paper's is 17.
        loops: walls opened beside those that Prim's algorithm opens. The paper's mazes have none.
        train: start states of the split `train`, each another seed; test mazes differ from all of them.
        lines: mazes that pretraining shows, each with a shortest path. The paper's 1,500 steps of 32 see 48,000.
        max_tokens: the longest answer in words, DONE included.

    Raises:
        ValueError: a size that is none, more loops than walls, or an answer too short for the longest way.
    """

    name = "maze"
    answer_end = END
    default_split = "test"
    starts = "mazes"
    prompts_alike = True
    solved_at = 1.0
    episode_class = MazeEpisode
    instructions = (
        "You see a maze row by row, each place one word: WALL, PATH, START or GOAL; NEWLINE ends a row. Answer with "
        "the moves that lead from START to GOAL without walking into a wall, UP, DOWN, LEFT or RIGHT, and then DONE."
    )

    def __init__(
        self, size: int = 17, loops: int = 0, train: int = 1_000_000, lines: int = 48_000, max_tokens: int = 180
    ):
        super().__init__()
        given = {"size": (size, 7), "loops": (loops, 0), "train": (train, 1), "lines": (lines, 1)}
        for name, (value, least) in {**given, "max_tokens": (max_tokens, 1)}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} of task 'maze' must be a whole number of at least {least}, got {value!r}")
        self._check_sizes(size, loops, train, max_tokens)
        self.size, self.loops, self.lines, self.max_action_tokens = size, loops, lines, max_tokens
        self.splits = {"train": range(train), "test": range(TEST_ROWS_START, TEST_ROWS_START + TEST_MAZES)}

    @staticmethod
    def _check_sizes(size: int, loops: int, train: int, max_tokens: int) -> None:
        """ValueError for sizes that do not go together."""
        cells = size // 2
        if size % 2 == 0:
            raise ValueError(f"size of task 'maze' must be odd (cells and the walls between them), got {size}")
        if loops > (cells - 1) ** 2 // 2:
            raise ValueError(
                f"loops of task 'maze' is {loops}: at most {(cells - 1) ** 2 // 2} at size {size}, half of the walls "
                "between cells, so that mazes differ"
            )
        nearest, longest = 4 * (cells - 1) + 1, 2 * (cells * cells - 1) + 1
        if max_tokens < nearest:
            raise ValueError(
                f"max_tokens of task 'maze' is {max_tokens}, but the shortest way through size {size} takes {nearest} "
                f"words, {END} included, and the longest {longest}: give at least {nearest}"
            )
        if train > LINES_START:
            raise ValueError(f"train of task 'maze' is {train}: at most {LINES_START}, pretraining has the seeds above")

    def grid(self, seed: int) -> Grid:
        """The maze of a seed."""
        return maze_of(self.check_seed(seed), self.size, self.loops)

    def prompt(self, seed: int) -> str:
        return f"{self.grid(seed).text()} PATH_START"

    def grade(self, answer: str) -> None:
        raise NotImplementedError("an answer is graded for its maze: earned() and strategy()")

    def earned(self, answer: str, seed: int) -> float:
        """1 for a path that reaches the goal, else 0."""
        walk = self.grid(seed).walk(answer)
        return float(walk is not None and walk.solved)

    def strategy(self, answer: str, seed: int) -> str | None:
        """The path without its loops, a letter a move, wherever it ends; None for other text, or none that leads on."""
        walk = self.grid(seed).walk(answer)
        return None if walk is None else walk.path or None

    def parse_action(self, text: Any) -> str:
        """Every text is an answer; anything but a string is a TypeError."""
        if not isinstance(text, str):
            raise TypeError(f"an answer is text straight from the policy, got {type(text).__name__}: {text!r}")
        return text

    def expert(self, episode: MazeEpisode) -> str:
        """A shortest path."""
        moves = self.grid(episode.seed).shortest(random.Random(f"path {episode.seed}"))
        return " ".join([*moves, END])

    def training_lines(self) -> Iterator[tuple[str, str]]:
        """A maze and a shortest path, `lines` times."""
        for seed in range(LINES_START, LINES_START + self.lines):
            yield self.prompt(seed), self.expert(self.start(seed))

    def vocabulary(self) -> list[str]:
        return ["GRID_START", "GRID_END", "PATH_START", END, "PATH", "WALL", "GOAL", "START", "NEWLINE", *MOVES]
