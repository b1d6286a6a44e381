"""Text <-> token ids: the only place where text becomes tokens and sampled tokens become text.

An episode reads ``observation > action observation > action ...``, a task of free text ``prompt answer``, the answer
ended by the task's ``answer_end`` or, where that is empty, by the end-of-sequence token. What the policy sampled is
kept as token ids and never tokenised again; only the environment's text is.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerBase

from polytune.tasks.base import Task

#: the word after each observation; the next token is the policy's
PROMPT_WORD = ">"
#: prompts that stand for all where they are alike
FEW_PROMPTS = 100


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
        self.instructions = task.instructions + "\n\n" if show_instructions else ""
        self._cache: dict[str, tuple[int, ...]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        self.free_text = task.answer_end is not None
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
                f"the tokenizer does not know {end!r}, which ends an answer of task {task.name!r}, as one token: "
                "pretrain the policy on this task first (recipes/pretrain.py adds the task's words)."
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
        """ValueError that names the words of the task which the tokenizer does not know."""
        self._encode(
            self.instructions + " ".join([*self.task.vocabulary(), *([] if self.free_text else [PROMPT_WORD])])
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
            if len(self._texts) > 100_000:
                self._texts.clear()
            self._texts[ids] = text
        return text

    def action_ids(self, action: str) -> tuple[int, ...]:
        """Token ids of an expert's action (demonstrations only: sampled actions are never re-tokenised).

        A stop token closes it, unless every action of the task is one token. Free text ends with its own
        ``answer_end``, or with the end-of-sequence token where that is empty.
        """
        if self.free_text:
            return self._encode(action) + (() if self.task.answer_end else self.stop_ids[:1])
        one_token = all(len(self._encode(f" {word}")) == 1 for word in self.task.actions)
        return self._encode(f" {action}") + (() if one_token else self.stop_ids[:1])

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._cache.get(text)
        if ids is None:
            ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
            unknown = self.tokenizer.unk_token_id
            if unknown is not None and unknown in ids:
                words = [w for w in text.split() if unknown in self.tokenizer.encode(w, add_special_tokens=False)]
                raise ValueError(
                    f"the tokenizer does not know the word(s) {', '.join(map(repr, words[:5]))} of the task's text "
                    f"{text.strip()[:80]!r}: give the task the options that the policy was pretrained with "
                    "(--task_args, --show_instructions), use a policy that was pretrained on this task, or list the "
                    "words in the task's vocabulary() and pretrain again."
                )
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[text] = ids
        return ids
