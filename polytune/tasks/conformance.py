"""What every world must do, tried on a task and told in words: `polytune check-task`. Each check is a function of a
task and some seeds that yields what is wrong, with the seed and the values.

`faults` are what training and evaluation rely on; `notes` are what may be meant so: one start state for all seeds, an
expert that fails, no signatures.
"""

from __future__ import annotations

import contextlib
import math
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from polytune.tasks.base import Episode, ExpertError, Task
from polytune.tasks.rows import RowTask

LONGEST = 60
"""Turns of an episode that are played."""
Check = Callable[[Task, Sequence[int]], Iterator[str]]


def faults(task: Task, num_seeds: int = 20) -> list[str]:
    """What is wrong with a task, from `num_seeds` start states; one sentence of each kind, nothing when it conforms."""
    return _told(CHECKS, task, num_seeds)


def notes(task: Task, num_seeds: int = 20) -> list[str]:
    """What is allowed, but seldom meant."""
    return _told(NOTES, task, num_seeds)


def shown_answers(task: RowTask, num_seeds: int = 20) -> str | None:
    """What the answers earn that training rows show; None where they show none."""
    seeds = task.splits["train"][:num_seeds]
    answers = [(seed, answer) for seed in seeds for answer in task.shown(seed)]
    if not answers:
        return None
    earned = [task.earned(answer, seed) for seed, answer in answers]
    ways = Counter(str(task.strategy(answer, seed)) for seed, answer in answers)
    solved = sum(reward >= task.solved_at for reward in earned)
    told = f"{solved} of the {len(answers)} answers that {len(seeds)} training rows show are solved"
    if solved < len(answers):
        (seed, answer), reward = next(
            (one, reward) for one, reward in zip(answers, earned, strict=True) if reward < task.solved_at
        )
        told += f"; {answer[:60]!r} of row {seed} earns {reward:g}"
    ways_told = ", ".join(f"{way[:30]} {count}" for way, count in ways.most_common(5))
    return f"{told}; {len(ways)} signatures: {ways_told}{', ...' if len(ways) > 5 else ''}"


def _told(checks: Sequence[Check], task: Task, num_seeds: int) -> list[str]:
    """The first fault of each check; what a check runs into is one, too, once."""
    found: list[str] = []
    met = set()
    for check in checks:
        try:
            found += [fault for _, fault in zip(range(1), check(task, range(num_seeds)), strict=False)]
        except Exception as error:  # a user's world may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if Path(frame.filename).name != Path(__file__).name] or frames
            place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}"
            told = str(error) if ", line " in str(error) else f"{type(error).__name__}: {error} ({place})"
            if told not in met:
                found.append(f"{check.__name__.replace('_', ' ')}: {told}")
            met.add(told)
    return found


# ---------------------------------------------------------------- what an episode shows


def _texts(task: Task, draw: random.Random, turns: int) -> list[str]:
    junk = ["", "nonsense"] if task.answer_end is None else []
    actions = task.actions or ("look", "go east", "wait", "12", "a b")
    return [draw.choice([*actions] * 4 + junk) for _ in range(turns)]


def _play(episode: Episode, texts: Sequence[str]) -> list[Any]:
    """Everything that can be observed along the way."""
    seen: list[Any] = [episode.observation()]
    for text in texts:
        if episode.done:
            break
        step = episode.step(text)
        seen += [step, episode.observation(), episode.signature(), episode.turn, episode.invalid_actions]
    return seen


def _difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    place, a, b = next(
        ((i, x, y) for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y),
        (min(len(one), len(other)), "more" if len(one) > len(other) else "its end", "its end"),
    )
    return f"turn {(place + 4) // 5}: {str(a)[:100]!r} and {str(b)[:100]!r}"


def it_describes_itself(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Name, actions and instructions are there."""
    for name in ("name", "actions", "instructions"):
        if not isinstance(getattr(task, name, None), tuple if name == "actions" else str):
            yield f"{name} is {getattr(task, name, None)!r}: a task has a name, a tuple of words, and instructions"
            return
    if task.answer_end is None and not task.actions:
        yield "actions is empty: name the words of actions, or give answer_end for answers of free text"
    for action in task.actions:
        if action.split() != [action] or action != action.lower():
            yield f"action {action!r} is not one word in lower case, so a policy could not say it in one token"
    if len(set(task.actions)) < len(task.actions):
        yield f"actions name a word twice: {task.actions}"
    missing = [action for action in task.actions if action not in task.instructions]
    if missing:
        yield f"instructions do not name the action {missing[0]!r}, so a language model could not know it"


def its_vocabulary_has_all_words(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Every word of observations and actions is in it, in a fixed order."""
    if task.answer_end is not None:
        return
    words = task.vocabulary()
    if list(words) != list(task.vocabulary()):
        yield "vocabulary() differs from call to call, so a tokenizer would, too: give a list in a fixed order"
    odd = [word for word in words if not isinstance(word, str) or word.split() != [word]]
    if odd:
        yield f"vocabulary() has {odd[0]!r}, which is not one word without spaces"
    known = set(words)
    for seed in seeds:
        episode = task.start(seed)
        texts = [episode.observation(), *task.actions]
        for text in _texts(task, random.Random(seed), LONGEST):
            if not episode.done:
                episode.step(text)
                texts.append(episode.observation())
        unknown = [word for text in texts for word in text.split() if word not in known]
        if unknown:
            yield f"seed {seed} shows the word {unknown[0]!r}, which vocabulary() does not have"


def it_shows_text(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Observations are text, and not empty."""
    for seed in seeds:
        text = task.start(seed).observation()
        if not isinstance(text, str) or not text.strip():
            yield f"observation() of seed {seed} is {text!r}: it is text, and not empty"


def same_seed_and_actions_give_the_same_outputs(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Nothing but seed and actions decides."""
    for seed in seeds:
        texts = _texts(task, random.Random(seed), LONGEST)
        first, second = task.start(seed), task.start(seed)
        one, other = _play(first, texts), _play(second, texts)
        if one != other:
            yield (
                f"seed {seed} played twice with the same actions differs at {_difference(one, other)}: everything "
                "random must come from self.seed"
            )
        elif first.snapshot() != second.snapshot():
            yield f"seed {seed} played twice ends in unlike snapshots: keep sorted lists, no sets, in its attributes"


def a_restored_episode_goes_on_as_the_original(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """A snapshot holds all of the state, and its episodes share none."""
    for seed in seeds:
        draw = random.Random(seed)
        original = task.start(seed)
        _play(original, _texts(task, draw, draw.randrange(LONGEST // 2)))
        taken, texts = original.snapshot(), _texts(task, draw, LONGEST)
        one, other = task.restore(taken), task.restore(taken)
        if one.snapshot() != taken:
            yield f"seed {seed}: restored after {original.turn} turns, its snapshot is not the one it was restored from"
        expected, found = _play(original, texts), _play(one, texts)
        if found != expected:
            yield (
                f"seed {seed}: restored from a snapshot, it differs from the original at "
                f"{_difference(expected, found)}: the snapshot lacks a part of the state"
            )
        if _play(other, texts) != expected:
            yield f"seed {seed}: two episodes restored from one snapshot share state, playing one changes the other"


def signatures_cover_a_part(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """A signature is of the turns from a given one on, and refuses others."""
    for seed in seeds:
        episode = task.start(seed)
        _play(episode, _texts(task, random.Random(seed), LONGEST // 2))
        for turn in range(episode.turn + 1):
            hash(episode.signature(turn))
        for turn in (-1, episode.turn + 1):
            try:
                episode.signature(turn)
            except ValueError:
                continue
            yield f"signature({turn}) of an episode of {episode.turn} turns raises no ValueError"


def only_actions_are_actions(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Text beside an action is none."""
    if task.answer_end is not None:
        return
    for action in task.actions:
        for text in (action, f" {action}\n"):
            if task.parse_action(text) != action:
                yield f"parse_action({text!r}) is {task.parse_action(text)!r}, not {action!r}"
        others = [f"{action} {action}", f"{action}.", action + action, f"not {action}", ""]
        others += [f"{action.upper()} "] if action.upper() != action else []  # a number has no other case
        for text in others:
            if text not in task.actions and task.parse_action(text) is not None:
                yield f"parse_action({text!r}) is {task.parse_action(text)!r}: text beside an action makes it none"


def other_text_spends_a_turn(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Text that is no action costs a turn and changes nothing."""
    if task.answer_end is not None:
        return
    for seed in seeds:
        episode = task.start(seed)
        before = episode.observation()
        step = episode.step("no action at all")
        if (episode.turn, episode.invalid_actions) != (1, 1):
            yield f"seed {seed}: text that is no action leaves turn {episode.turn} and {episode.invalid_actions} noted"
        if not step.done and not before.endswith(episode.observation()):
            yield f"seed {seed}: text that is no action changed the observation to {episode.observation()[:80]!r}"


def an_episode_ends(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Within the horizon, with finite rewards."""
    for seed in seeds[:5]:
        draw, episode = random.Random(seed), task.start(seed)
        while not episode.done and episode.turn <= task.horizon:
            step = episode.step(_texts(task, draw, 1)[0])
            if not isinstance(step.reward, Real) or not math.isfinite(step.reward):  # numpy's numbers, too
                yield f"seed {seed}: the reward of turn {episode.turn} is {step.reward!r}, not a finite number"
        if not episode.done or episode.stop_reason is None:
            yield f"seed {seed}: not done after {episode.turn} turns, the horizon is {task.horizon}"
            return
        try:
            episode.step(task.actions[0] if task.actions else "again")
        except RuntimeError:
            continue
        yield f"seed {seed}: a finished episode takes another step, instead of a RuntimeError"


CHECKS: tuple[Check, ...] = (
    it_describes_itself,
    it_shows_text,
    its_vocabulary_has_all_words,
    same_seed_and_actions_give_the_same_outputs,
    a_restored_episode_goes_on_as_the_original,
    signatures_cover_a_part,
    only_actions_are_actions,
    other_text_spends_a_turn,
    an_episode_ends,
)


# ---------------------------------------------------------------- what may be meant so


def start_states_differ(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Seeds begin in more than one state."""
    levels = {task.start_hash(seed) for seed in seeds}
    if len(levels) == 1 and len(seeds) > 1:
        yield f"all of {len(seeds)} seeds begin in one and the same state: does _begin use self.seed?"


def its_expert_succeeds(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Where there is an expert, it solves start states within the horizon."""
    won = 0
    for seed in seeds[:10]:
        episode = task.start(seed)
        with contextlib.suppress(ExpertError):
            while not episode.done:
                try:
                    episode.step(task.expert(episode))
                except NotImplementedError:
                    return
        won += episode.stop_reason == "success"
    if won < len(seeds[:10]):
        yield f"its expert solved {won} of {len(seeds[:10])} start states within {task.horizon} turns"


def it_gives_signatures(task: Task, seeds: Sequence[int]) -> Iterator[str]:
    """Trajectories can be told apart."""
    if not task.gives_signatures:
        yield "it gives no signatures: set objectives need _place (or signature=actions, or a judge)"


NOTES: tuple[Check, ...] = (start_states_differ, its_expert_succeeds, it_gives_signatures)
