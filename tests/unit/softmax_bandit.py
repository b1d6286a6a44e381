"""Methods on a bandit whose policy is one row of logits: their hooks called as a trainer calls them, in milliseconds.

``train`` is GRPO without a division: N pulls an update, one group, advantages r - mean, ``passes`` steps of plain
gradient descent on the clipped surrogate and what the methods make of it. Returns the probabilities at the end.
"""

from dataclasses import dataclass
from functools import partial

import torch

from polytune.methods import Beginning, Grown, Method, Minibatch, Seen, Update
from polytune.rollout import Start, Trajectory, Tree, Turn

EPSILON = (0.2, 0.2)


@dataclass
class Bandit:
    logits_V: torch.Tensor
    rewards: tuple[float, ...]
    pulls: int = 16
    seed: int = 0

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)

    def head(self, hidden_d_H):
        return hidden_d_H.float() @ self.logits_V[None].float()

    def tree(self, pulls, logits_V=None):
        """Independent pulls; an arm's number is its token, and its signature."""
        logprobs_V = (self.logits_V if logits_V is None else logits_V).detach().log_softmax(0)
        arms = torch.multinomial(logprobs_V.exp(), pulls, replacement=True, generator=self.generator).tolist()
        seeds = [
            Trajectory(
                turns=[Turn((arm,), (logprobs_V[arm].item(),), self.rewards[arm])],
                stop_reason="success" if self.rewards[arm] > 0 else "failure", signature=arm,
            )
            for arm in arms
        ]  # fmt: skip
        return Tree(0, (9,), seeds, [[] for _ in seeds])

    def update(self, progress=0.0, number=0):
        told, tree = {}, self.tree(self.pulls)
        index_B_C = torch.zeros(self.pulls, 1, dtype=torch.long)
        logprobs_B_C = torch.tensor([seed.turns[0].logprobs for seed in tree.seeds])
        reference_B_C = self.start_V[[seed.turns[0].action_ids[0] for seed in tree.seeds]][:, None]
        update = Update(
            seed=number, trees=[tree], turns_mask_B_T=index_B_C == 0, turn_index_B_C=index_B_C,
            logprobs_B_C=logprobs_B_C, groups_G_N=[list(range(self.pulls))], record=told.__setitem__,
            progress=progress, head=self.head, reference_B_C=reference_B_C,
        )  # fmt: skip
        return update, told

    def score(self, rows):
        """Logprobs and entropy of rows of one token."""
        logprobs_V = self.logits_V.detach().log_softmax(0)
        entropy = -(logprobs_V.exp() * logprobs_V).sum().item()
        return [(logprobs_V[row.completion_ids].tolist(), [entropy]) for row in rows]

    @property
    def start_V(self):
        return self._start_V if hasattr(self, "_start_V") else self.logits_V.detach().log_softmax(0)

    def remember(self):
        self._start_V = self.logits_V.detach().log_softmax(0).clone()


def grow_each(bandit, logits_V, starts):
    return [bandit.tree(1, logits_V) for _ in starts]


def arms_of(update):
    return torch.tensor([seed.turns[0].action_ids for tree in update.trees for seed in tree.seeds])


def advantages_of(method: Method, bandit: Bandit, update: Update):
    """(advantages (B, 1), tensors for the minibatches) after the hooks of an update."""
    ids_B_C = arms_of(update)
    hidden = torch.ones(len(ids_B_C), 2, 1)
    seen = Seen(hidden, torch.ones(len(ids_B_C), dtype=torch.long), ids_B_C, update.own_B_C, bandit.head)
    with torch.no_grad():
        update.probed = method.probe(seen)
    rewards_B_T = torch.tensor([[t.turns[0].reward] for t in update.trajectories], dtype=torch.float64)
    rewards_B_T = rewards_B_T + method.reward(update)
    update.scored_B_T = torch.ones_like(rewards_B_T, dtype=torch.bool)
    turns_B_T = method.turn_advantage(update, rewards_B_T - rewards_B_T.mean())
    sent = {}
    return method.advantage(update, turns_B_T.float(), sent), sent


def loss_of(method: Method, bandit: Bandit, update: Update, advantages_B_C, sent):
    """What a trainer's loss would be, and the minibatch."""
    logprobs_V = bandit.logits_V.log_softmax(0)
    ids_B_C, told = arms_of(update), {}
    entropy = -(logprobs_V.exp() * logprobs_V).sum()
    batch = Minibatch(
        logprobs_b_C=logprobs_V[ids_B_C], old_b_C=update.logprobs_B_C, advantages_b_C=advantages_B_C,
        set_deductions_b_C=None, mask_b_C=torch.ones_like(advantages_B_C), epsilon=EPSILON, tensors=sent,
        entropies_b_C=entropy.expand(ids_B_C.shape), record=lambda name, values, mask: told.__setitem__(name, values),
    )  # fmt: skip
    batch.weight = method.weight(batch)
    weighed_B_C, ratio_B_C = advantages_B_C * batch.weight, batch.ratio_b_C
    surrogate_B_C = torch.min(ratio_B_C * weighed_B_C, ratio_B_C.clamp(1 - EPSILON[0], 1 + EPSILON[1]) * weighed_B_C)
    return (method.loss(batch) - surrogate_B_C.sum()) / len(ids_B_C), batch


def replay_of(method: Method, bandit: Bandit, replayed):
    """The term of replayed rows of one token."""
    ids_R_C = torch.tensor([row.completion_ids for row, _ in replayed])
    batch = Minibatch(
        logprobs_b_C=bandit.logits_V.log_softmax(0)[ids_R_C],
        old_b_C=torch.tensor([row.logprobs for row, _ in replayed], dtype=torch.float32),
        advantages_b_C=torch.tensor([[advantage] for _, advantage in replayed], dtype=torch.float32),
        set_deductions_b_C=None, mask_b_C=torch.ones(ids_R_C.shape), epsilon=EPSILON, tensors={},
    )  # fmt: skip
    terms_R_C = method.replayed(batch) if method.has("replayed") else None
    if terms_R_C is None:
        clipped = batch.ratio_b_C.clamp(1 - EPSILON[0], 1 + EPSILON[1])
        terms_R_C = -torch.min(batch.ratio_b_C * batch.advantages_b_C, clipped * batch.advantages_b_C)
    return terms_R_C.mean()


def train(
    method,
    probabilities,
    rewards,
    *,
    updates=60,
    passes=2,
    rate=0.5,
    pulls=16,
    seed=0,
    room=8,
    expert=None,
    hinted=None,
):
    """Probabilities of the arms at the end, a tensor; ``expert``: the arm of demonstrations; ``hinted``: probabilities
    of attempts with a hint."""
    from polytune.rollout import Row

    method = Method() if method is None else method
    logits_V = torch.tensor(probabilities).log().requires_grad_()
    bandit = Bandit(logits_V, tuple(rewards), pulls, seed)
    bandit.remember()

    def grow(starts: list[Start]):
        return [bandit.tree(start.num_seeds or pulls) for start in starts]

    def demonstrate(state):
        return None if expert is None else Row([9], [expert], [1], [0.0], [0])

    method.begin(Beginning((0,), grow, demonstrate, bandit.score))
    for number in range(updates):
        update, _ = bandit.update(number / updates, number)
        if method.has("again"):
            logs_V = None if hinted is None else torch.tensor(hinted).log()
            grow_more = partial(grow_each, bandit, logs_V)
            method.again(Grown(update.trees, grow_more, bandit.score))
        replayed = list(method.replay(room, number / updates))
        advantages_B_C, sent = advantages_of(method, bandit, update)
        method.learn(update)
        for _ in range(passes):
            loss, _ = loss_of(method, bandit, update, advantages_B_C, sent)
            if replayed:
                loss = loss + replay_of(method, bandit, replayed)
            (gradient_V,) = torch.autograd.grad(loss, logits_V)
            with torch.no_grad():
                logits_V -= rate * gradient_V
    return logits_V.detach().softmax(0)


def entropy(probabilities_V):
    return -(probabilities_V * probabilities_V.log()).sum().item()


def mean_over_seeds(measure, seeds=4):
    return sum(measure(seed) for seed in range(seeds)) / seeds
