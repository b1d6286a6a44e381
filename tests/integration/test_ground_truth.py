"""The whole trainer against ground truth: rollouts, advantages, rows and loss of real runs against exact results.

On the two worlds of `polytune.tasks.tabular` E[f] and its gradient are computed from the definition; pushed through the
transformer they say what the gradient of the trainer's loss must be, direction and size, up to sampling noise.
"""

import random

import pytest
import torch

from polytune.config import ObjectiveConfig, PolicyConfig, RolloutConfig
from polytune.pictures.tabular import action_logprobs, action_table
from polytune.policy import Renderer, build_tiny
from polytune.policy.rendering import PROMPT_WORD
from polytune.tasks.tabular import exact
from polytune.tasks.tabular.exact import SetObjective, tabulate
from polytune.tasks.tabular.worlds import Bandit, TwoStep
from polytune.trainer import PolychromicConfig, PolychromicTrainer


def any_success(rewards, signatures):
    return float(any(reward > 0.0 for reward in rewards))


def coverage(rewards, signatures):
    return len({s for r, s in zip(rewards, signatures, strict=True) if r > 0.0} - {None}) / len(rewards)


FUNCTIONS = {
    "mean": exact.mean,
    "polychromic": exact.polychromic,
    "pass_at_k": any_success,
    "coverage": coverage,
}
SET_SIZE = 4
pytestmark = pytest.mark.usefixtures("one_thread")


def start_policy(task, *, seed=0):
    """A policy that has begun to clone the expert in three episodes of four and random actions in the fourth."""
    model, tokenizer = build_tiny("tiny", [PROMPT_WORD, *task.vocabulary()], seed=seed)
    renderer, rng = Renderer(tokenizer, task), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4 if task.depth == 1 else 12):
        rows, targets = [], []
        for _ in range(32):
            episode, imitate = task.start(rng.randrange(10**6)), rng.random() < 0.75
            ids, labels = list(renderer.prompt_ids(episode.observation())), []
            while not episode.done:
                action = task.expert(episode) if imitate else rng.choice(task.actions)
                labels += [-100] * (len(ids) - 1 - len(labels)) + list(renderer.action_ids(action))
                episode.step(action)
                ids += [*renderer.action_ids(action), *renderer.feedback_ids(episode.observation())]
            rows.append(ids[: len(labels)])
            targets.append(labels)
        logits = model(torch.tensor(rows)).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer, renderer


def make_trainer(folder, task, policy, objective, rollout, *, starts=(0,), **fields):
    model, tokenizer, _ = policy
    rows = rollout.rows_per_prompt
    defaults = dict(
        output_dir=str(folder), num_generations=rows, per_device_train_batch_size=rows, steps_per_generation=1,
        num_iterations=1, critic="none", kl_coef=0.0, learning_rate=1e-3, adam_epsilon=1e-5, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    args = PolychromicConfig(**(defaults | fields))
    return PolychromicTrainer(model, args, task, list(starts), rollout, objective, PolicyConfig(), tokenizer)


def sets(name, **fields):
    return ObjectiveConfig(
        **{"objective": name, "set_size": SET_SIZE, "set_scope": "seeds", "window": -1, "set_normalise": "none"}
        | fields
    )


def flat_gradient(model):
    gradient = torch.cat(
        [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()]
    )
    model.zero_grad()
    return gradient.double()


def gradients_of_the_loss(trainer, updates):
    """The mean gradient of the trainer's own loss over fresh rollouts, at fixed weights, and all of their trees."""
    trees, roll_out = [], trainer._roll_out

    def keep(prompts):
        result = roll_out(prompts)
        trees.extend(trainer._trees)
        return result

    trainer._roll_out = keep
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    total = 0.0
    for update in range(updates):
        inputs = [trainer.train_dataset[update]] * trainer.num_generations
        output = trainer._generate_and_score_completions(inputs)
        trainer._compute_loss(trainer.model, output).backward()
        total = total + flat_gradient(trainer.model) / updates
    return total, trees


def exact_gradient(policy, world, f):
    """d E[f] / d weights."""
    model, _, renderer = policy
    objective = SetObjective(world, f, SET_SIZE)
    logits_gradient = torch.from_numpy(objective.gradient(action_table(model, renderer, world)))
    (logits_gradient * action_logprobs(model, renderer, world)).sum().backward()
    return flat_gradient(model)


def agreement(measured, expected):
    """(cosine, length of `measured` along `expected` in units of it)."""
    product = measured @ expected
    return float(product / (measured.norm() * expected.norm())), float(product / expected.norm() ** 2)


def test_tables_equal_what_the_generator_samples_from(tmp_path):
    """Sampled actions' logprobs, as the rollout reports them, are those of the table; so are the rewards."""
    task = TwoStep()
    policy = start_policy(task)
    world = tabulate(task)
    logprobs_S_A = action_logprobs(*policy[::2], world).detach()
    assert torch.allclose(logprobs_S_A.exp().sum(dim=1), torch.ones(len(world.states), dtype=torch.float64))
    trainer = make_trainer(tmp_path, task, policy, sets("mean"), RolloutConfig(64, 0, 0), num_updates=1)
    _, (tree,) = gradients_of_the_loss(trainer, 1)
    outcomes, seen = {outcome.actions: outcome for outcome in world.outcomes}, set()
    for trajectory in tree.seeds:
        words = tuple(trainer.renderer.action_text(turn.action_ids) for turn in trajectory.turns)
        if not set(words) <= set(task.actions):
            assert trajectory.discounted_return() == 0.0 and trajectory.signature is None
            continue
        for t, turn in enumerate(trajectory.turns):
            expected = logprobs_S_A[world.states.index(words[:t]), world.actions.index(words[t])]
            assert abs(sum(turn.logprobs) - float(expected)) < 1e-5
        outcome = outcomes[words]
        assert (trajectory.discounted_return(), trajectory.success, trajectory.signature) == outcome[1:]
        seen.add(words)
    assert len(seen) > 4


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("task", "rollouts"), [(Bandit(), 4), (TwoStep(), 8)], ids=["bandit", "two-step"])
def test_the_loss_descends_the_exact_gradient(tmp_path, task, rollouts, name):
    """Sets of whole episodes, N = 512, n = 4: the loss has the gradient -(1 - n/N)/n * dE[f] / (tokens an episode)."""
    members = 512
    policy = start_policy(task)
    expected = exact_gradient(policy, tabulate(task), FUNCTIONS[name])
    rollout = RolloutConfig(num_seeds=members, num_rollout_states=0, num_vines=0)
    trainer = make_trainer(tmp_path, task, policy, sets(name), rollout, num_updates=rollouts)
    measured, _ = gradients_of_the_loss(trainer, rollouts)
    cosine, size = agreement(-measured, expected * (1 - SET_SIZE / members) / SET_SIZE / task.depth)
    print(f"{task.name} {name}: cosine {cosine:.4f}, size {size:.3f}")
    assert cosine > 0.99 and 0.75 < size < 1.3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_vines_descend_the_exact_gradient_of_their_rollout_state(tmp_path, name):
    """512 vines from behind the first door: the loss has the gradient of E[f] of continuations from that state."""
    task, members, rollouts = TwoStep(), 512, 3
    policy = start_policy(task)
    rollout = RolloutConfig(num_seeds=1, num_rollout_states=1, num_vines=members)
    trainer = make_trainer(tmp_path, task, policy, sets(name, set_scope="vines"), rollout, num_updates=rollouts, seed=1)
    measured, trees = gradients_of_the_loss(trainer, rollouts)
    tokens, expected = members + task.depth, 0.0  # the seed trajectory's are in the mean, without an advantage
    for tree in trees:
        door = trainer.renderer.action_text(tree.seeds[0].turns[0].action_ids)
        if door not in task.actions:
            continue  # nothing can be won any more: no gradient
        world = tabulate(task, after=(door,))
        expected = expected + exact_gradient(policy, world, FUNCTIONS[name]) / rollouts
    cosine, size = agreement(-measured, expected * (1 - SET_SIZE / members) / SET_SIZE * members / tokens)
    print(f"vines {name}: cosine {cosine:.4f}, size {size:.3f}")
    assert cosine > 0.99 and 0.75 < size < 1.3


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("task", [Bandit(), TwoStep()], ids=["bandit", "two-step"])
def test_training_raises_the_objective_it_is_given(tmp_path, task, name):
    """30 updates of 16 episodes: the exact E[f] after training, as a share of the way to its exact optimum."""
    policy, world = start_policy(task), tabulate(task)
    objective = SetObjective(world, FUNCTIONS[name], SET_SIZE)
    before = action_table(*policy[::2], world)
    rollout = RolloutConfig(num_seeds=16, num_rollout_states=0, num_vines=0)
    trainer = make_trainer(tmp_path, task, policy, sets(name), rollout, num_updates=30, save_updates=30)
    trainer.train()
    after = objective.value(action_table(*policy[::2], world))
    best = objective.value(objective.ascend(before, steps=2000, rate=5.0))
    share = (after - objective.value(before)) / (best - objective.value(before))
    print(f"{task.name} {name}: {objective.value(before):.4f} -> {after:.4f} of {best:.4f}")
    assert share > 0.4
