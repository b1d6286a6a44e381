"""Free text that only the end-of-sequence token ends: three kinds of tokenizers, pretraining lines, stopping."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from polytune.policy import Renderer, SampleKey, TransformersGenerator, build_tiny
from polytune.policy.demonstrations import check_written, tokenize_lines
from polytune.policy.tiny import build_tokenizer
from polytune.tasks import load_task

ROWS = [
    {"prompt": "2 3 4 = 24 :", "numbers": [2, 3, 4], "target": 24, "answers": ["2*3*4", "4 * 3 * 2"]},
    {"prompt": "1 5 7 = 13 :", "numbers": [1, 5, 7], "target": 13, "answers": ["1+5+7"]},
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def arithmetic(path, **options):
    names = {"reward": "reaches_target", "signature": "calculation"}
    functions = {name: f"polytune.tasks.rewards:{function}" for name, function in names.items()}
    return load_task("dataset", path=path, answer="answers", max_tokens=12, **functions, **options)


def byte_level(**special):
    """A byte-level BPE tokenizer that knows no merges but " =", so that a space is part of a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet, "Ġ="])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "=")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", **special)


def tokenizer_of(kind, task):
    if kind == "byte-level":
        return byte_level(eos_token="<eos>")
    if kind == "characters":
        return build_tokenizer(task.vocabulary(), spaced=False)
    words = [word for prompt, answer in task.training_lines() for word in f"{prompt} {answer}".split()]
    return build_tokenizer(words)


def exactly(answer, row):
    """Wants the spaces, too."""
    return float(answer in row["answers"])


def test_an_answer_that_the_policy_cannot_write_is_refused(path):
    """A tokenizer of characters knows no spaces: right where the reward does not mind, else for ever wrong."""
    check_written(Renderer(tokenizer_of("characters", arithmetic(path)), arithmetic(path)), arithmetic(path))
    task = load_task("dataset", path=path, answer="answers", reward=f"{__name__}:exactly")
    check_written(Renderer(byte_level(eos_token="<eos>"), task), task)
    with pytest.raises(ValueError, match=r"row 0: .* '4 \* 3 \* 2' as '4\*3\*2', which earns 0 in place of 1"):
        check_written(Renderer(tokenizer_of("characters", task), task), task)


@pytest.mark.parametrize("kind", ["byte-level", "characters", "words"])
def test_lines_end_with_the_end_token_and_read_back_as_right_answers(path, kind):
    task = arithmetic(path)
    tokenizer = tokenizer_of(kind, task)
    renderer = Renderer(tokenizer, task)
    renderer.check_vocabulary() if kind != "words" else None
    assert renderer.stop_ids == (tokenizer.eos_token_id,)
    lines = list(task.training_lines())
    rows = tokenize_lines(renderer, lines)
    assert len(lines) == len(rows) == 3
    for (prompt, answer), row, seed in zip(lines, rows, (0, 0, 1), strict=True):
        assert row["input_ids"][-1] == tokenizer.eos_token_id and row["own"][-1] == 1
        asked = [i for i, mine in zip(row["input_ids"], row["own"], strict=True) if not mine]
        said = [i for i, mine in zip(row["input_ids"], row["own"], strict=True) if mine]
        assert tuple(asked) == renderer.prompt_ids(prompt) and tuple(said) == renderer.action_ids(answer)
        text = renderer.action_text(tuple(said))
        assert text.replace(" ", "") == answer.replace(" ", "") and task.start(seed).step(text).reward == 1
        cut = tuple(said[:-1])  # the longest answer allowed has no room for the end
        assert renderer.action_text(cut) == text


def test_an_end_token_within_an_answer_stays_and_spoils_it(path):
    task = arithmetic(path)
    tokenizer = tokenizer_of("characters", task)
    renderer = Renderer(tokenizer, task)
    ids, eos = renderer.action_ids("2*3*4"), tokenizer.eos_token_id
    assert task.start(0).step(renderer.action_text((eos, *ids))).reward == 0
    assert renderer.action_text((eos,)) == "" and task.start(0).step("").reward == 0


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(path):
    task = arithmetic(path)
    with pytest.raises(ValueError, match="ends with the end-of-sequence token, and the tokenizer has none"):
        Renderer(byte_level(), task)
    ended = arithmetic(path, answer_end=";")
    renderer = Renderer(byte_level(), ended)  # it has another end
    assert renderer.stop_ids == tuple(byte_level().encode(";"))
    ids = renderer.action_ids("2*3*4;")
    assert ids[-1] == renderer.stop_ids[0] and renderer.action_text(ids) == "2*3*4;"
    assert ended.start(0).step("2*3*4;").reward == 1
    with pytest.raises(ValueError, match="does not know '</a>', which ends an answer"):
        Renderer(byte_level(eos_token="<eos>"), arithmetic(path, answer_end="</a>"))


def test_sampling_stops_at_the_end_token(path):
    task = arithmetic(path)
    model, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False, seed=1)
    with torch.no_grad():  # a policy that often ends its answer
        model.model.embed_tokens.weight += 1.0
        model.lm_head.weight[tokenizer.eos_token_id] += 0.06
    renderer = Renderer(tokenizer, task)
    generator = TransformersGenerator(model, max_action_tokens=task.max_action_tokens, stop_ids=renderer.stop_ids)
    branches = [generator.open(renderer.prompt_ids(task.prompt(0)), SampleKey(0, 0, n, 0)) for n in range(64)]
    samples = [sample.ids for sample in generator.sample(branches, [0] * 64)]
    ended = [ids for ids in samples if ids[-1] == tokenizer.eos_token_id]
    assert len(ended) > 10 and any(len(ids) > 1 for ids in ended)
    assert all(tokenizer.eos_token_id not in ids[:-1] for ids in samples)
    assert all(len(ids) == task.max_action_tokens for ids in samples if ids not in ended)
    assert all("<eos>" not in renderer.action_text(ids) for ids in samples)
