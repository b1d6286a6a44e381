"""A prompt that is a conversation: messages with roles, as a dataset holds them and a chat template takes them.

A `Conversation` is a text, so that whatever shows prompts shows it, and has `messages` beside it, which the renderer of
chat models gives to the model's own template. As text a single user message is its content; several are a line
`role: content` each, which is what a policy without a chat template reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ANSWERS = ("assistant", "model")
"""Roles whose messages are answers."""


class Conversation(str):
    """The text of some messages, and the messages. Make it with `Conversation.of`."""

    messages: list[dict[str, Any]]

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """From messages that `check_messages` lets pass."""
        lines = [f"{message['role']}: {text_of(message)}" for message in messages]
        alone = len(messages) == 1 and messages[0]["role"] == "user"
        made = cls(text_of(messages[0]) if alone else "\n".join(lines))
        made.messages = [dict(message) for message in messages]
        return made


def with_hint(observation: str, hint: str) -> str:
    """An observation with a line more at its end, of a conversation in its last message."""
    if not isinstance(observation, Conversation):
        return f"{observation}\n{hint}"
    *before, last = observation.messages
    return Conversation.of([*before, {**last, "content": f"{text_of(last)}\n{hint}"}])


def is_messages(value: Any) -> bool:
    """Whether a dataset's value is a list of messages (right ones or not)."""
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def split_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    """The messages that ask, and the text of the answer that they end with; None where they end with a question.

    Entries that are None are left out: a dataset fills them in where another row's message has them.
    Raises ValueError that says what is wrong with the messages.
    """
    asked = [{name: value for name, value in message.items() if value is not None} for message in messages]
    check_messages(asked)
    answer = text_of(asked.pop()) if asked[-1]["role"] in ANSWERS else None
    if not asked:
        raise ValueError("the messages are an answer alone: nothing is asked")
    if asked[-1]["role"] in ANSWERS:
        raise ValueError("the messages end with two answers in a row: nothing is asked before the last one")
    if not text_of(asked[-1]).strip():
        raise ValueError("the message that asks is empty")
    return asked, answer


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless each message has a role, and content that is text or parts of text."""
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise ValueError(f"a message is {{'role': ..., 'content': ...}}, got one with {', '.join(message)}")
        if content is None and "tool_calls" in message:
            continue
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise ValueError(
                    f"a message of {role!r} holds {content!r:.80}: content is text, or parts of the type 'text' "
                    "(images and sounds cannot be shown to a text policy)"
                )


def text_of(message: Mapping[str, Any]) -> str:
    """The content's text, parts one after the other; empty for a message that only calls tools."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
