"""vLLM on a real language model, SmolLM2-135M-Instruct with LoRA (`make smollm2`): what it samples over episodes in
words is what transformers gives the same texts, also after the adapter has moved."""

from pathlib import Path

import pytest
import torch
from engine_contract import holds_the_new_weights, keys, logprobs_of
from peft import LoraConfig, get_peft_model

from polytune.config import PolicyConfig
from polytune.policy import build_renderer, load_policy
from polytune.policy.engine import score
from polytune.policy.vllm_generator import VLLMGenerator
from polytune.rollout import Start, sample_episodes
from polytune.tasks import load_task

FOLDER = Path(__file__).resolve().parents[2] / "outputs/smollm2"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "config.json").is_file(), reason=f"{FOLDER} is not there: run make smollm2"
)


@pytest.fixture(scope="module")
def policy():
    """(policy with an adapter that does something, tokenizer, engine)."""
    model, tokenizer = load_policy(FOLDER)
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(model, adapter).eval()
    first = VLLMGenerator(model, path=FOLDER)
    yield model, tokenizer, first.llm
    first.shutdown()


def test_episodes_in_words_have_the_policys_own_logprobs(policy):
    """Two attempts at each of two levels, two turns each through the chat template, against one pass over the text."""
    model, tokenizer, engine = policy
    task = load_task("fourrooms", horizon=2)
    renderer = build_renderer(tokenizer, task, PolicyConfig())
    ours = VLLMGenerator(model, path=FOLDER, engine=engine, max_action_tokens=4, stop_ids=renderer.stop_ids)
    starts = [Start(state, attempt) for state in (0, 1) for attempt in range(2)]
    episodes = sample_episodes(task, renderer, ours, starts, run_seed=0)
    assert [len(episode.turns) for episode in episodes] == [2] * 4
    for start, episode in zip(starts, episodes, strict=True):
        ids = list(renderer.prompt_ids(task.start(start.start_state).observation()))
        for turn in episode.turns:
            ids += turn.action_ids
            expected = score(model, ids)[-len(turn.action_ids) :].tolist()
            assert list(turn.logprobs) == pytest.approx(expected, abs=5e-4)
            ids += turn.feedback_ids
    assert len({episode.turns[0].action_ids for episode in episodes}) > 1
    assert ours.canary_gap < 5e-4


def test_vines_find_the_prompt_in_the_cache_and_go_on_from_there(policy):
    model, tokenizer, engine = policy
    ours = VLLMGenerator(model, path=FOLDER, engine=engine, max_action_tokens=3, stop_ids=(2,))
    prompt = tokenizer.encode("The quick brown fox jumps over the lazy dog, and runs away. " * 12)
    seed = ours.open(prompt, keys(1)[0])
    ours.sample([seed], [0])
    vines = [ours.fork(seed, len(prompt), key) for key in keys(8, run_seed=3)]
    before = ours.counters.reused
    samples = ours.sample(vines, [0] * 8)
    for vine, sample in list(zip(vines, samples, strict=True))[:3]:
        assert list(sample.logprobs) == pytest.approx(logprobs_of(model, vine, sample), abs=5e-4)
    assert len({sample.ids for sample in samples}) > 1
    assert ours.counters.reused - before >= 0.8 * 8 * len(prompt) > 0


def test_after_an_update_of_the_adapter_the_engine_holds_it(policy):
    """Last, because it moves the adapter."""
    model, _, engine = policy
    ours = VLLMGenerator(model, path=FOLDER, engine=engine, max_action_tokens=3, stop_ids=(1, 2))
    holds_the_new_weights(model, ours)
