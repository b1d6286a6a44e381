"""EAD, exploratory annealed decoding (arXiv 2510.05251): the first tokens of an answer, where answers part, are sampled
hot, and later ones, which carry out what was begun, cool.

    tau_t = max(1 + tau_max - e^(t / d), tau_min)  for t >= cutoff, else 1;   d = min(d_0 + growth * progress, d_max)
t: number of a token in its action, from 0; progress: share of the run that is done; tau_t: a factor on temperature.

Source: the authors' code (yangalan123/EAD-RLVR): tau_max 1.2, tau_min 0.1, d_0 25, cutoff 10, d_max 40000, and at
global step s d = d_0 + 5 s. Not established, so options: ``growth``, here 5 for each of 100 steps (in a run of another
length take 5 times its steps), and the scale of d: their vLLM sampler has e^(t / 20 d), but the logprobs of their
update have e^(t / d), so that their ratios are of two distributions. Here one table serves both; to sample as they did,
take d_0, growth and d_max times 20. Their cutoff is for long
answers: those of up to 10 tokens are never tempered.
Assumes that early tokens choose and late ones carry out. Degenerate cases: with tau_max 1 and d far above the length of
answers, or cutoff above it, the temperature stays as it is.
"""

import math
from dataclasses import dataclass

from polytune.checks import require
from polytune.methods.base import Method
from polytune.methods.options import require_option


@dataclass
class EAD(Method):
    tau_max: float = 1.2
    tau_min: float = 0.1
    d_0: float = 25.0
    growth: float = 500.0
    d_max: float = 40000.0
    cutoff: int = 10

    def __post_init__(self) -> None:
        for name in ("tau_max", "tau_min", "d_0", "growth", "d_max", "cutoff"):
            require_option(name, getattr(self, name), 0.0, above=name in ("tau_min", "d_0", "d_max"))
        require(
            self.tau_min <= self.tau_max,
            f"tau_min is {self.tau_min} and tau_max {self.tau_max}, with which an answer begins: lower tau_min.",
        )

    def says(self) -> str:
        return (
            f"**EAD** (exploratory annealed decoding): in training the temperature of an answer's tokens fell along "
            f"the answer, from token {self.cutoff} on, between {self.tau_max:g} and {self.tau_min:g} times the run's."
        )

    def temperature(self, token: int, progress: float) -> float:
        if token < self.cutoff:
            return 1.0
        d = min(self.d_0 + self.growth * progress, self.d_max)
        return max(1.0 + self.tau_max - math.exp(min(token / d, 700.0)), self.tau_min)
