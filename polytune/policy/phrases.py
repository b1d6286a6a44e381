"""Phrases: words that often stand together in a task's observations, each phrase one token of a tiny policy.

    front=3 left=1 right=far door=ahead2 >             a token each word: 5
    [front=3 left=1 right=far] [door=ahead2 >]         the same text: 2

Byte-pair merges over words (Sennrich et al., arXiv 1508.07909): again and again the pair of neighbours that is seen
most often becomes one. Words of actions never merge, so an action stays one token, and what lies between two actions
has the same tokens alone and in its episode. The prompt word goes into the token before it, so that the policy samples
right after it. With 0 merges there are no phrases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from tokenizers import Tokenizer, models, trainers

from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks.base import Task

#: a pair, or an observation's last token with the prompt word, that is seen less often stays two tokens
LEAST = 10
#: each word is a character to the merger, from here on (a plane of private characters)
_FIRST = 0xF0000
_MOST = 0xFFFE


def task_phrases(task: Task, demonstrations: Mapping[str, Iterable[Iterable[str]]], merges: int) -> list[str]:
    """:func:`learn_phrases` of demonstrations (their column ``observations``), the words of actions kept apart."""
    observations = (text for episode in demonstrations["observations"] for text in episode)
    spoken = {word for action in task.actions for word in action.split()}
    return learn_phrases(observations, merges, [w for w in task.vocabulary() if w not in spoken], PROMPT_WORD)


def learn_phrases(
    observations: Iterable[str], merges: int, words: Iterable[str], prompt_word: str | None = None
) -> list[str]:
    """The phrases of ``merges`` merges, words with a space between, then those that end with the prompt word.

    Args:
        observations: what the policy reads in its demonstrations; the same ones give the same phrases.
        merges: so many pairs are merged, fewer where no pair is seen :data:`LEAST` times. The prompt word's come on
            top: one for each token that :data:`LEAST` observations end with.
        words: those that may merge; any other stays a token of its own.
        prompt_word: the word after each observation; None: there is none.

    Raises:
        ValueError: more words than there are private characters.
    """
    if merges == 0:
        return []
    texts, words = Counter(tuple(text.split()) for text in observations), set(words)
    phrases = _merge(texts, merges, words)
    if prompt_word is None:
        return phrases
    known, ends = {tuple(phrase.split()) for phrase in phrases}, Counter()
    for text, times in texts.items():
        ends[_last(text, known)] += times
    often = [end for end, times in ends.items() if times >= LEAST and end and words.issuperset(end)]
    return [*phrases, *(" ".join([*end, prompt_word]) for end in sorted(often, key=lambda end: (-ends[end], end)))]


def _merge(texts: Counter[tuple[str, ...]], merges: int, words: Collection[str]) -> list[str]:
    """The merged words in the order of their merges, each word a character for the time of it."""
    seen = sorted({word for text in texts for word in text} & set(words))
    if len(seen) > _MOST:
        raise ValueError(f"{len(seen)} different words are too many to merge, {_MOST} at most: set word_merges to 0.")
    character = {word: chr(_FIRST + index) for index, word in enumerate(seen)}
    runs: list[str] = []
    for text, times in texts.items():
        runs += "".join(character.get(word, " ") for word in text).split() * times  # cut at what stays apart
    trainer = trainers.BpeTrainer(
        vocab_size=len(seen) + merges, min_frequency=LEAST, initial_alphabet=list(character.values()),
        show_progress=False,
    )  # fmt: skip
    merger = Tokenizer(models.BPE())
    merger.train_from_iterator(runs, trainer)
    ids = merger.get_vocab()
    merged = sorted((token for token in ids if len(token) > 1), key=ids.__getitem__)
    return [" ".join(seen[ord(one) - _FIRST] for one in token) for token in merged]


def _last(words: tuple[str, ...], known: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """The last token of a text, cut from its beginning into the longest phrases, as the tokenizer does it."""
    longest, begin, end = max(map(len, known), default=1), 0, 0
    while end < len(words):
        begin = end
        fits = (n for n in range(min(longest, len(words) - begin), 1, -1) if words[begin : begin + n] in known)
        end = begin + next(fits, 1)
    return words[begin:end]
