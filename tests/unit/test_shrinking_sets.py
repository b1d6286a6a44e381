"""What sets that shrink over a run are for: ways to win are kept, and the end of the run is about success."""

import torch

from polytune.config import ObjectiveConfig
from polytune.objective import set_advantages

WINS = (1.0, 1.0, 0.0, 0.0)
START = (0.5, 0.1, 0.2, 0.2)  # of the arms; the second wins as often as the first, and is seldom pulled


def train(objective, seed, updates=150, pulls=16, rate=0.15):
    """Plain gradient steps on the logits of four arms, advantages over each group's standard deviation."""
    logits_V, generator = torch.tensor(START, dtype=torch.float64).log(), torch.Generator().manual_seed(seed)
    for update in range(updates):
        probs_V = logits_V.softmax(0)
        arms_N = torch.multinomial(probs_V, pulls, replacement=True, generator=generator)
        rewards, size = [WINS[arm] for arm in arms_N], objective.at(update / updates).set_size
        advantages_N = set_advantages(rewards, arms_N.tolist(), size)
        advantages_N = advantages_N / advantages_N.std(unbiased=False).clamp(min=1e-9)
        step_V = torch.zeros_like(probs_V).index_add(0, arms_N, advantages_N) - advantages_N.sum() * probs_V
        logits_V = logits_V + rate * step_V / pulls
    return logits_V.softmax(0)


def test_sets_that_shrink_keep_both_ways_and_fail_less_than_sets_that_do_not():
    ones, fours, falling = (
        torch.stack([train(ObjectiveConfig(set_size=first, set_size_end=last), seed) for seed in range(4)])
        for first, last in ((1, 1), (4, 4), (4, 1))
    )
    assert ones[:, 1].max() < 0.05  # GRPO: the seldom way is lost
    assert falling[:, 1].min() > 0.3 and fours[:, 1].min() > 0.2
    failures = [1 - policy[:, :2].sum(dim=1) for policy in (ones, fours, falling)]
    assert failures[2].max() < 0.5 * failures[1].min() and failures[0].max() < failures[2].min()
