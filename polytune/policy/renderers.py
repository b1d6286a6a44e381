"""The renderer that suits a tokenizer: plain text, or the conversation of a chat model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from polytune.checks import require
from polytune.config import PolicyConfig
from polytune.policy.chat import ChatRenderer
from polytune.policy.rendering import Renderer
from polytune.tasks.base import Task


def build_renderer(tokenizer: PreTrainedTokenizerBase, task: Task, policy_config: PolicyConfig) -> Renderer:
    """A :class:`ChatRenderer` for a tokenizer with a chat template, unless ``policy_config.chat`` says otherwise.

    A task whose answers end with a text of its own (creativity) is no conversation: the policy continues its lines.

    Raises:
        ValueError: a conversation is asked for and the tokenizer has no template, or thinking without a conversation;
            or the renderer refuses (a template that rewrites messages, words that the tokenizer does not know).
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    chat = has_template and not task.answer_end if policy_config.chat is None else policy_config.chat
    require(
        has_template or not chat,
        "chat is true, but the tokenizer has no chat template: leave it unset, or give it one.",
    )
    require(
        not (chat and task.answer_end),
        f"chat is true, but answers of task {task.name!r} end with {task.answer_end!r}, not as messages do: leave it "
        "unset.",
    )
    require(
        chat or not policy_config.thinking, "thinking is true, but the policy is no chat model: leave thinking off."
    )
    if not chat:
        return Renderer(tokenizer, task, show_instructions=bool(policy_config.show_instructions))
    return ChatRenderer(
        tokenizer,
        task,
        show_instructions=policy_config.show_instructions is not False,
        thinking=policy_config.thinking,
        today=policy_config.chat_date,
    )
