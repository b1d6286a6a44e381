"""Text <-> token ids: the only place where text becomes tokens and sampled tokens become text.

An episode reads ``observation > action observation > action ...``, a task of free text ``prompt answer``, the answer
ended by the task's ``answer_end`` or, where that is empty, by the end-of-sequence token. What the policy sampled is
kept as token ids and never tokenised again; only the environment's text is. What a text says stays text: <|im_end|> in
a prompt is so many characters, not the token that ends a message.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from polytune.policy.run_file import task_fields
from polytune.tasks.base import Task

#: the word after each observation; the next token is the policy's
PROMPT_WORD = ">"
#: prompts that stand for all where they are alike
FEW_PROMPTS = 100
#: texts, or answers, that a renderer remembers
MOST_REMEMBERED = 100_000


class Renderer:
    """Renders one task for one tokenizer.

    Args:
        tokenizer: the policy's.
        task: gives the instructions.
        show_instructions: begin with ``task.instructions`` (language models; the tiny policies do not know the words).

    Raises:
        ValueError: nothing could end an answer of free text: the tokenizer does not know ``answer_end`` as one token,
            or that is empty and there is no end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, *, show_instructions: bool = False):
        self.tokenizer, self.task = tokenizer, task
        self.instructions = f"{task.instructions}\n\n" if show_instructions and task.instructions else ""
        self._cache: dict[str, tuple[int, ...]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self.free_text = task.answer_end is not None
        self._control_by(tokenizer.all_special_ids)
        end = task.answer_end if self.free_text else "\n"
        ids = tokenizer.encode(end, add_special_tokens=False) if end else []
        known = len(ids) == 1 and ids[0] != tokenizer.unk_token_id
        if not end and tokenizer.eos_token_id is None:
            raise ValueError(
                f"an answer of task {task.name!r} ends with the end-of-sequence token, and the tokenizer has none: "
                "give it one that the policy was trained with, or give the task an answer_end."
            )
        if self.free_text and end and not known:
            raise ValueError(
                f"{self._other_task()}the tokenizer does not know {end!r}, which ends an answer of task {task.name!r}, "
                "as one token: pretrain the policy on this task first (recipes/pretrain.py adds the task's words)."
            )
        ends = [tokenizer.eos_token_id, *(ids if known else [])]
        #: tokens that end an action
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(token for token in ends if token is not None))

    def prompt_ids(self, observation: str) -> tuple[int, ...]:
        """Token ids of an episode's beginning: instructions if wanted, first observation, prompt word."""
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        word = "" if self.free_text else f" {PROMPT_WORD}"
        return (*begin, *self._encode(f"{self.instructions}{observation}{word}"))

    def feedback_ids(self, observation: str, action_ids: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Token ids of what the environment answers to ``action_ids``: the next observation and the prompt word."""
        return self._encode(f"\n{observation} {PROMPT_WORD}")

    def longest_action(self) -> int:
        """Tokens of the longest action, with the token that ends it; of free text as many as the task allows."""
        if self.free_text:
            return self.task.max_action_tokens
        return max(len(self.action_ids(action)) for action in self.task.actions)

    def check_vocabulary(self) -> None:
        """ValueError that names the words of the task which the tokenizer does not know, before them the task that the
        policy was trained on where that is another one."""
        try:
            self._encode(
                self.instructions + " ".join([*self.task.vocabulary(), *([] if self.free_text else [PROMPT_WORD])])
            )
        except ValueError as error:
            raise ValueError(f"{self._other_task()}{error}") from error

    def _other_task(self) -> str:
        """What to say of a policy whose run names another task; nothing where it names this one, or none."""
        folder = Path(self.tokenizer.name_or_path or "/dev/null")
        trained = task_fields(folder).get("task")
        own = (self.task.name, type(self.task).__name__)
        if trained is None or trained in own or trained.rpartition(":")[2] in own:
            return ""
        return (
            f"the policy in {folder} was trained on task {trained!r}, and this is task {self.task.name!r}: give --task "
            f"{trained}, or a policy of {self.task.name!r}. Here "
        )

    def check_prompts(self, seeds: Iterable[int], positions: int | None, longest: int) -> None:
        """ValueError that names the first start state of free text whose prompt and an answer of ``longest`` tokens do
        not fit into ``positions`` (None: any do). Of a task whose prompts are alike the first :data:`FEW_PROMPTS` are
        looked at."""
        if positions is None or not self.free_text:
            return
        for seed in islice(seeds, FEW_PROMPTS if self.task.prompts_alike else None):
            tokens = len(self.prompt_ids(self.task.start(seed).observation()))
            if tokens + longest > positions:
                raise ValueError(
                    f"{self.task.starts.removesuffix('s')} {seed} of task {self.task.name!r} has {tokens} tokens, and "
                    f"an answer up to {longest}, but the policy has only {positions} positions: shorten or leave out "
                    "the row, lower the task's max_tokens or max_action_tokens, or use a policy with a longer context."
                )

    def action_text(self, ids: tuple[int, ...]) -> str:
        """The sampled tokens as text for ``Episode.step``, a stop token at the end left out.

        Free text keeps it, its grader looks for ``answer_end``, unless that is empty.
        """
        text = self._texts.get(ids)
        if text is None:
            silent = not self.task.answer_end  # None or ""
            spoken = ids[:-1] if ids and ids[-1] in self.stop_ids and silent else ids
            text = self.tokenizer.decode(list(spoken), skip_special_tokens=False)
            remember(self._texts, ids, text)
        return text

    def action_ids(self, action: str) -> tuple[int, ...]:
        """Token ids of an expert's action (demonstrations only: sampled actions are never re-tokenised).

        A stop token closes it, unless every action of the task is one token. Free text ends with its own
        ``answer_end``, or with the end-of-sequence token where that is empty.
        """
        end = self.task.answer_end
        if end and self._control.search(end) and action.endswith(end):
            return (*self._encode(action.removesuffix(end)), *self.tokenizer.encode(end, add_special_tokens=False))
        if self.free_text:
            return self._encode(action) + (() if end else self.stop_ids[:1])
        one_token = all(len(self._encode(f" {word}")) == 1 for word in self.task.actions)
        return self._encode(f" {action}") + (() if one_token else self.stop_ids[:1])

    def _control_by(self, ids: Iterable[int]) -> None:
        """Set which tokens are the template's and the trainer's alone: ``ids`` and those that the tokenizer calls
        special."""
        added = self.tokenizer.added_tokens_decoder
        special = {*ids, *(i for i, token in added.items() if token.special)}
        words = {str(added[i]) if i in added else self.tokenizer.convert_ids_to_tokens(i) for i in special}
        longest_first = sorted((word for word in words if len(word or "") > 1), key=lambda word: (-len(word), word))
        self._control_ids = frozenset(special)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _tokens(self, text: str, **options: bool) -> list[int]:
        """What the tokenizer makes of a text; ValueError for one with half a character (a lone surrogate) in it."""
        try:
            return self.tokenizer.encode(text, add_special_tokens=False, **options)
        except (TypeError, UnicodeEncodeError) as error:
            half = re.search("[\ud800-\udfff]", text)
            if half is None:
                raise
            raise ValueError(
                f"the text {text.strip()[:80]!r} has half of a character, {half[0]!r}: leave it out of the task's text."
            ) from error

    def _spelled(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, a control token's name in it as characters.

        Raises:
            ValueError: the tokenizer has no other tokens for it, or none for half a character.
        """
        if self._control.search(text) is None:
            return tuple(self._tokens(text))
        ids = self._tokens(text, split_special_tokens=True)
        if self._control_ids.intersection(ids):  # names that the tokenizer's own vocabulary has: in two parts each
            ids, begin = [], 0
            for match in [*self._control.finditer(text), None]:
                end = len(text) if match is None else match.start() + 1
                ids += self._tokens(text[begin:end], split_special_tokens=True)
                begin = end
        if held := self._control_ids.intersection(ids) - {self.tokenizer.unk_token_id}:
            names = ", ".join(repr(self.tokenizer.decode([i])) for i in sorted(held))
            raise ValueError(
                f"the text {text.strip()[:80]!r} says {names}, for which the tokenizer knows only the control token of "
                "that name: leave it out of the task's text."
            )
        return tuple(ids)

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._spelled(text)
            unknown = self.tokenizer.unk_token_id
            if unknown is not None and unknown in ids:
                words = [w for w in text.split() if unknown in self._spelled(w)]
                raise ValueError(
                    f"the tokenizer does not know the word(s) {', '.join(map(repr, words[:5]))} of the task's text "
                    f"{text.strip()[:80]!r}: give the task the options that the policy was pretrained with "
                    "(--task_args, --show_instructions), use a policy that was pretrained on this task, or list the "
                    "words in the task's vocabulary() and pretrain again."
                )
            remember(self._cache, text, ids)
        return ids


def remember(cache: dict, key: Hashable, value: Any) -> None:
    """Put a value into a cache that forgets all of :data:`MOST_REMEMBERED` when it is full."""
    if len(cache) >= MOST_REMEMBERED:
        cache.clear()
    cache[key] = value
