"""Chat models: an episode as a conversation in the model's own template, token for token as it was sampled.

The first user message holds the instructions and the first observation, each later one an observation; the policy's
actions are the assistant's messages. Only what lies between two actions is ever rendered, from a short conversation of
the same shape, so a sampled token is never rendered or tokenised again. That is right only if the template renders a
message alike whatever comes after it: checked at start. Templates that drop earlier thinking (Qwen3's) are replaced by
TRL's training template of the same model where TRL has one, and refused where it has none.

A prompt that is a conversation itself (:class:`polytune.tasks.messages.Conversation`) is rendered message by message:
system message, earlier rounds, and contents in parts where the template takes them.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from polytune.config import PolicyConfig
from polytune.policy.bounded import bounded
from polytune.policy.rendering import Renderer, remember
from polytune.tasks.base import Task
from polytune.tasks.messages import Conversation, text_of

THINKING_END = "</think>"
UNRENDERED = "cannot render"
#: of a core, for one conversation
MOST_SECONDS = 20.0
#: in the place of a text in a message, as long as the template is at work
_MARK = re.compile("\ue000([0-9]+)\ue001")


class ChatRenderer(Renderer):
    """Renders one task for a chat model's tokenizer.

    Args:
        tokenizer: the policy's, with a chat template.
        task: gives instructions and actions.
        show_instructions: begin the first message with ``task.instructions``.
        today: the date that a template which prints one is shown.
        thinking: let the model think before each action; its thinking stays in context. Off: the template is told not
            to (``enable_thinking``), which models without such blocks ignore.

    Raises:
        ValueError: the template rewrites earlier messages, or closes a message with nothing to stop at.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        *,
        show_instructions: bool = True,
        thinking: bool = False,
        today: str = PolicyConfig.chat_date,
    ):
        super().__init__(tokenizer, task, show_instructions=show_instructions)
        self.thinking, self.today = thinking, date.fromisoformat(today)
        self._thought = f"<think>\nx\n{THINKING_END}\n\n" if thinking else ""
        self.template = self._safe_template()
        self._opening = self._text([_user("x")])
        self._takes_parts: bool | None = None
        closing = self._between("x")
        first = tokenizer.encode(closing, add_special_tokens=False)[:1]
        # some tokenizers (Phi's, Gemma's) know their end of a turn as an added token alone
        if not first or first[0] not in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
            raise ValueError(
                f"the chat template closes an answer with {closing[:20]!r}, which begins with no special token, so a "
                "sampled answer has no end: give the tokenizer a template that ends messages with one, as "
                f"{tokenizer.eos_token!r}."
            )
        self._closing_id = first[0]
        printed = tokenizer.encode(self._opening + self._thought + closing, add_special_tokens=False)
        self._control_by({first[0], *tokenizer.all_special_ids, *tokenizer.added_tokens_decoder.keys() & {*printed}})
        self.stop_ids = tuple(dict.fromkeys([self._closing_id, *self.stop_ids[:1]]))

    # ------------------------------------------------------------------ text to tokens

    def prompt_ids(self, observation: str) -> tuple[int, ...]:
        """Token ids of the first message and the beginning of the assistant's."""
        if isinstance(observation, Conversation):
            kept, messages = self._kept_apart(self._messages(observation))
            return self._ids(self._conversation(messages), kept)
        kept, messages = self._kept_apart([_user(self.instructions + observation)])
        return self._ids(self._text(messages), kept)

    def feedback_ids(self, observation: str, action_ids: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Token ids between two actions: the end of the answer unless ``action_ids`` has it, and the next message."""
        kept, [message] = self._kept_apart([_user(observation)])
        ids = self._ids(self._between(message["content"]), kept)
        return ids[1:] if action_ids and action_ids[-1] == self._closing_id else ids

    def action_ids(self, action: str) -> tuple[int, ...]:
        """Token ids of an expert's action with the end of its message."""
        return (*self._encode(action), self._closing_id)

    def longest_action(self) -> int:
        """As the parent's; ValueError for a model that thinks, whose thoughts have no longest."""
        if self.thinking:
            raise ValueError("thinking is true: set max_action_tokens, the tokens of a thought and its action at most.")
        return super().longest_action()

    def check_vocabulary(self) -> None:
        """Any text can be written."""

    def action_text(self, ids: tuple[int, ...]) -> str:
        """What comes after the thinking, without the token that ended the message."""
        text = self._texts.get(ids)
        if text is None:
            spoken = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
            text = self.tokenizer.decode(list(spoken), skip_special_tokens=False)
            if self.thinking and THINKING_END in text:
                text = text.rpartition(THINKING_END)[2].lstrip("\n")
            remember(self._texts, ids, text)
        return text

    # ------------------------------------------------------------------ the template

    def _text(self, messages: list[dict[str, str]], template: str | None = None) -> str:
        """What the template makes of messages; ValueError for one that does not come to an end."""
        try:
            with bounded(MOST_SECONDS):
                return self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=True,
                    chat_template=template or self.template,
                    enable_thinking=self.thinking,
                    strftime_now=self.today.strftime,  # in the place of the function of that name in templates
                )
        except TimeoutError as error:
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} does not come to an end with {len(messages)} "
                f"messages: {error}. Give the tokenizer another template."
            ) from error

    def _messages(self, asked: Conversation) -> list[dict[str, Any]]:
        """Those of a conversation, the instructions before its first user message."""
        messages = [message | {"content": self._content(message)} for message in asked.messages]
        first = next((message for message in messages if message["role"] == "user"), None)
        if self.instructions and first is not None:
            said = first["content"]
            first["content"] = self.instructions + said if isinstance(said, str) else [_part(self.instructions), *said]
        return messages

    def _kept_apart(self, messages: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
        """Texts that name control tokens, and the messages with a mark in the place of each: only what the template
        writes itself may be such a token.

        Raises:
            ValueError: anything but the content of a message names one.
        """
        kept: list[str] = []

        def mark(text: str) -> str:
            if self._control.search(text) is None and not _MARK.search(text):
                return text
            kept.append(text)
            return f"\ue000{len(kept) - 1}\ue001"

        def marked(content: Any) -> Any:
            if isinstance(content, str):
                return mark(content)
            return [part | {"text": mark(part["text"])} for part in content] if isinstance(content, list) else content

        for message in messages:
            others = repr({name: value for name, value in message.items() if name != "content"})
            if found := self._control.search(others):
                raise ValueError(
                    f"a message of the dataset says {found[0]!r} outside its content, where it would be the control "
                    f"token of that name: {others[:80]}. Leave it out."
                )
        return kept, [m | {"content": marked(m["content"])} if "content" in m else m for m in messages]

    def _ids(self, text: str, kept: list[str]) -> tuple[int, ...]:
        """Token ids of what the template made, each mark's text as text."""
        if not kept:
            ids = self._cache.get(text)
            if ids is None:
                ids = tuple(self._tokens(text))
                remember(self._cache, text, ids)
            return ids
        ids = []
        for number, piece in enumerate(_MARK.split(text)):
            ids += self._spelled(kept[int(piece)]) if number % 2 else self._tokens(piece)
        return tuple(ids)

    def _conversation(self, messages: list[dict[str, Any]]) -> str:
        """A conversation up to the beginning of the answer.

        Raises:
            ValueError: the template refuses it, a role that it does not know, say.
        """
        try:
            return self._text(messages)
        except Exception as error:  # a template is a program: whatever it raises, it does not suit
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} cannot render a conversation of {roles} "
                f"({type(error).__name__}: {error}): give the dataset roles in an order that it takes, or the "
                "tokenizer another template."
            ) from error

    def _content(self, message: dict[str, Any]) -> str | list[dict[str, str]]:
        """A message's content, its parts joined unless the template takes parts itself."""
        if not isinstance(message.get("content"), list):
            return text_of(message)
        if self._takes_parts is None:
            words = ["part-one", "part-two"]
            try:
                text = self._text([{"role": "user", "content": [_part(word) for word in words]}])
            except Exception:  # it wants text
                text = ""
            self._takes_parts = all(word in text for word in words) and "'text'" not in text and '"text"' not in text
        return message["content"] if self._takes_parts else text_of(message)

    def _between(self, observation: str) -> str:
        """What the template puts after an action "x" that follows a message "x", up to the next action."""
        said = f"{self._thought}x"
        whole = self._text([_user("x"), _assistant(said), _user(observation)])
        return whole[len(self._opening) + len(said) :]

    def _safe_template(self) -> str:
        """The tokenizer's template, or TRL's for training, whichever keeps earlier messages as they were."""
        own = self.tokenizer.chat_template
        own = own["default"] if isinstance(own, dict) else own
        fault = self._fault(own)
        if fault is None:
            return own
        from trl.chat_template_utils import get_training_chat_template

        try:
            with bounded(MOST_SECONDS):
                other = get_training_chat_template(self.tokenizer)
        except Exception:  # it lets the template render, too
            other = None
        if other is None or self._fault(other) is not None:
            if fault.startswith(UNRENDERED):
                raise ValueError(
                    f"the chat template of {self.tokenizer.name_or_path!r} {fault}: an episode is a user's message "
                    "first, then answers and users' messages in turn. Save the tokenizer with a template that takes "
                    "them (of one that wants a system message: with that message written into it)."
                )
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} {fault}, so tokens that were sampled in a "
                "conversation would be others when it goes on, and no gradient would be theirs. TRL has no training "
                "template for it: save the tokenizer with a template that leaves earlier messages alone."
            )
        return other

    def _fault(self, template: str) -> str | None:
        """What a conversation of three rounds shows to be wrong with a template; None when it is safe."""
        asked, said = ["one", "two", "three"], [f"{self._thought}left", f"{self._thought}right"]
        texts = []
        try:
            for rounds in range(3):
                messages: list[dict[str, Any]] = []
                for index in range(rounds):
                    messages += [_user(asked[index]), _assistant(said[index])]
                texts.append(self._text([*messages, _user(asked[rounds])], template))
        except Exception as error:  # a template is a program: whatever it raises, it does not suit
            many = "1 round" if rounds == 0 else f"{rounds + 1} rounds"
            return f"{UNRENDERED} a conversation of {many} ({type(error).__name__}: {error})"
        for index in (0, 1):
            begun = texts[index] + said[index]
            if not texts[index + 1].startswith(begun):
                place = next(
                    (i for i, (a, b) in enumerate(zip(begun, texts[index + 1], strict=False)) if a != b), len(begun)
                )
                return (
                    f"rewrites earlier messages ({begun[max(0, place - 20) : place + 20]!r} becomes "
                    f"{texts[index + 1][max(0, place - 20) : place + 20]!r} one round later)"
                )
        first, second = (texts[i + 1][len(texts[i]) + len(said[i]) :] for i in (0, 1))
        if first.replace("two", "three") != second:
            return f"puts {second!r} after the second answer and {first!r} after the first"
        return None


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
