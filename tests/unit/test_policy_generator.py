"""The transformers generator against plain forward passes: cache, forks, batches, sampling, errors."""

import math
import random

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from polytune.policy import SampleKey, TransformersGenerator, build_tiny, sample_uniform
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks import load_task

VOCABULARY = 40
STOPS = (1, 2, 3)
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": None,
         "eos_token_id": None}  # fmt: skip
LLAMA = {**SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
MODELS = ("tiny", "gpt2-sdpa", "gpt2-eager", "llama-grouped", "qwen3-eager")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name):
    torch.manual_seed(0)
    kind, _, attention = name.partition("-")
    if kind == "tiny":
        model = build_tiny("tiny", [PROMPT_WORD, *load_task("fourrooms").vocabulary()], max_positions=1024)[0]
    elif kind == "gpt2":
        config = GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, attn_implementation=attention)
        model = GPT2LMHeadModel(config)
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="sdpa"))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8, attn_implementation="eager"))
    with torch.no_grad():  # fresh weights give nearly the same distribution everywhere, which would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()


@pytest.fixture(scope="module", params=MODELS)
def any_model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def model():
    return build("llama-grouped")


def key(branch):
    return SampleKey(7, 11, 0, branch)


def random_ids(seed, low, high):
    rng = random.Random(seed)
    return [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(low, high))]


@torch.no_grad()
def full_logprobs(model, ids):
    """Log-probabilities (T, V) of the token after each position, in one plain forward pass."""
    position_ids = torch.arange(len(ids))[None]
    return torch.log_softmax(model(torch.tensor([ids]), position_ids=position_ids).logits[0].float(), dim=-1)


class Player:
    """Runs branches in lock-step; the environment's text depends on the branch number and the turn only."""

    def __init__(self, generator, longest_feedback=9):
        self.generator, self.longest = generator, longest_feedback
        self.samples = {}  # branch number -> [(first position, Sample)]
        self.points = {}  # branch number -> sampling points

    def open(self, number, forkable=True):
        return self.generator.open(random_ids(f"prompt {number}", 1, 9), key(number), forkable=forkable)

    def run(self, live, turns, first_turn=0):
        """``live``: branches; ``turns``: how many turns each takes. Branches that are done leave the batch."""
        turn = first_turn
        while live:
            for branch in live:
                self.points.setdefault(branch.key.branch, []).append(len(branch.ids))
            samples = self.generator.sample(live, [turn] * len(live))
            staying = []
            for branch, sample in zip(live, samples, strict=True):
                number = branch.key.branch
                start = len(branch.ids) - len(sample.ids)
                assert tuple(branch.ids[start:]) == sample.ids
                self.samples.setdefault(number, []).append((start, sample))
                if turn + 1 - first_turn < turns[number]:
                    self.generator.extend(branch, random_ids(f"feedback {number} {turn}", 1, self.longest))
                    staying.append(branch)
            live, turn = staying, turn + 1

    def check(self, model, branch):
        logprobs_T_V = full_logprobs(model, branch.ids)
        for start, sample in self.samples[branch.key.branch]:
            for offset, (token, logprob) in enumerate(zip(sample.ids, sample.logprobs, strict=True)):
                assert logprob == pytest.approx(float(logprobs_T_V[start + offset - 1, token]), abs=1e-5)


def sampler(model, **options):
    options = {"max_action_tokens": 3, "stop_ids": STOPS} | options
    return TransformersGenerator(model, **options)


# ---------------------------------------------------------------- logprobs


def test_the_models_of_these_tests_depend_on_the_whole_context(any_model):
    ids = random_ids("context", 40, 40)
    changed = [ids[0], ids[1] + 1 if ids[1] < VOCABULARY - 1 else 4, *ids[2:]]
    assert (full_logprobs(any_model, ids)[-1] - full_logprobs(any_model, changed)[-1]).abs().max() > 1e-3


def test_logprobs_equal_a_full_forward_pass(any_model):
    """Ragged prompts and feedback, actions of one to three tokens, branches that end at different turns."""
    player = Player(sampler(any_model))
    branches = [player.open(i) for i in range(9)]
    player.run(branches, {i: 2 + 2 * i for i in range(9)})
    for branch in branches:
        player.check(any_model, branch)
    lengths = {len(sample.ids) for samples in player.samples.values() for _, sample in samples}
    assert lengths == {1, 2, 3}
    assert all(s.ids[-1] in STOPS or len(s.ids) == 3 for samples in player.samples.values() for _, s in samples)


def test_a_prompt_of_several_branches_runs_once(any_model):
    """Beside other prompts and a branch that is under way; forks of them start from the same logits."""
    generator = sampler(any_model)
    player = Player(generator)
    early = player.open(20)
    player.run([early], {20: 1})
    generator.extend(early, [5, 6])
    prompt, other = random_ids("shared", 12, 12), random_ids("other", 7, 7)
    branches = [generator.open(prompt, key(i), forkable=i < 2) for i in range(6)]
    branches += [generator.open(other, key(i), forkable=True) for i in range(6, 8)]
    before = generator.counters.prefilled
    at_once = [early, *branches]
    samples = generator.sample(at_once, [1] * len(at_once))
    sampled_again = sum(len(sample.ids) - 1 for sample in samples)  # but for each action's last token
    early_tokens = 2 + 1  # its feedback, and the token that it sampled last
    assert generator.counters.prefilled - before == len(prompt) + len(other) + early_tokens + sampled_again
    for branch, sample in zip(at_once, samples, strict=True):
        player.samples.setdefault(branch.key.branch, []).append((len(branch.ids) - len(sample.ids), sample))
        generator.extend(branch, random_ids(f"then {branch.key.branch}", 1, 9))
    forks = [generator.fork(branches[0], len(prompt), key(30)), generator.fork(branches[6], len(other), key(31))]
    player.run(at_once + forks, {branch.key.branch: 3 for branch in at_once + forks}, first_turn=2)
    for branch in at_once + forks:
        player.check(any_model, branch)
    assert len({tuple(branch.ids[:13]) for branch in branches[:6]}) > 1  # each has its own random numbers


def test_logprobs_after_the_cache_has_grown_several_times(any_model):
    player = Player(sampler(any_model), longest_feedback=25)
    branches = [player.open(i) for i in range(3)]
    player.run(branches, {0: 45, 1: 5, 2: 40})
    assert max(len(b.ids) for b in branches) > 450
    for branch in branches:
        player.check(any_model, branch)


def test_temperature_enters_the_logprobs(model):
    generator = sampler(model, temperature=2.5, max_action_tokens=1)
    branch = generator.open([5, 6, 7], key(0))
    (sample,) = generator.sample([branch], [0])
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 2.5, dim=-1)
    assert sample.logprobs[0] == pytest.approx(float(expected[sample.ids[0]]), abs=1e-5)


def test_every_token_is_run_once(model):
    generator = sampler(model, max_action_tokens=1)
    player = Player(generator)
    branches = [player.open(i) for i in range(5)]
    player.run(branches, {i: 3 + i for i in range(5)})
    # of the last action nothing follows, so it is never run
    assert generator.counters.prefilled == sum(len(b.ids) - 1 for b in branches)
    assert generator.counters.sampled == sum(3 + i for i in range(5))
    assert (generator.counters.reused, generator.counters.recomputed) == (0, 0)


def test_a_groups_prompt_is_run_once(any_model):
    """Equal beginnings are computed once; all is as without a group, later turns, forks and a branch of its own too."""
    prompt, other = list(range(4, 24)), list(range(9, 20))
    seeds = [key(number) for number in range(6)]
    together = sampler(any_model, max_action_tokens=3)
    group = [together.open(prompt, seed, forkable=True) for seed in seeds[:5]] + [together.open(other, seeds[5])]
    alone = [sampler(any_model, max_action_tokens=3) for _ in seeds]
    single = [one.open(branch.ids, seed) for one, branch, seed in zip(alone, group, seeds, strict=True)]
    for turn in range(3):
        found = together.sample(group, [turn] * 6)
        expected = [one.sample([branch], [turn])[0] for one, branch in zip(alone, single, strict=True)]
        assert [sample.ids for sample in found] == [sample.ids for sample in expected]
        for sample, one in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(sample.logprobs), torch.tensor(one.logprobs), atol=2e-5, rtol=0)
        if turn == 0:
            saved = 4 * len(prompt)
            assert sum(one.counters.prefilled for one in alone) - together.counters.prefilled == saved
        for branch in (*group, *single):
            (together if branch in group else alone[single.index(branch)]).extend(branch, [5, 6, 7])
    fork = together.fork(group[3], len(prompt), key(9))
    assert together.sample([fork], [0])[0].ids == alone[0].sample([alone[0].open(prompt, key(9))], [0])[0].ids


# ---------------------------------------------------------------- forks


def test_forks_of_running_parked_and_closed_branches_recompute_nothing(any_model):
    generator = sampler(any_model)
    player = Player(generator)
    first = [player.open(i) for i in range(4)]
    player.run(first, {0: 3, 1: 9, 2: 9, 3: 6})
    second = [player.open(i) for i in range(4, 8)]
    player.run(second, {i: 5 for i in range(4, 8)})  # the first cohort is parked now, the second one runs
    assert all(b.row < 0 and b.parked for b in first) and all(b.row >= 0 for b in second)

    expected_reuse, forks, number = 0, [], 100
    for parent in [*first, *second]:
        points = player.points[parent.key.branch]
        for point in (points[0], points[len(points) // 2], points[-1]):
            forks.append(generator.fork(parent, point, key(number)))
            expected_reuse, number = expected_reuse + point, number + 1
    assert [f.ids for f in forks[:3]] == [first[0].ids[: p] for p in (player.points[0][0], player.points[0][1],
                                                                      player.points[0][2])]  # fmt: skip
    generator.close([*first, *second])  # before any fork runs
    player.run(forks[::2], {f.key.branch: 4 for f in forks[::2]})
    player.run(forks[1::2], {f.key.branch: 4 for f in forks[1::2]})
    for fork in forks:
        player.check(any_model, fork)
    assert generator.counters.recomputed == 0
    assert generator.counters.reused == expected_reuse
    generator.close(forks)
    assert all(b.parked is None and not b.points for b in [*first, *second, *forks])


def test_forks_of_forks(any_model):
    generator = sampler(any_model)
    player = Player(generator)
    parent = player.open(0)
    player.run([parent], {0: 6})
    point = player.points[0][3]
    loaded, unloaded = generator.fork(parent, point, key(1)), generator.fork(parent, point, key(2))
    of_unloaded = generator.fork(unloaded, point, key(3))
    earlier = generator.fork(unloaded, player.points[0][1], key(5))  # the fork keeps the logits of its own point only
    assert generator.counters.recomputed == 1
    generator.close([unloaded, parent])  # the fork it came from never ran, and its source is closed
    player.run([loaded], {1: 3})
    of_loaded = generator.fork(loaded, point, key(4))
    generator.close([loaded])
    forks = [of_unloaded, of_loaded, earlier]
    player.run(forks, {f.key.branch: 4 for f in forks})
    for fork in [loaded, *forks]:
        player.check(any_model, fork)
    assert generator.counters.recomputed == 1
    assert parent.parked is None and loaded.parked is None


def test_a_fork_anywhere_else_recomputes_one_token(model):
    generator = sampler(model)
    player = Player(generator)
    parent = player.open(0)
    player.run([parent], {0: 6})
    elsewhere = next(n for n in range(player.points[0][2] + 1, len(parent.ids)) if n not in player.points[0])
    before = generator.counters.prefilled
    fork = generator.fork(parent, elsewhere, key(1))
    assert (generator.counters.recomputed, generator.counters.reused) == (1, elsewhere - 1)
    player.run([fork], {1: 1})
    player.check(model, fork)
    assert generator.counters.prefilled - before == len(player.samples[1][0][1].ids) - 1


def test_a_fork_that_is_extended_before_it_runs(model):
    generator = sampler(model)
    player = Player(generator)
    parent = player.open(0)
    player.run([parent], {0: 4})
    fork = generator.fork(parent, player.points[0][2], key(1))
    generator.extend(fork, [9, 10, 11])
    player.run([fork, parent], {0: 1, 1: 2})
    player.check(model, fork)
    player.check(model, parent)
    assert generator.counters.recomputed == 0


def test_the_first_token_of_forks_follows_the_parents_distribution(model):
    generator = sampler(model, max_action_tokens=1)
    player = Player(generator)
    parent = player.open(0)
    player.run([parent], {0: 5})
    point = player.points[0][2]
    forks = [generator.fork(parent, point, key(1 + i)) for i in range(200)]
    samples = generator.sample(forks, [2] * 200)
    expected_V = full_logprobs(model, parent.ids[:point])[-1]
    assert len({s.ids for s in samples}) > 3
    for sample in samples:
        assert sample.logprobs[0] == pytest.approx(float(expected_V[sample.ids[0]]), abs=1e-5)
    cumulated_V = expected_V.double().exp().cumsum(0)
    drawn = [sample_uniform(f.key, 2) for f in forks]
    assert all(abs(float(cumulated_V[s.ids[0]]) - u) < float(expected_V.exp()[s.ids[0]]) + 1e-4
               for s, u in zip(samples, drawn, strict=True))  # fmt: skip


def test_parked_copies_and_rows_are_released(model):
    generator = sampler(model)
    player = Player(generator)
    cohorts = [[player.open(3 * c + i) for i in range(3)] for c in range(3)]
    for cohort in cohorts:
        player.run(cohort, {b.key.branch: 3 for b in cohort})
    branches = [b for cohort in cohorts for b in cohort]
    forks = [generator.fork(b, player.points[b.key.branch][1], key(50 + i)) for i, b in enumerate(branches)]
    generator.close(branches)
    generator.close(forks)  # never run
    assert all(b.parked is None and b.source is None and not b.points for b in [*branches, *forks])
    last = player.open(90)
    player.run([last], {90: 1})
    assert generator.cache.rows == [last]
    assert all(tensor.shape[0] == 1 for pair in generator.cache.buffers for tensor in pair)


# ---------------------------------------------------------------- batches


def test_samples_do_not_depend_on_batch_or_order(any_model):
    def play(*cohorts, extra=0):
        player = Player(sampler(any_model))
        for cohort in cohorts:
            player.run([player.open(i) for i in cohort], {i: 3 + i for i in cohort})
        return player.samples

    together = play(range(6))
    for other in (play([5, 3, 1], [4, 2, 0]), play([0], [1], [2], [3], [4], [5]), play([*range(5, -1, -1), 6, 7, 8])):
        for i in range(6):
            assert [s.ids for _, s in other[i]] == [s.ids for _, s in together[i]]
            for (_, a), (_, b) in zip(other[i], together[i], strict=True):
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_every_part_of_the_key_and_the_turn_matter():
    base = sample_uniform(SampleKey(1, 2, 3, 4), 5, 6)
    others = [sample_uniform(SampleKey(*[v + (i == j) for j, v in enumerate((1, 2, 3, 4))]), 5, 6) for i in range(4)]
    others += [sample_uniform(SampleKey(1, 2, 3, 4), 6, 6), sample_uniform(SampleKey(1, 2, 3, 4), 5, 7)]
    assert len({base, *others}) == 7


# ---------------------------------------------------------------- sampling


def test_sample_uniform_is_pinned():
    assert sample_uniform(SampleKey(0, 0, 0, 0), 0) == PINNED[0]
    assert sample_uniform(SampleKey(1, 2, 3, 4), 5, 6) == PINNED[1]
    assert sample_uniform(SampleKey(0, 2**63 - 1, 0, 0), 99) == PINNED[2]


PINNED = (0.3377284412131686, 0.4089888625283945, 0.529751324580376)


def chi_squared(counts, expected):
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))


def test_sample_uniform_is_uniform():
    """Chi-squared over 20 bins of 20,000 keys that differ in one field only, as those of a run do."""
    counts = [0] * 20
    for branch in range(200):
        for turn in range(100):
            counts[int(20 * sample_uniform(SampleKey(0, 17, 0, branch), turn))] += 1
    assert chi_squared(counts, [1000] * 20) < 43.8  # 19 degrees of freedom, p = .001


def test_sampled_tokens_follow_the_probabilities(model):
    generator = sampler(model)
    probabilities = [0.4, 0.25, 0.0, 0.2, 0.1, 0.05, 0.0]
    logits_B_V = torch.tensor(probabilities).log().expand(5000, 7)
    uniforms = [sample_uniform(key(i), 0) for i in range(5000)]
    chosen, scores, _ = generator._choose(logits_B_V, uniforms)
    counts = [chosen.count(token) for token in range(7)]
    assert counts[2] == counts[6] == 0
    kept = [i for i, p in enumerate(probabilities) if p > 0]
    assert chi_squared([counts[i] for i in kept], [5000 * probabilities[i] for i in kept]) < 18.5  # 4 degrees, .001
    assert scores == pytest.approx([math.log(probabilities[token]) for token in chosen], abs=1e-6)


@pytest.mark.parametrize("logits", [[-math.inf, 0.0, -math.inf], [-math.inf, 1e-3, 0.5, -math.inf, -2.0, -math.inf],
                                    [-1e9, 3.0, -1e9, 2.9, -1e9]])  # fmt: skip
def test_a_token_of_probability_zero_is_never_chosen(model, logits):
    uniforms = [0.0, 2.0**-53, 0.5, 1 - 2.0**-30, 1 - 2.0**-53]
    chosen, scores, _ = sampler(model)._choose(torch.tensor([logits] * len(uniforms)), uniforms)
    assert all(logits[token] > -1e8 for token in chosen)
    assert all(math.isfinite(score) for score in scores)
    possible = [token for token, logit in enumerate(logits) if logit > -1e8]
    assert (chosen[0], chosen[-1]) == (possible[0], possible[-1])


def test_greedy_takes_the_most_likely_token(model):
    generator = sampler(model, greedy=True, max_action_tokens=1)
    branches = [generator.open(random_ids(i, 2, 8), key(i)) for i in range(6)]
    begun = [list(b.ids) for b in branches]
    for ids, sample in zip(begun, generator.sample(branches, [0] * 6), strict=True):
        assert sample.ids[0] == int(full_logprobs(model, ids)[-1].argmax())


# ---------------------------------------------------------------- errors and state


def test_an_episode_longer_than_the_positions_is_refused(model):
    generator = sampler(model)
    branch = generator.open([5] * 1025, key(0))
    with pytest.raises(ValueError, match="1025 tokens.*1024 positions"):
        generator.sample([branch], [0])


def test_the_last_position_can_be_used(model):
    generator = sampler(model, max_action_tokens=1)
    branch = generator.open(random_ids("long", 1024, 1024), key(0))
    (sample,) = generator.sample([branch], [0])
    expected_V = full_logprobs(model, branch.ids[:-1])[-1]
    assert sample.logprobs[0] == pytest.approx(float(expected_V[sample.ids[0]]), abs=1e-5)


@pytest.mark.parametrize("config_class, model_class, options", [
    (Qwen3Config, Qwen3ForCausalLM, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    (MistralConfig, MistralForCausalLM, {"sliding_window": 8}),
])  # fmt: skip
def test_a_sliding_window_is_refused(config_class, model_class, options):
    model = model_class(config_class(**LLAMA, **options))
    with pytest.raises(ValueError, match="full attention in every layer.*sliding_attention"):
        TransformersGenerator(model)


def test_an_unsupported_attention_is_refused(model):
    model.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(ValueError, match="'sdpa' or 'eager', got 'flash_attention_2'"):
            TransformersGenerator(model)
    finally:
        model.config._attn_implementation = "sdpa"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("greedy", [False, True])
def test_logits_that_are_not_finite_are_refused_and_the_mode_is_restored(bad, greedy):
    model = build("llama-grouped").train()
    with torch.no_grad():
        model.lm_head.weight[3] = bad
    generator = sampler(model, greedy=greedy)
    with pytest.raises(FloatingPointError, match="diverged"):
        generator.sample([generator.open([5, 6], key(0))], [0])
    assert model.training and model.model.layers[0].training


@pytest.mark.parametrize("training", [False, True])
def test_the_models_mode_is_restored_and_dropout_is_off(training):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2)).train(training)  # dropout 0.1
    generator = sampler(model)
    branches = [generator.open([5, 6, 7], key(i)) for i in (0, 0)]
    first, second = generator.sample(branches, [0, 0])
    assert model.training is training and model.transformer.h[0].training is training
    assert first.ids == second.ids and first.logprobs == pytest.approx(second.logprobs, abs=1e-6)


def test_misuse_is_refused(model):
    generator = sampler(model)
    with pytest.raises(ValueError, match="at least one token"):
        generator.open([], key(0))
    branch = generator.open([5, 6, 7], key(0))
    for length in (0, 4, -1):
        with pytest.raises(ValueError, match=f"token {length}: the branch has 3 tokens"):
            generator.fork(branch, length, key(1))
    assert generator.sample([], []) == []
    generator.sample([branch], [0])
    generator.close([branch])
    with pytest.raises(ValueError, match="closed"):
        generator.sample([branch], [1])
    generator.sample([generator.open([8], key(2))], [0])  # takes the row over
    with pytest.raises(ValueError, match="cannot fork a closed branch"):
        generator.fork(branch, 2, key(3))


def test_reset_forgets_caches_of_old_weights():
    model = build("llama-grouped")
    generator = sampler(model)
    old = generator.open([5, 6, 7, 8], key(0), forkable=True)
    generator.sample([old], [0])
    generator.reset()
    assert generator.cache.rows == [] and generator.cache.buffers == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    player = Player(generator)
    new = player.open(0)
    player.run([new], {0: 4})
    player.check(model, new)
    with pytest.raises(ValueError, match="before reset"):
        generator.sample([old], [1])
    with pytest.raises(ValueError, match="before reset"):
        generator.fork(old, 4, key(1))
