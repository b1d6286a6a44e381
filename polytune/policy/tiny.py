"""Tiny policies: a Qwen3 of 0.3 to 3 M parameters with a word-level tokenizer, saved as an ordinary checkpoint.

The architecture is transformers' own ``Qwen3ForCausalLM``, so ``AutoModelForCausalLM`` and vLLM load what
``save_pretrained`` writes. Every word of the task is one token, hence one action is one sampled token. Heads are not
grouped (as many key as query heads): on CPU, sharing key heads costs a copy at every step and saves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

#: name -> (hidden size, layers, heads, feed-forward size); parameters with FourRooms' vocabulary in the comment
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (96, 3, 3, 288),  # 0.38 M
    "small": (128, 4, 4, 448),  # 0.98 M
    "medium": (192, 6, 6, 576),  # 2.9 M
}
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")


def build_tokenizer(vocabulary: Iterable[str], *, spaced: bool = True) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over ``vocabulary`` (whitespace-free words); ids are stable: special tokens, then words.

    Texts are words with spaces between them; with ``spaced`` off, words follow each other without (``<a_1><a_2></a>``)
    and decoding adds none: what is in angle brackets is one word, then the longest word that fits.

    Raises:
        ValueError: a word is empty or contains whitespace, so it could never be one token.
    """
    words = list(dict.fromkeys(vocabulary))
    for word in words:
        if not word or word.split() != [word]:
            raise ValueError(f"vocabulary word {word!r} is empty or contains whitespace: list its parts one by one.")
    ids = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
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


def build_tiny(
    preset: str, vocabulary: Iterable[str], *, spaced: bool = True, max_positions: int = 2048, seed: int = 0
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A freshly initialised tiny policy and its tokenizer.

    Args:
        preset: a row of :data:`PRESETS`.
        vocabulary: every word of the task's texts (``Task.vocabulary()`` and the renderer's own words).
        spaced: whether spaces lie between the words of a text.
        max_positions: longest episode in tokens.
        seed: of the initial weights.

    Raises:
        ValueError: unknown preset; the message lists the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: the presets are {', '.join(PRESETS)}.")
    hidden, layers, heads, feed_forward = PRESETS[preset]
    tokenizer = build_tokenizer(vocabulary, spaced=spaced)
    config = Qwen3Config(
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
        model = Qwen3ForCausalLM(config)
    return model.eval(), tokenizer
