"""Strings that were made to do harm, through everything that reads text: parsers, graders, renderers, readers of files.

    python tests/campaign/hostile.py                             # make hostile: 1,000,000 strings, half an hour
    python tests/campaign/hostile.py --count 20000 --seed 7

Held of every call: it raises nothing but an error of polytune's own, it takes less than ``MOST_SECONDS`` of a core, and
the same text gives the same answer again. What fails is printed with its seed, number and target; the status is then 1.
What was stopped goes on after the last texts that it told of, unless the code has changed.
``tests/unit/test_hostile_text.py`` runs the first few thousand.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polytune
from polytune.app.cli import _raised_by_us
from polytune.digests import short_digest
from polytune.errors import ToldError
from polytune.running.provenance import origin, write_json

MOST_SECONDS = 1.0
LONGEST = 100_000
#: texts after which the result is written
AT_ONCE = 10_000
RESULT = "data/results/hostile.json"
#: what stands in special places somewhere
PIECES = [
    *map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "\u200b", "\u202e", "\u2066", "\u2069",
    "\u0301", "\ud800", "\udfff", "\U0010ffff", "\U0001f468\u200d\U0001f469", "ﬃ", "İ", "ß", "٣", "²", "Ⅷ", "\u00a0",
    "\u3000", "<pad>", "<unk>", "<bos>", "<eos>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>",
    "</think>", "[INST]", "<a_0>", "<a_1>", "<b1_0>", "<b2_0>", "<sep>", "</a>", "<q>", " > ", "observation",
    "forward", "left", "a", "\\boxed{", "}", "{", "$", "$$", "\\frac", "\\sqrt{", "^{9^{9^{9}}}", "\\left(",
    "\\begin{matrix}", "&", "\\\\", "Answer:", "<answer>", "</answer>", "1", "0", "9" * 30, "1e999", "-1e-999",
    "NaN", "Infinity", "0x1", "1_000", "00", "3.", ".5", "(", ")", "+", "-", "*", "/", "**", "//", "%", "[", "]",
    "{", "}", '"', "'", "\\", "\\u0000", "\\ud800", ":", ",", "- ", "? ", "!!python/object/apply:os.system ['true']",
    "&a ", "*a", "<<: ", "---\n", "%YAML 9", "seeds:0-", "true", "null", "<script>", "</script>",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "&lt;", "|", "`", "](", "#", "\n", "\r\n", "http://a:b@",
    "?token=", "hf_", "~/", "\x1b[", "\x1bO", "\x1b]0;", "{{ 7*7 }}", "{% for i in range(9) %}", "%s", "${x}",
]  # fmt: skip
#: texts that are right somewhere
RIGHT = [
    "<a_1><a_2><sep><a_2><a_3><sep><a_3><a_1></a>", "<b1_0><b2_0><a_0></a>", "(2*3)*4", "2 + 3 - 4",
    "the answer is \\boxed{12}", "so\nAnswer: 12", "<answer>7</answer>",
    '{"prompt": "2 3 4", "target": 24, "numbers": [2, 3, 4]}', '[{"prompt": "a"}]', "prompt,answer\na,b\n",
    "num_updates: 3\nlearning_rate: 1e-5\nmethods: [ucb]\n", "seeds:0-49", "forward", "red",
    '{"policy": "a", "start_seed": 1, "attempt": 0, "greedy": false, "success": true, "return": 1.0, "turns": 3, '
    '"signature": [1], "invalid_actions": 0}\n',
    "<think>\nhm\n</think>\n\nleft<|im_end|>", "x^2 + \\frac{1}{2}", "~/runs/a",
]  # fmt: skip


def hostile_texts(seed: int, first: int, count: int) -> Iterator[str]:
    """The texts ``first`` .. ``first + count - 1`` of a seed; each by its number alone."""
    for number in range(first, first + count):
        draw = random.Random(f"{seed} {number}")
        yield KINDS[number % len(KINDS)](draw)[:LONGEST]


def _pieces(draw: random.Random) -> str:
    return "".join(draw.choices(PIECES, k=draw.randint(0, 40)))


def _characters(draw: random.Random) -> str:
    tops = draw.choices((0x80, 0x300, 0x3000, 0x110000), k=draw.randint(0, 60))
    return "".join(chr(draw.randrange(top)) for top in tops)


def _changed(draw: random.Random) -> str:
    """A right text with a few places cut, doubled, or filled with a piece."""
    text = draw.choice(RIGHT)
    for _ in range(draw.randint(0, 4)):
        place, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        cut = draw.choice(("", text[place:end] * 2, draw.choice(PIECES), draw.choice(PIECES) * draw.randint(2, 9)))
        text = text[:place] + cut + text[end:]
    return text


def _repeated(draw: random.Random) -> str:
    """One or two pieces again and again, now and then as long as an answer may be: what makes a pattern backtrack."""
    unit = "".join(draw.choices([*PIECES, *RIGHT], k=draw.randint(1, 2)))
    length = LONGEST if draw.random() < 0.004 else int(10 ** draw.uniform(0, 3))
    return draw.choice(PIECES) + unit * (length // len(unit)) + draw.choice(PIECES)


def _nested(draw: random.Random) -> str:
    depth = draw.choice((3, 30, 199)) if draw.random() < 0.99 else 33_000
    opening, inner, closing = draw.choice((
        ("(", "1", ")"), ("[", "1", "]"), ('{"a":', "1", "}"), ("\\sqrt{", "2", "}"), ("\\frac{1}{", "2", "}"),
        ("{a: ", "1", "}"), ("<answer>", "1", "</answer>"), ("\\boxed{", "1", "}"), ("((1)+", "1", ")"),
        ("- ", "1", ""), ("-", "1", ""),
    ))  # fmt: skip
    return opening * depth + inner + closing * draw.choice((depth, depth, depth - 1, 0))


def _number(draw: random.Random) -> str:
    length = draw.choice((1, 9, 19, 40, 4301)) if draw.random() < 0.99 else 99_990
    digits = "".join(draw.choices("0123456789", k=length))
    text = draw.choice(("{}", "\\boxed{{{}}}", '{{"prompt": {}}}', "<a_{}></a>", "a: {}", "seeds:0-{}", "{}+1", "1e{}",
                        "{}.5", "<b1_{}><b2_0><a_0></a>"))  # fmt: skip
    return text.format(digits)


KINDS: list[Callable[[random.Random], str]] = [_pieces, _characters, _changed, _repeated, _changed, _nested, _number]


class Target(NamedTuple):
    """What reads a text, and of how many texts it gets one."""

    name: str
    read: Callable[[str], Any]
    every: int = 1


def targets(folder: Path) -> list[Target]:
    """Everything that reads text; ``folder``: for files. Slow ones get a part of the texts."""
    return [*_graders(), *_tasks(), *_renderers(), *_pages(), *_readers(folder)]


def _graders() -> list[Target]:
    from polytune.objective.ngram_judge import NGramJudge
    from polytune.tasks import reasoning, rewards

    row, judge = {"numbers": [2, 3, 4], "target": 24, "answer": "12"}, NGramJudge()
    return [
        Target("rewards.reaches_target", lambda text: rewards.reaches_target(text, row)),
        Target("rewards.calculation", lambda text: rewards.calculation(text, row)),
        Target("rewards.final_answer", lambda text: rewards.final_answer(text)),
        Target("rewards.math_verified", lambda text: rewards.math_verified(text, row), 5000),
        Target("reference", lambda text: rewards.math_verified("\\boxed{12}", {"answer": text}), 10000),
        Target("reasoning.final_answer", lambda text: reasoning.final_answer(text)),
        Target("ngram judge", lambda text: judge([text, "a b c d", text[::-1]]), 5),
    ]


def _tasks() -> list[Target]:
    from polytune.tasks import load_task
    from polytune.tasks.keys import decode_keys, said_by_line

    def play(task: Any, start: int) -> Callable[[str], Any]:
        def read(text: str) -> Any:
            episode = task.start(start)
            step = episode.step(text)
            return step, episode.signature()

        return read

    small = {name: load_task(name, size="tiny") for name in ("sibling", "triangle", "circle", "line")}
    found = [Target(f"task {name}", play(task, 1_000_000)) for name, task in small.items()]
    found += [Target(f"task {name}", play(load_task(name), 0), 5) for name in ("bandit", "two-step")]
    actions = load_task("babyai-goto")
    keys = {"f": "forward"}
    return [
        *found,
        Target("actions", lambda text: actions.parse_action(text)),
        Target("keys", lambda text: (decode_keys(text), said_by_line(text, keys)), 2),
    ]


def _renderers() -> list[Target]:
    from polytune.policy import Renderer, build_tiny
    from polytune.policy.chat import ChatRenderer
    from polytune.policy.phrases import learn_phrases
    from polytune.tasks import load_task
    from polytune.tasks.messages import split_answer

    bandit = load_task("bandit")
    words = Renderer(build_tiny("tiny", [">", *bandit.vocabulary()])[1], bandit)
    tokenizer, special = byte_tokenizer()
    plain, chat = Renderer(tokenizer, bandit), ChatRenderer(tokenizer, bandit)

    def shown(renderer: Renderer) -> Callable[[str], Any]:
        def read(text: str) -> Any:
            ids = renderer.prompt_ids(text), renderer.feedback_ids(text, (0,))
            own = [sum(token in special for token in part) for part in ids]
            short = renderer.prompt_ids("x"), renderer.feedback_ids("x", (0,))
            expected = [sum(token in special for token in part) for part in short]
            if own != expected:
                raise AssertionError(f"{own} special tokens where {expected} are the template's")
            renderer._cache.clear()
            return ids, renderer.action_text(ids[0])

        return read

    def asked(text: str) -> Any:
        parts = [{"type": "text", "text": text}]
        return split_answer([{"role": "user", "content": text}, {"role": text, "content": parts}])

    return [
        Target("renderer, words", shown_words(words), 50),
        Target("renderer, bytes", shown(plain), 50),
        Target("renderer, chat", shown(chat), 100),
        Target("phrases", lambda text: learn_phrases([text] * 12, 4, text.split()[:50], ">"), 500),
        Target("messages", asked, 5),
    ]


def shown_words(renderer: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        renderer._cache.clear()
        return renderer.prompt_ids(text)

    return read


def byte_tokenizer() -> tuple[Any, set[int]]:
    """A byte-level tokenizer with ChatML, and its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, letters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters, show_progress=False)
    bpe.train_from_iterator(["user assistant system"] * 3, trainer)
    template = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")  # fmt: skip
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
    return made, set(made.convert_tokens_to_ids(special))


def _pages() -> list[Target]:
    from polytune.privacy import private
    from polytune.report import page
    from polytune.report.tracks import signature_label

    def escaped(text: str) -> str:
        made = page.table([["", text], [text, text]], caption=text) + page.command(text) + page.paragraphs([text])
        if made.lower().count("<script") or made.lower().count("<img"):
            raise AssertionError("markup of a text is markup of the page")
        return str(made)

    return [
        Target("private", private, 5),
        Target("signature_label", lambda text: (signature_label(text), signature_label([text, text])), 5),
        Target("page", escaped, 50),
    ]


def _readers(folder: Path) -> list[Target]:
    from polytune.evaluation.records import read_records
    from polytune.recipe import read_recipe
    from polytune.tasks.files import read_rows
    from polytune.tasks.splits import load_split

    def of_file(suffix: str, read: Callable[[Path], Any]) -> Callable[[str], Any]:
        place = folder / f"text{suffix}"

        def through_a_file(text: str) -> Any:
            place.write_bytes(text.encode("utf-8", "surrogatepass"))
            return read(place)

        return through_a_file

    def rows(place: Path) -> list:
        return [dict(row) for row in read_rows(place)]

    from polytune.tasks import load_task

    bandit = load_task("bandit")
    return [
        *(Target(f"rows {suffix}", of_file(suffix, rows), every)
          for suffix, every in ((".jsonl", 10), (".json", 10), (".csv", 1000), (".parquet", 500))),
        Target("recipe", of_file(".yaml", read_recipe), 50),
        Target("records", of_file(".jsonl", lambda place: list(read_records(place))), 10),
        Target("split", lambda text: len(load_split(bandit, text)) if text.startswith("seeds:") else None),
    ]  # fmt: skip


@contextmanager
def _room() -> Iterator[Path]:
    """A folder in memory where there is one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


class Found(NamedTuple):
    """What a campaign found: of each target its calls, refusals and slowest call; failures."""

    calls: Counter
    refused: Counter
    slowest: dict[str, tuple[float, int]]
    failures: list[str]


def through(readers: list[Target], seed: int, first: int, count: int) -> Found:
    """All texts through all targets, each twice."""
    found = Found(Counter(), Counter(), {}, [])
    for number, text in enumerate(hostile_texts(seed, first, count), start=first):
        for place, target in enumerate(readers):
            if (number // len(KINDS) + place) % target.every == 0:
                _check(found, target, text, number)
    return found


def _check(found: Found, target: Target, text: str, number: int) -> None:
    told = []
    for _ in range(2):
        begun = time.thread_time()
        try:
            told.append(repr(target.read(text)))
        except (ValueError, ToldError) as error:
            if not (isinstance(error, ToldError) or _raised_by_us(error)):
                found.failures.append(_failure(target, text, number, error))
                return
            told.append(f"refused: {error}")
        except Exception as error:
            found.failures.append(_failure(target, text, number, error))
            return
        seconds = time.thread_time() - begun
        found.calls[target.name] += 1
        if seconds > found.slowest.get(target.name, (0.0, 0))[0]:
            found.slowest[target.name] = seconds, number
        if seconds > MOST_SECONDS:
            found.failures.append(f"{target.name} took {seconds:.2f} s over text {number} ({text[:60]!r})")
            return
    found.refused[target.name] += told[0].startswith("refused: ")
    if told[0] != told[1]:
        found.failures.append(f"{target.name} says two things of text {number}: {told[0][:80]} and {told[1][:80]}")


def _failure(target: Target, text: str, number: int, error: Exception) -> str:
    told = f"{target.name}, text {number} ({len(text)} characters, {text[:60]!r}): {type(error).__name__}: {error}"
    return told[:400]


def _report(found: Found, texts: int, seconds: int) -> dict[str, Any]:
    named = {
        name: {"calls": found.calls[name], "refused_texts": found.refused[name],
               "slowest_ms": round(1000 * found.slowest[name][0], 2), "slowest_text": found.slowest[name][1]}
        for name in sorted(found.calls)
    }  # fmt: skip
    return origin(["tests/campaign/hostile.py", *sys.argv[1:]]) | {
        "texts": texts, "calls": sum(found.calls.values()), "failures": found.failures, "seconds": seconds,
        "most_seconds": MOST_SECONDS, "longest": LONGEST, "targets": named, "code": code(),
    }  # fmt: skip


def code() -> str:
    """What was tried with other code counts for nothing."""
    files = sorted([*Path(polytune.__file__).parent.rglob("*.py"), Path(__file__)])
    return short_digest(b"".join(path.read_bytes() for path in files))


def had(path: Path, command: str) -> tuple[Found, int, int]:
    """What this command with this code has found before, of how many texts, and in how many seconds."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    if (kept.get("command"), kept.get("code")) != (command, code()):
        return Found(Counter(), Counter(), {}, []), 0, 0
    calls, refused, slowest = Counter(), Counter(), {}
    for name, own in kept["targets"].items():
        calls[name], refused[name] = own["calls"], own["refused_texts"]
        slowest[name] = own["slowest_ms"] / 1000, own["slowest_text"]
    return Found(calls, refused, slowest, kept["failures"]), kept["texts"], kept["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", default=RESULT)
    asked = parser.parse_args()
    command = origin(["tests/campaign/hostile.py", *sys.argv[1:]])["command"]
    total, before, spent = had(Path(asked.result), command)
    begun, failures = time.monotonic() - spent, total.failures
    with _room() as folder:
        readers = targets(folder)
        for first in range(asked.first + before, asked.first + asked.count, AT_ONCE):
            part = through(readers, asked.seed, first, min(AT_ONCE, asked.first + asked.count - first))
            total.calls.update(part.calls)
            total.refused.update(part.refused)
            for name, slow in part.slowest.items():
                total.slowest[name] = max(slow, total.slowest.get(name, (0.0, 0)))
            failures.extend(part.failures)
            shown = {line.partition(",")[0]: line for line in reversed(part.failures)}  # one of each target
            for line in shown.values():
                print(line.encode("ascii", "backslashreplace").decode(), flush=True)
            done, seconds = min(first + AT_ONCE - asked.first, asked.count), round(time.monotonic() - begun)
            calls = sum(total.calls.values())
            print(f"{done:,} texts, {calls:,} calls, {len(failures)} failures, {seconds:,} s", flush=True)
            write_json(Path(asked.result), _report(total, done, seconds))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
