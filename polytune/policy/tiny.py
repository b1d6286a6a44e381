"""Tiny policies: a Llama of 0.4 to 4 M parameters with a word-level tokenizer, saved as an ordinary checkpoint.

The architecture is transformers' own ``LlamaForCausalLM``, so ``AutoModelForCausalLM`` and vLLM load what
``save_pretrained`` writes. Every word of the task is one token, hence one action is one sampled token; words that often
stand together may be one, too (:mod:`polytune.policy.phrases`). Heads are not grouped (as many key as query heads): on
CPU, sharing key heads costs a copy at every step and saves nothing. They are few and large, and queries and keys have
no norms, because a core is faster so at the same parameters and success (``data/results/presets.json``); their sizes
are among those that vLLM's attention on CPU has (32, 64, 80, 96, 112, 128 and more, but not 48).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from polytune.policy.lean import make_lean

#: name -> (hidden size, layers, heads, feed-forward size); parameters with FourRooms' vocabulary in the comment
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (96, 3, 1, 288),  # 0.38 M
    "small": (128, 4, 2, 448),  # 0.98 M
    "medium": (192, 6, 3, 576),  # 2.9 M
    "large": (256, 4, 4, 1024),  # 4.3 M; the size of MaxRL's policy for its maze
}
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")


def build_tokenizer(
    vocabulary: Iterable[str], *, spaced: bool = True, phrases: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over ``vocabulary`` (whitespace-free words); ids are stable: special tokens, words, phrases.

    Texts are words with spaces between them; with ``spaced`` off, words follow each other without (``<a_1><a_2></a>``)
    and decoding adds none: what is in angle brackets is one word, then the longest word that fits. ``phrases``
    (:func:`polytune.policy.phrases.learn_phrases`) are words with a space between, each one token: from its beginning
    a text is cut into the longest phrase that fits, or else a word. Decoding gives the same text with and without.

    Raises:
        ValueError: a word is empty or contains whitespace, so it could never be one token; a phrase has a word that is
            not in the vocabulary; or there are phrases and ``spaced`` is off.
    """
    words = list(dict.fromkeys(vocabulary))
    for word in words:
        if not word or word.split() != [word]:
            raise ValueError(f"vocabulary word {word!r} is empty or contains whitespace: list its parts one by one.")
    phrases = list(dict.fromkeys(phrases))
    _check_phrases(phrases, words, spaced=spaced)
    ids = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *words, *phrases]))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if phrases:
        pattern = "|".join([*map(re.escape, sorted(phrases, key=len, reverse=True)), r"\S+"])
        tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"(?<!\S)(?:{pattern})(?!\S)"), "removed", invert=True)
    if not spaced:
        long = sorted((w for w in words if len(w) > 1 and not re.fullmatch("<[^<>]*>", w)), key=len, reverse=True)
        pattern = "|".join(["<[^<>]*>", *map(re.escape, long), "."])
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, split])
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def _check_phrases(phrases: Sequence[str], words: Sequence[str], *, spaced: bool) -> None:
    if phrases and not spaced:
        raise ValueError("texts without spaces between their words have no phrases: set word_merges to 0.")
    known = set(words)
    for phrase in phrases:
        parts = phrase.split()
        if len(parts) < 2 or " ".join(parts) != phrase or not known.issuperset(parts):
            raise ValueError(f"phrase {phrase!r} must be two or more words of the vocabulary with one space between.")


def sizes_of(preset: str) -> tuple[int, int, int, int]:
    """A row of :data:`PRESETS`; ValueError for an unknown one lists them."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: the presets are {', '.join(PRESETS)}.")
    return PRESETS[preset]


def positions_for(horizon: int) -> int:
    """Tokens of an episode of ``horizon`` long turns (16 tokens, an observation and an action), at least 2,048."""
    return max(2048, 16 * horizon)


def build_tiny(
    preset: str,
    vocabulary: Iterable[str],
    *,
    spaced: bool = True,
    phrases: Iterable[str] = (),
    max_positions: int = 2048,
    seed: int = 0,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A freshly initialised tiny policy and its tokenizer.

    Args:
        preset: a row of :data:`PRESETS`.
        vocabulary: every word of the task's texts (``Task.vocabulary()`` and the renderer's own words).
        spaced: whether spaces lie between the words of a text.
        phrases: words that are one token together, see :func:`build_tokenizer`.
        max_positions: longest episode in tokens.
        seed: of the initial weights.

    Raises:
        ValueError: unknown preset; the message lists the known ones.
    """
    hidden, layers, heads, feed_forward = sizes_of(preset)
    tokenizer = build_tokenizer(vocabulary, spaced=spaced, phrases=phrases)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=feed_forward,
        max_position_embeddings=max_positions,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    make_lean(model)
    return model.eval(), tokenizer
