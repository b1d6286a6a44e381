"""Phrases of a tiny policy's tokenizer: fewer tokens, the same text, an action one token at a place of its own."""

import random
from collections import Counter

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from polytune import tasks
from polytune.policy import Renderer, phrases
from polytune.policy.demonstrations import tokenize_episode
from polytune.policy.phrases import learn_phrases, task_phrases
from polytune.policy.rendering import PROMPT_WORD
from polytune.policy.tiny import SPECIAL_TOKENS, build_tiny, build_tokenizer
from polytune.tasks import load_task
from polytune.tasks.demonstrations import act_out

WORLDS = [name for name in tasks.TASKS if name != "dataset" and load_task(name).answer_end is None]
MERGES = 100


def wander(task, seed, sense=0.0):
    """Observations and actions of an episode of random actions, the expert's in a share ``sense`` of the turns."""
    episode, rng, observations, actions = task.start(seed), random.Random(seed), [], []
    while not episode.done and len(actions) < 100:
        observations.append(episode.observation())
        actions.append(task.expert(episode) if rng.random() < sense else rng.choice(task.actions))
        episode.step(actions[-1])
    return observations, actions


def read(task, seeds, sense=0.0):
    return [text for seed in seeds for text in wander(task, seed, sense)[0]]


def learn(task, observations, merges=MERGES):
    return task_phrases(task, {"observations": [observations]}, merges)


def tokenizer_of(task, observations, merges=MERGES):
    return build_tokenizer([PROMPT_WORD, *task.vocabulary()], phrases=learn(task, observations, merges))


def encode(tokenizer, text):
    return tuple(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    """A task and its tokenizer with phrases, learnt from few episodes."""
    task = load_task(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phrases, "LEAST", 2)
        return task, tokenizer_of(task, read(task, range(20)))


@pytest.fixture(scope="module")
def fourrooms():
    return load_task("fourrooms")


@pytest.fixture(scope="module")
def seen(fourrooms):
    return [text for seed in range(200) for text in act_out(fourrooms, seed)["observations"]]


# ---------------------------------------------------------------- the same text


def test_every_text_of_every_world_reads_back_exactly(world):
    task, tokenizer = world
    words, rng = [PROMPT_WORD, *task.vocabulary()], random.Random(0)
    texts = [f"{text} {PROMPT_WORD}" for text in read(task, range(1000, 1005))]
    texts += [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(500)]
    assert len(tokenizer) > len(words) + len(SPECIAL_TOKENS)
    for text in texts:
        ids = encode(tokenizer, text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids and len(ids) <= len(text.split())
        assert encode(tokenizer, "\n" + text.replace(" ", "\n ")) == ids


def test_actions_stay_one_token_and_an_episode_has_the_tokens_of_its_pieces(world):
    task, tokenizer = world
    renderer = Renderer(tokenizer, task)
    vocabulary = tokenizer.get_vocab()
    for action in task.actions:
        assert renderer.action_ids(action) == (vocabulary[action],)
        assert renderer.action_text((vocabulary[action],)) == action
        assert [token for token in vocabulary if action in token.split()] == [action]
    for seed in range(1000, 1004):
        observations, actions = wander(task, seed)
        row = tokenize_episode(renderer, observations, actions)
        text = " ".join(f"{o} {PROMPT_WORD} {a}" for o, a in zip(observations, actions, strict=True))
        assert row["input_ids"] == [tokenizer.bos_token_id, *encode(tokenizer, text)]
        assert tokenizer.decode(row["input_ids"][1:]) == text
        own = [index for index, mask in enumerate(row["own"]) if mask]
        assert [tokenizer.decode(row["input_ids"][index]) for index in own] == actions
        # the policy samples right after the prompt word
        assert all(tokenizer.decode(row["input_ids"][index - 1]).split()[-1] == PROMPT_WORD for index in own)


def test_words_are_never_lost(world):
    """Each word is a token, so that what was never seen together, other start states say, can be read."""
    task, tokenizer = world
    for word in [PROMPT_WORD, *task.vocabulary()]:
        assert tokenizer.convert_ids_to_tokens(encode(tokenizer, word)) == [word]
    Renderer(tokenizer, task).check_vocabulary()


@pytest.mark.parametrize("name", ["babyai-goto", "babyai-bosslevel"])
@pytest.mark.parametrize("perturb", [*load_task("babyai-goto").perturbations])
def test_perturbed_worlds_read_back(name, perturb):
    task = load_task(name)
    tokenizer = tokenizer_of(task, read(task, range(10)))
    changed = load_task(name, perturb=perturb, perturb_seed=1)
    for text in read(changed, range(5)):
        ids = encode(tokenizer, text)
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_unknown_words_are_named(fourrooms, seen):
    renderer = Renderer(tokenizer_of(fourrooms, seen), fourrooms)
    with pytest.raises(ValueError, match="'somersault'.*vocabulary"):
        renderer.prompt_ids("front=far left=far somersault right=far")
    with pytest.raises(ValueError, match="'front=fart'"):
        renderer.feedback_ids("front=fart left=far right=far")
    other = Renderer(tokenizer_of(fourrooms, seen), load_task("babyai-goto"))
    with pytest.raises(ValueError, match="does not know the word.*'mission:'"):
        other.check_vocabulary()


# ---------------------------------------------------------------- fewer tokens


def tokens_of(tokenizer, observations, more=""):
    return sum(len(encode(tokenizer, f"{text}{more}")) for text in observations) / len(observations)


def test_fourrooms_with_50_merges(fourrooms, seen):
    fresh = [text for seed in range(5000, 5040) for text in act_out(fourrooms, seed)["observations"]]
    words, tokens = (tokenizer_of(fourrooms, seen, merges) for merges in (0, 50))
    assert tokens_of(words, fresh) > 4.0 and tokens_of(words, fresh, f" {PROMPT_WORD}") > 5.0
    assert tokens_of(tokens, fresh) <= 2.3 and tokens_of(tokens, fresh, f" {PROMPT_WORD}") <= 2.4


def test_goto_with_100_merges():
    """Levels differ, so in shares: of 7 words an observation has at most 5.0 tokens, and the prompt word none."""
    task = load_task("babyai-goto")
    shown, fresh = read(task, range(60), 0.5), read(task, range(5000, 5040), 0.5)
    words, tokens = (tokenizer_of(task, shown, merges) for merges in (0, 100))
    assert tokens_of(tokens, fresh) / tokens_of(words, fresh) <= 5.0 / 7
    assert tokens_of(tokens, fresh, f" {PROMPT_WORD}") - tokens_of(tokens, fresh) < 0.1


def test_the_prompt_word_costs_nothing_after_what_was_seen_often(fourrooms, seen):
    tokenizer = tokenizer_of(fourrooms, seen, 50)
    ends = Counter(encode(tokenizer, text)[-1] for text in seen)
    for text in seen:
        more = len(encode(tokenizer, f"{text} {PROMPT_WORD}")) - len(encode(tokenizer, text))
        assert more == (ends[encode(tokenizer, text)[-1]] < phrases.LEAST)


# ---------------------------------------------------------------- what is learnt


def test_merges_by_hand(monkeypatch):
    monkeypatch.setattr(phrases, "LEAST", 2)
    texts = ["a b c left a b", "a b c", "c d", "c d", "left a"]
    # a b: 3 times; then (a b) c and c d: twice each, then nothing is seen twice
    assert learn_phrases(texts, 1, "abcd") == ["a b"]
    assert sorted(learn_phrases(texts, 9, "abcd")) == ["a b", "a b c", "c d"]
    assert learn_phrases(texts, 9, "ab") == ["a b"]  # any other word stays a token
    # observations end with "a b" once, "a b c" once, "c d" twice, "a" once
    assert learn_phrases(texts, 9, "abcd", ">")[3:] == ["c d >"]
    assert learn_phrases(texts, 0, "abcd", ">") == []
    assert learn_phrases([], 9, "abcd", ">") == []


def test_the_same_demonstrations_give_the_same_phrases(fourrooms, seen):
    learnt = [learn(fourrooms, seen, 50) for _ in range(3)]
    assert learnt[0] == learnt[1] == learnt[2]
    shuffled = random.Random(0).sample(seen, len(seen))
    assert learn(fourrooms, shuffled, 50) == learnt[0]
    assert len([phrase for phrase in learnt[0] if PROMPT_WORD not in phrase.split()]) == 50
    assert len(set(learnt[0])) == len(learnt[0])


# ---------------------------------------------------------------- the tokenizer's file


def test_without_merges_the_tokenizer_is_the_word_level_one_byte_for_byte(fourrooms, seen, tmp_path):
    words = [PROMPT_WORD, *fourrooms.vocabulary()]
    ids = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{token.strip('<>')}_token": token for token in SPECIAL_TOKENS}
    plain = PreTrainedTokenizerFast(tokenizer_object=plain, **special, clean_up_tokenization_spaces=False)
    plain.save_pretrained(tmp_path / "plain")
    tokenizer_of(fourrooms, seen, 0).save_pretrained(tmp_path / "none")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "none" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_a_saved_tokenizer_loads_and_cuts_alike(world, tmp_path):
    task, tokenizer = world
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in read(task, range(2000, 2003)):
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_words_keep_their_ids_and_the_model_has_a_row_for_each_phrase(fourrooms, seen):
    words = [PROMPT_WORD, *fourrooms.vocabulary()]
    learnt = learn(fourrooms, seen, 50)
    model, tokenizer = build_tiny("tiny", words, phrases=learnt)
    before = build_tokenizer(words).get_vocab()
    assert {word: tokenizer.get_vocab()[word] for word in before} == before
    assert model.config.vocab_size == len(tokenizer) == len(before) + len(learnt)


@pytest.mark.parametrize(
    ("phrase", "options", "error"),
    [
        ("a z", {}, "phrase 'a z' must be two or more words of the vocabulary"),
        ("a", {}, "phrase 'a' must be"),
        ("a  b", {}, "with one space between"),
        ("a b", {"spaced": False}, "without spaces.*set word_merges to 0"),
    ],
)
def test_bad_phrases_are_refused(phrase, options, error):
    with pytest.raises(ValueError, match=error):
        build_tokenizer(["a", "b"], phrases=[phrase], **options)


def test_too_many_words_are_refused(monkeypatch):
    monkeypatch.setattr(phrases, "_MOST", 2)
    with pytest.raises(ValueError, match="3 different words are too many to merge, 2 at most"):
        learn_phrases(["a b c"], 1, "abc")
