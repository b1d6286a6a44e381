"""Watching a policy and drawing its vines: what is drawn is what happened."""

import json
import shutil

import pytest
import torch

from polytune.app.play import main, run
from polytune.config import RolloutConfig
from polytune.pictures.replay import Player, StateView, Track, action_texts, grow_tree, load_player, trace
from polytune.pictures.vine_plot import COLOURS, FAILURE, OTHER, SUCCESS, draw_vines, signature_colours, vine_styles
from polytune.policy import Renderer, TransformersGenerator, build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task

SHAPE = RolloutConfig(num_rollout_states=2, num_vines=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(task):
    """An untrained policy that mostly says actions, forward more often than others."""
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=0)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1.0
        for action in task.actions:
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(action)] += 0.11 if action == "forward" else 0.1
    return model, tokenizer


@pytest.fixture(scope="module")
def task():
    return load_task("fourrooms", horizon=24)


@pytest.fixture(scope="module")
def player(task):
    model, tokenizer = tiny(task)
    renderer = Renderer(tokenizer, task)
    return Player(renderer, TransformersGenerator(model, stop_ids=renderer.stop_ids))


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "walker"
    for part in tiny(task):
        part.save_pretrained(folder)
    return folder


def test_tracks_are_where_the_agent_was(task, player):
    tree = grow_tree(task, 3, player, SHAPE)
    [seed] = trace(task, player.renderer, tree)
    actions, episode = action_texts(player.renderer, tree.seeds[0]), task.start(3)
    cells = [episode.env.agent_pos]
    for action in actions:
        episode.step(action)
        cells.append(episode.env.agent_pos)
    assert seed.track.cells == cells and len(cells) == 25
    assert (seed.track.signature, seed.track.success) == (episode.signature(), episode.stop_reason == "success")
    assert [state.turn for state in seed.states] == [8, 16]
    for state, group in zip(seed.states, tree.vines[0], strict=True):
        assert state.cell == cells[state.turn] and len(state.vines) == 3
        for track, vine in zip(state.vines, group, strict=True):
            episode = task.start(3)
            for action in actions[: state.turn]:
                episode.step(action)
            there = [episode.env.agent_pos]
            for action in action_texts(player.renderer, vine):
                episode.step(action)
                there.append(episode.env.agent_pos)
            assert track.cells == there
            assert (track.signature, track.success) == (episode.signature(state.turn), episode.stop_reason == "success")
    visited = {cell for track in [seed.track, *(v for s in seed.states for v in s.vines)] for cell in track.cells}
    assert set().union(*seed.places.values()) <= visited
    plan = task.start(3).plan
    assert all({plan.room_at[y * plan.width + x] for x, y in cells} == {room} for room, cells in seed.places.items())


def test_babyai_is_drawn_as_it_is(tmp_path):
    task = load_task("babyai-pickup", horizon=12, signature="objects_touched")
    model, tokenizer = tiny(task)
    renderer = Renderer(tokenizer, task)
    tree = grow_tree(task, 3, Player(renderer, TransformersGenerator(model, stop_ids=renderer.stop_ids)), SHAPE)
    [seed] = trace(task, renderer, tree)
    assert [len(vine.cells) for state in seed.states for vine in state.vines] == [9, 9, 9, 5, 5, 5]
    assert "babyai-pickup, seed 3" in draw_vines(task, renderer, tree, tmp_path / "vines.svg")


def view(*vines):
    return StateView(0, (1, 1), None, [Track([(1, 1)], signature, success) for signature, success in vines])


def test_colours_go_by_signature_and_lines_by_outcome():
    a, b, c = frozenset({0}), frozenset({0, 1}), frozenset({2})
    states = [view((b, True), (a, False), (b, False)), view((b, True), (c, True), (a, False))]
    colours = signature_colours(states)
    assert colours == {b: COLOURS[0], a: COLOURS[1], c: COLOURS[2]}
    first = vine_styles(states[0], colours)
    assert [style.colour for style in first] == [COLOURS[0], COLOURS[1], COLOURS[0]]
    assert [(style.line, style.marker) for style in first] == [SUCCESS, FAILURE, FAILURE]
    assert len({style.shift for style in first}) == 3 and max(abs(style.shift) for style in first) < 0.5
    assert vine_styles(view((a, True)), colours)[0].shift == 0.0


def test_rare_signatures_share_a_colour():
    states = [view(*((frozenset({place}), False) for place in range(len(COLOURS) + 2)))]
    assert list(signature_colours(states).values()) == [*COLOURS, OTHER, OTHER]


@pytest.mark.parametrize("rule", ["equally_spaced", "start"])
def test_the_picture_is_written(task, player, tmp_path, rule):
    shape = RolloutConfig(num_rollout_states=2, num_vines=3, rollout_states=rule)
    tree = grow_tree(task, 3, player, shape)
    title = draw_vines(task, player.renderer, tree, tmp_path / "vines.png", policy="walker")
    vines = [vine for group in tree.vine_groups() for vine in group]
    won, signatures = sum(vine.success for vine in vines), len({vine.signature for vine in vines})
    assert title == (
        f"fourrooms, seed 3, walker: {won} of 6 vines succeed, {signatures} distinct signature"
        f"{'s' if signatures > 1 else ''}"
    )
    assert (tmp_path / "vines.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_plays_and_its_vines_are_drawn(folder, tmp_path, capsys):
    common = ["fourrooms", "--seed", "3", "--policy", str(folder), "--task_horizon", "6"]
    assert run(main, [*common, "--gif", str(tmp_path / "game.gif")]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'game.gif'}: 7 frames" in told and told.count("fourrooms, seed 3, turn") == 7
    assert run(main, common) == 0 and capsys.readouterr().out == told[: told.index(str(tmp_path))]
    assert run(main, [*common, "--sample_seed", "1"]) == 0 and capsys.readouterr().out != told
    assert run(main, [*common, "--vines", str(tmp_path / "vines.png"), "--num_vines", "2"]) == 0
    assert "of 4 vines succeed" in capsys.readouterr().out and (tmp_path / "vines.png").stat().st_size > 10_000


def test_a_policy_of_another_task_is_refused(folder, capsys):
    assert run(main, ["two-step", "--policy", str(folder)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "does not know the word(s)" in told.err and told.err.count("\n") == 1


def test_greedy_takes_the_most_likely_action(task, folder):
    player = load_player(task, str(folder), greedy=True)
    trees = [grow_tree(task, 3, player, SHAPE, run_seed=seed) for seed in (0, 1)]
    first, second = (action_texts(player.renderer, tree.seeds[0]) for tree in trees)
    assert first == second


def test_a_policy_is_prompted_as_its_run_did(folder, tmp_path, capsys):
    """A run that showed its policy the instructions, whose words this one does not know; other options are said."""
    run_of = {"task": {"task": "fourrooms", "task_args": ["signature=rooms_in_order"]}, "policy": {}}
    told = {}
    for shown in (False, True):
        path = shutil.copytree(folder, tmp_path / str(shown))
        run_of["policy"] = {"show_instructions": shown, "generator": "vllm"}
        (path / "run.json").write_text(json.dumps(run_of))
        status = run(main, ["fourrooms", "--policy", str(path), "--task_horizon", "2"])
        told[status] = capsys.readouterr().err
    assert "was trained with --task_args signature=rooms_in_order, it plays with none" in told[0]
    assert "does not know the word(s)" in told[2]
