"""Temperatures by token in a run, on answers of several tokens: one distribution everywhere, and what is refused."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from test_trainer import SETS, TREE, make_trainer, rollouts_of

from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig
from polytune.methods import Method
from polytune.policy import build_tiny
from polytune.tasks import load_task
from polytune.trainer import PolychromicConfig, PolychromicTrainer
from polytune.trainer.tempered import FACTORS

PAYS = "test_tempered:Pays"
GRPO = ObjectiveConfig(objective="mean", set_size=1, set_scope="seeds", window=-1, methods=[PAYS])
EPISODES = RolloutConfig(num_seeds=8, num_rollout_states=0, num_vines=0)
TREES = RolloutConfig(num_seeds=1, num_rollout_states=1, num_vines=7, rollout_states="start")
FACTORS_OF = (1.7, 0.5, 1.2, 0.8)


class Pays(Method):
    """A policy of random weights has no valid answer: long ones are paid instead."""

    def reward(self, update):
        lengths_B = update.own_B_C[: len(update.turns_mask_B_T)].sum(dim=1, keepdim=True).cpu()
        return lengths_B * update.turns_mask_B_T.double()


@dataclass
class Tempers(Method):
    """Factors that change along the answer and over the run."""

    def temperature(self, token, progress):
        return FACTORS_OF[token % len(FACTORS_OF)] * (1 + progress)


TEMPERS = replace(GRPO, methods=[PAYS, "test_tempered:Tempers"])


def make(folder, *, objective=TEMPERS, rollout=EPISODES, change=lambda model: None, **fields):
    task = load_task("sibling", parents=2, children=6, lines=48)
    model, tokenizer = build_tiny("tiny", task.vocabulary(), spaced=False, seed=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)  # distributions that temperatures change
    change(model)
    defaults = dict(
        output_dir=str(folder), num_generations=8, per_device_train_batch_size=16, steps_per_generation=2,
        num_updates=3, num_iterations=2, learning_rate=1e-3, critic="none", kl_coef=0.0, temperature=1.3,
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    args = PolychromicConfig(**(defaults | fields))
    return PolychromicTrainer(model, args, task, list(range(16)), rollout, objective, PolicyConfig(), tokenizer)


def rolled(trainer):
    """The batch of an update, with advantages that are not 0."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    output = trainer._generate_and_score_completions([trainer.train_dataset[i // 8] for i in range(32)])
    trainer._gap_due = False
    draws = torch.Generator().manual_seed(0)
    output["advantages"] = torch.randn(output["advantages"].shape, generator=draws)
    return output, (output["completion_mask"] * output["tool_mask"]).bool()


def reference(model, output, divisor_B_C):
    """Logprobs and entropies (B, C) by a forward pass over each row alone."""
    rows, more = [], []
    for row in range(len(output["completion_ids"])):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
        ids = torch.cat([prompt, output["completion_ids"][row]])
        logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
        all_C_V = torch.log_softmax(logits / divisor_B_C[row][:, None], dim=-1)
        rows.append(all_C_V.gather(1, output["completion_ids"][row][:, None])[:, 0])
        more.append(-(all_C_V.exp() * all_C_V).sum(dim=-1))
    return torch.stack(rows), torch.stack(more)


def divisors(own_B_C, progress=0.0):
    """Temperature of each own token of rows of one answer, by counting."""
    found = torch.ones(own_B_C.shape)
    for row, own in enumerate(own_B_C):
        for number, column in enumerate(own.nonzero()[:, 0].tolist()):
            found[row, column] = 1.3 * FACTORS_OF[number % 4] * (1 + progress)
    return found


@pytest.mark.parametrize("rollout", [EPISODES, TREES], ids=["episodes", "vines"])
def test_loss_and_gradients_equal_a_plain_reference(tmp_path, rollout):
    """Clipped surrogate and KL to the pretrained policy, once the policy has moved."""
    objective = replace(TEMPERS, set_scope="seeds" if rollout is EPISODES else "vines")
    trainer = make(tmp_path, objective=objective, rollout=rollout, kl_coef=0.1, kl_reference="pretrained")
    output, own = rolled(trainer)
    divisor = divisors(own)
    assert own.sum(dim=1).max() > 2 and torch.equal(output[FACTORS], torch.where(own, divisor / 1.3, 1.0))
    with torch.no_grad():
        old, _ = reference(trainer.model, output, divisor)
    torch.testing.assert_close(output["old_per_token_logps"][own], old[own], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output["sampling_per_token_logps"][own], old[own], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output["ref_per_token_logps"][own], old[own], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        draws = torch.Generator().manual_seed(1)
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.01)
    loss = trainer._compute_loss(trainer.model, output)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()

    new, _ = reference(trainer.model, output, divisor)
    ratio, advantages = (new - old).exp(), output["advantages"]
    surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    kl = ratio * ((old - new).exp() - 1 - (old - new))
    expected = ((0.1 * kl - surrogate) * own).sum() / (own.sum() / 2)  # 2 minibatches
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    for name, parameter in trainer.model.named_parameters():
        gap = (found[name] - parameter.grad).abs().max()
        assert gap <= 1e-4 * parameter.grad.abs().max() + 1e-8, name


def test_entropies_of_a_pass_are_tempered_and_readers_see_hidden_states_as_they_are(tmp_path):
    trainer = make(tmp_path)
    output, own = rolled(trainer)
    seen = []
    trainer._pass_logprobs, trainer._own_b_C, trainer._factors_b_C = None, own, output[FACTORS]
    trainer._readers = lambda ids, width: [lambda rows, hidden: seen.append(rows.before(hidden, rows.chosen_b_C))]
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)

    def scored():
        trainer._pass_logprobs = None
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, own.size(1))

    logprobs, entropies, _ = scored()
    with torch.no_grad():
        expected, spread = reference(trainer.model, output, divisors(own))
    torch.testing.assert_close(logprobs[own], expected[own], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies[own], spread[own], atol=1e-5, rtol=1e-5)
    trainer._factors_b_C = None
    scored()
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])


def test_a_run_samples_what_it_scores_and_goes_on_as_if_uninterrupted(tmp_path, one_thread):
    trainer = make(tmp_path, save_updates=1)
    trainer.train()
    assert trainer.generator.factors == ()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "rollout/env_steps" in line]
    assert all(line["groups/without_signal"] < 1 for line in lines)
    assert len(lines) == 3 and all(line["sampling/logprob_gap"] < 1e-5 for line in lines)
    factors = [line["sampling/temperature_factor"] for line in lines]
    assert factors[0] < factors[1] < factors[2]
    again = make(tmp_path / "again", save_updates=1)
    again.train(resume_from_checkpoint=str(sorted(tmp_path.glob("checkpoint-*"))[0]))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_ead_samples_first_tokens_hot_and_late_ones_cool(tmp_path):
    """What it promises: entropies of first tokens rise, those of later ones fall, on answers to the same prompts."""
    ead = replace(GRPO, methods=["ead"], method_args=["ead.cutoff=0", "ead.tau_max=2", "ead.d_0=2", "ead.growth=0"])
    found = {}
    for name, objective in (("plain", GRPO), ("ead", ead)):
        trainer = make(tmp_path / name, objective=objective)
        kept = []
        trainer.on_trees.append(lambda trainer, trees, turns, kept=kept: kept.extend(trees))
        rolled(trainer)
        answers = [turn.entropies for tree in kept for seed in tree.seeds for turn in seed.turns]
        places = [[entropies[place] for entropies in answers if len(entropies) > place] for place in range(3)]
        found[name] = [sum(place) / len(place) for place in places]
    assert found["ead"][0] > found["plain"][0] + 0.1 and found["ead"][2] < found["plain"][2] - 0.1, found


def test_factors_of_1_change_nothing(tmp_path, one_thread):
    """To the last bit: the same weights with EAD that tempers no token as without a method."""
    never = replace(GRPO, methods=[PAYS, "ead"], method_args=["ead.cutoff=100"])
    weights = []
    for name, objective in (("plain", GRPO), ("never", never)):
        trainer = make(tmp_path / name, objective=objective)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def biased(model):
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.lm_head.out_features))


def capped(model):
    model.config.final_logit_softcapping = 30.0


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda model: model.set_attn_implementation("eager"), "needs rows that run packed, and those of Llama"),
        (biased, "the head of LlamaForCausalLM has a bias"),
        (capped, "the head of LlamaForCausalLM has softcapping"),
    ],
)
def test_a_policy_that_cannot_be_tempered_is_refused_at_the_start(tmp_path, change, words):
    with pytest.raises(ValueError, match=words) as error:
        make(tmp_path, change=change)
    assert "method 'test_tempered:Tempers' changes the temperature by token" in str(error.value)
    assert "\n" not in str(error.value)
    make(tmp_path, change=change, objective=GRPO)


def test_fields_that_contradict_it_are_told_before_work(tmp_path):
    for objective, rollout, words in (
        (replace(GRPO, methods=["ead", "spear"], method_args=["spear.share=0.5"]), EPISODES, "method 'spear' replays"),
        (replace(TEMPERS, set_scope="vines"), replace(TREES, branch_at="token"), "branch_at 'token' begins vines"),
    ):
        with pytest.raises(ValueError, match=words):
            make(tmp_path, objective=objective, rollout=rollout)


@pytest.mark.parametrize("rule", ["uncertain", "entropy"])
def test_trees_of_many_turns_told_and_scored(tmp_path, rule):
    """Rules that ask for entropies, a critic and the old logprobs get the same from rollouts as from passes."""
    found = {}
    for name, observes in (("told", True), ("scored", False)):
        objective = replace(SETS, methods=["test_tempered:Tempers"])
        trainer = make_trainer(tmp_path / name, objective=objective, rollout=replace(TREE, rollout_states=rule),
                               model_seed=3)  # fmt: skip
        torch.nn.init.normal_(
            trainer.critic.head.layers[-1].weight, std=0.3, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            trainer.model.lm_head.weight.mul_(4.0)
        trainer.observes = observes
        output, trees, _ = rollouts_of(trainer)
        own = (output["completion_mask"] * output["tool_mask"]).bool()
        assert (output[FACTORS][own] == torch.tensor(FACTORS_OF[0])).all()  # one token an action
        turns = [[g[0].branch_turn for g in groups] for tree in trees for groups in tree.vines]
        found[name] = turns, output["old_per_token_logps"], output["sampling_per_token_logps"]
    assert found["told"][0] == found["scored"][0]
    for logprobs in found["scored"][1:]:
        torch.testing.assert_close(found["told"][1][own], logprobs[own], atol=1e-5, rtol=1e-5)
