"""Tiny presets, their tokenizer, and rendering: one word one token, and no text tokenised twice."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from polytune.policy import PRESETS, Renderer, SampleKey, TransformersGenerator, build_tiny
from polytune.policy.demonstrations import tokenize_episode
from polytune.policy.generator import Sample
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.tiny import SPECIAL_TOKENS, build_tokenizer
from polytune.tasks import load_task
from polytune.tasks.demonstrations import act_out


@pytest.fixture(scope="module")
def task():
    return load_task("fourrooms")


@pytest.fixture(scope="module")
def words(task):
    return [PROMPT_WORD, *task.vocabulary()]


@pytest.fixture(scope="module")
def tokenizer(words):
    return build_tokenizer(words)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(("trained", "place", "told"), [
    ("shop:Shop", "run", "the policy in {} was trained on task 'shop:Shop', and this is task 'fourrooms': give --task "
     "shop:Shop, or a policy of 'fourrooms'. Here the tokenizer does not know the word(s) 'left'"),
    ("shop:Shop", "run/checkpoint-9", "trained on task 'shop:Shop'"),
    ("fourrooms", "run", "the tokenizer does not know the word(s) 'left'"),
    ("polytune.tasks.grid.fourrooms:FourRooms", "run", "the tokenizer does not know"),
    (None, "run", "the tokenizer does not know"),
])  # fmt: skip
def test_a_policy_of_another_task_is_told_by_its_run(trained, place, told, task, tmp_path):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(json.dumps({"task": {"task": trained}} if trained else []))
    build_tokenizer([PROMPT_WORD, "one", "two"]).save_pretrained(tmp_path / place)
    renderer = Renderer(AutoTokenizer.from_pretrained(tmp_path / place), task)
    with pytest.raises(ValueError) as error:
        renderer.check_vocabulary()
    told = told.format(tmp_path / place)
    assert told in str(error.value) and (str(error.value).startswith(told) or place != "run")


# ---------------------------------------------------------------- tiny presets


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_0_3_to_4_3_million_parameters(preset, words):
    model, tokenizer = build_tiny(preset, words)
    assert 0.3e6 < sum(p.numel() for p in model.parameters()) < 4.3e6
    assert model.config.vocab_size == len(tokenizer) == len(words) + len(SPECIAL_TOKENS)
    assert not model.training


def test_unknown_preset_lists_the_known_ones(words):
    with pytest.raises(ValueError, match="unknown preset 'huge'.*tiny, small, medium"):
        build_tiny("huge", words)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone(words):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (build_tiny("tiny", words, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])


def test_a_saved_policy_loads_bit_for_bit(tmp_path, words):
    model, tokenizer = build_tiny("tiny", words, seed=5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    before, after = model.state_dict(), again.state_dict()
    assert type(again) is type(model) and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    text = " ".join(words)
    assert loaded.encode(text) == tokenizer.encode(text)
    for name in ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)


# ---------------------------------------------------------------- tokenizer


def test_every_word_is_one_token_and_text_survives(tokenizer, words):
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    assert ids == [[len(SPECIAL_TOKENS) + index] for index in range(len(words))]
    for separator in (" ", "\n", "  "):
        encoded = tokenizer.encode(separator.join(words), add_special_tokens=False)
        assert tokenizer.decode(encoded) == " ".join(words)


@pytest.mark.parametrize("word", ["", "two words", " left", "a\nb"])
def test_a_vocabulary_word_that_cannot_be_one_token_is_refused(word):
    with pytest.raises(ValueError, match="vocabulary word"):
        build_tokenizer(["fine", word])


# ---------------------------------------------------------------- rendering


def test_an_unknown_word_is_named(tokenizer, task):
    renderer = Renderer(tokenizer, task)
    for render in (renderer.prompt_ids, renderer.feedback_ids, renderer.action_ids):
        with pytest.raises(ValueError, match="'somersault'.*vocabulary"):
            render("forward somersault left")
    with pytest.raises(ValueError, match="does not know"):
        Renderer(tokenizer, task, show_instructions=True).prompt_ids("front=0")


def test_special_tokens_parse_to_no_action(tokenizer, task):
    renderer = Renderer(tokenizer, task)
    for token in SPECIAL_TOKENS:
        assert task.parse_action(renderer.action_text((tokenizer.convert_tokens_to_ids(token),))) is None
    assert task.parse_action(renderer.action_text(())) is None
    left, eos = tokenizer.convert_tokens_to_ids("left"), tokenizer.eos_token_id
    assert renderer.stop_ids == (eos,)
    sampled = {(left,): "left", (left, eos): "left", (left, left): None, (eos, left): None}
    assert {ids: task.parse_action(renderer.action_text(ids)) for ids in sampled} == sampled
    for action in task.actions:
        assert task.parse_action(renderer.action_text(renderer.action_ids(action))) == action


def test_prompt_begins_with_bos_and_ends_with_the_prompt_word(tokenizer, task):
    renderer = Renderer(tokenizer, task)
    observation = task.start(0).observation()
    prompt, feedback = renderer.prompt_ids(observation), renderer.feedback_ids(observation)
    assert prompt == (tokenizer.bos_token_id, *feedback)
    assert tokenizer.decode(feedback) == f"{observation} {PROMPT_WORD}"


def byte_tokenizer(*merged):
    """A byte-level tokenizer (leading spaces belong to words) in which only ``merged`` words are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet])}
    merges = []
    for word in merged:
        pieces = list("Ġ" + word)
        for end in range(1, len(pieces)):
            joined = "".join(pieces[: end + 1])
            if joined not in vocabulary:
                vocabulary[joined] = len(vocabulary)
                merges.append(("".join(pieces[:end]), pieces[end]))
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


@pytest.mark.parametrize("merged", [(), ("left", "right", "forward"), ("left",)])
def test_byte_level_actions_are_closed_by_a_stop_token_unless_all_are_one_token(task, merged):
    """With one-token and longer actions in one task, a one-token action must end, too: the sampler would go on."""
    tokenizer = byte_tokenizer(*merged)
    renderer = Renderer(tokenizer, task)
    assert renderer.stop_ids == (tokenizer.eos_token_id, *tokenizer.encode("\n"))
    for action in task.actions:
        ids = renderer.action_ids(action)
        assert (ids[-1] in renderer.stop_ids) == (len(merged) < 3)
        assert (len(ids) == 1) == (len(merged) == 3)
        assert task.parse_action(renderer.action_text(ids)) == action
        assert task.parse_action(renderer.action_text((*ids[:-1], *tokenizer.encode("\n")))) in (action, None)


@pytest.mark.parametrize("kind", ["word-level", "byte-level"])
def test_a_demonstration_is_what_a_generator_holds_when_it_acts_alike(task, tokenizer, kind):
    tokenizer = tokenizer if kind == "word-level" else byte_tokenizer("left")
    renderer = Renderer(tokenizer, task)
    for seed in range(3):
        acted = act_out(task, seed)
        row = tokenize_episode(renderer, acted["observations"], acted["actions"])
        episode = task.start(seed)
        branch = TransformersGenerator.open(Opener(), renderer.prompt_ids(episode.observation()), SampleKey(0, 0, 0, 0))
        sampled = [0] * len(branch.ids)
        while not episode.done:
            sample = Sample(renderer.action_ids(task.expert(episode)), ())
            branch.ids.extend(sample.ids)
            sampled += [1] * len(sample.ids)
            if not episode.step(renderer.action_text(sample.ids)).done:
                feedback = renderer.feedback_ids(episode.observation())
                TransformersGenerator.extend(Opener(), branch, feedback)
                sampled += [0] * len(feedback)
        assert episode.invalid_actions == 0 and episode.stop_reason == "success"
        assert (branch.ids, sampled) == (row["input_ids"], row["own"])


class Opener:
    """All that opening and extending a branch reads of a generator."""

    epoch = 0


def test_control_tokens_of_a_tiny_policy_are_characters_or_refused(task, words):
    """Where the vocabulary has the characters; a tokenizer of words has none but the token itself."""
    letters = build_tokenizer(["</a>", *"<>eosapdx"], spaced=False)
    renderer = Renderer(letters, load_task("sibling", size="tiny"))
    ids = renderer._encode("x<eos><pad>")
    assert letters.decode(ids) == "x<eos><pad>" and not {*ids} & {*letters.all_special_ids}
    with pytest.raises(ValueError, match="the tokenizer does not know the word.*'<eos>'|says '<eos>'"):
        Renderer(build_tokenizer(words), task).prompt_ids("front=1 <eos>")
