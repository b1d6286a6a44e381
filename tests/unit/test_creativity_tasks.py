"""The creativity tasks as tasks: prompts, rewards, snapshots, splits, committed data, rendering token by token."""

import random
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from polytune.policy import Renderer, TransformersGenerator, build_tiny
from polytune.policy.demonstrations import tokenize_lines
from polytune.rollout import Start, sample_episodes
from polytune.tasks import Step, load_task
from polytune.tasks.splits import load_split

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("sibling", "triangle", "circle", "line")


@pytest.fixture(params=NAMES)
def task(request):
    return load_task(request.param, size="tiny")


def answers_of(task):
    return [answer for prompt, answer in task.training_lines() if prompt.endswith(task.structure.question)]


def test_a_prompt_is_ten_characters_and_the_question(task):
    prompts = {task.start(seed).observation() for seed in range(200)}
    assert len(prompts) == 200
    for prompt in prompts:
        seed, question = prompt[:10], prompt[10:]
        assert seed.isalnum() and seed == seed.lower() and question == task.structure.question
    plain = load_task(task.name, size="tiny", seed_conditioning=False)
    assert {plain.prompt(seed) for seed in range(9)} == {task.structure.question.lstrip()}
    assert len({plain.start_hash(seed) for seed in range(9)}) == 1 < len({task.start_hash(s) for s in range(9)})


def test_a_valid_answer_pays_one_and_ends_the_episode(task):
    for answer in answers_of(task)[:50]:
        episode = task.start(7)
        assert episode.signature() is None
        assert episode.step(answer) == Step(1.0, True, "success")
        assert episode.signature() == task.grade(answer).signature is not None and episode.invalid_actions == 0


def test_an_invalid_answer_pays_nothing_and_ends_the_episode(task):
    good = answers_of(task)[0]
    for bad in ("", good[:-4], good + good, " " + good, good + " ", good + "\n", good.upper(), "</a>", good + "<eos>"):
        episode = task.start(7)
        assert episode.step(bad) == Step(0.0, True, "invalid")
        assert episode.signature() is None and episode.invalid_actions == 1


def test_novelty_pays_for_what_training_does_not_show(task):
    paid = load_task(task.name, size="tiny", novelty=0.5)
    shown = answers_of(task)[0]
    assert paid.start(0).step(shown).reward == 1.0
    other = load_task(task.name, size="tiny", structure_seed=1) if task.name in ("circle", "line") else None
    fresh = unseen_answer(task) if other is None else next(a for a in answers_of(other) if not task.grade(a).seen)
    assert paid.start(0).step(fresh) == Step(1.5, True, "success")
    assert task.start(0).step(fresh) == Step(1.0, True, "success")


def unseen_answer(task):
    """An object that the training set does not show, by search."""
    if task.name == "sibling":
        children = task.structure.children
        texts = (f"<b1_{i}><b2_{j}><a_0></a>" for i in range(children) for j in range(children))
    else:
        linked = task.structure.neighbours
        texts = (
            f"<a_{u}><a_{v}><sep><a_{v}><a_{w}><sep><a_{w}><a_{u}></a>"
            for u, near in enumerate(linked)
            for v in sorted(near)
            for w in sorted(near & linked[v])
        )
    return next(text for text in texts if not task.grade(text).seen)


def test_snapshots_restore_before_and_after_the_answer(task):
    rng = random.Random(0)
    answers, another = answers_of(task), load_task(task.name, size="tiny")
    for seed in range(50):
        episode = task.start(seed)
        restored = another.restore(episode.snapshot())
        answer = rng.choice([*answers[:20], "junk"])
        assert restored.observation() == episode.observation()
        assert restored.step(answer) == episode.step(answer)
        after = task.restore(episode.snapshot())
        assert after.snapshot() == restored.snapshot() == episode.snapshot()
        assert after.signature() == episode.signature() and after.done
        with pytest.raises(RuntimeError, match="ended after 1 turns"):
            after.step(answer)
        with pytest.raises(ValueError, match="since_turn"):
            after.signature(2)


def test_splits_are_disjoint_prompts(task):
    train, test = load_split(task, "train"), load_split(task, None)
    assert test == load_split(task, "test") and not set(train) & set(test)
    assert len(test) == (3000 if task.name == "sibling" else 1024)
    assert not {task.prompt(s) for s in train} & {task.prompt(s) for s in test}
    with pytest.raises(ValueError, match='unknown split \'unsen\': use "train" or "test"'):
        load_split(task, "unsen")


@pytest.mark.parametrize("name", NAMES)
def test_committed_sets_are_what_the_generators_make(name, tmp_path):
    folder, task = ROOT / f"data/{name}_tiny", load_task(name, size="tiny")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    data = load_dataset("json", data_files=files, cache_dir=str(tmp_path))
    assert list(zip(data["train"]["prompt"], data["train"]["completion"], strict=True)) == list(task.training_lines())
    assert data["test"]["prompt"][:] == [task.prompt(seed) for seed in load_split(task, "test")]
    card = (folder / "README.md").read_text()
    assert f"shows {len(task.structure.seen):,} (" in card and f"{task.structure.ceiling:,} are unseen" in card


def test_the_builder_writes_the_committed_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    import build_creativity

    monkeypatch.setattr(sys, "argv", ["build", "--task", "circle", "--output_dir", str(tmp_path)])
    build_creativity.main()
    for name in ("train.jsonl", "test.jsonl", "README.md"):
        assert (tmp_path / name).read_bytes() == (ROOT / "data/circle_tiny" / name).read_bytes()
    assert "6,000 lines" in capsys.readouterr().out


def test_answers_are_rendered_token_by_token_without_loss(task):
    _, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False)
    renderer = Renderer(tokenizer, task)
    renderer.check_vocabulary()
    for prompt, answer in list(task.training_lines())[:300]:
        ids = renderer.action_ids(answer)
        assert renderer.action_text(ids) == answer and ids[-1] in renderer.stop_ids
        assert len(ids) <= task.max_action_tokens and ids.count(ids[-1]) == 1
        assert len(renderer.prompt_ids(prompt)) == 1 + (11 if prompt[:10].isalnum() else 1)
    assert task.grade(renderer.action_text((*renderer.action_ids(answer)[:-1], tokenizer.eos_token_id))) is None
    rows = tokenize_lines(renderer, list(task.training_lines())[:5])
    assert [sum(mask) for mask in rows["own"]] == [
        len(renderer.action_ids(a)) for _, a in list(task.training_lines())[:5]
    ]


def test_a_policy_of_another_task_is_refused(task):
    _, tokenizer = build_tiny("tiny", load_task("fourrooms").vocabulary())
    with pytest.raises(ValueError, match="does not know '</a>', which ends an answer"):
        Renderer(tokenizer, task)


def test_sampled_answers_are_graded_as_they_were_sampled(task):
    model, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False, seed=1)
    renderer = Renderer(tokenizer, task)
    generator = TransformersGenerator(model, max_action_tokens=task.max_action_tokens, stop_ids=renderer.stop_ids)
    episodes = sample_episodes(task, renderer, generator, [Start(seed, 0) for seed in range(32)], run_seed=0)
    for episode in episodes:
        [turn] = episode.turns
        assert 1 <= len(turn.action_ids) <= task.max_action_tokens and len(turn.logprobs) == len(turn.action_ids)
        valid = task.grade(renderer.action_text(turn.action_ids)) is not None
        assert episode.success == valid and (episode.signature is not None) == valid


def test_bad_options_are_named():
    for options, message in (
        (
            {"node": 9},
            r"has no option 'node'; it has \['size', 'seed_conditioning', 'novelty', 'structure_seed', 'nodes'",
        ),
        ({"size": "small"}, "must be 'paper' or 'tiny', got 'small'"),
        ({"nodes": 3}, "nodes of 'triangle' must be a whole number of at least 4, got 3"),
        ({"novelty": -1.0}, "must be a number of at least 0, got -1.0"),
        ({"seed_conditioning": 1}, "must be true or false, got 1"),
        ({"slack": 0.5}, "slack of 'triangle' must be a number of at least 1, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task("triangle", **options)
    with pytest.raises(ValueError, match="there are 75 triples to show"):
        load_task("sibling", parents=3, children=5, lines=76)
    with pytest.raises(ValueError, match="names of 'line' must be a whole number of at least 10, got 9"):
        load_task("line", names=9)


def test_paper_sizes_are_the_defaults():
    assert load_task("sibling").structure.sizes() == {"parents": 5, "children": 500, "lines": 50_000}
    assert load_task("circle").structure.sizes() == load_task("line").structure.sizes()
    assert load_task("triangle").structure.sizes() == {
        "nodes": 999, "degree": 3, "slack": 1.2, "triangles_per_node": 6, "lines": 15_000
    }  # fmt: skip
