"""RPO (arXiv 2405.16436) on groups of rollouts: DPO, and the likelihood of what is preferred, against overoptimisation.

    loss of a pair (w, l) = -log sigma(beta (log u_w - log u_l)) - nll mean_t log pi(w_t)
``f_dpo.py`` with divergence reverse and nll above 0; the likelihood keeps successes from becoming unlikely, too, as DPO
alone lets them where only the difference counts.

Source: the paper's loss, as TRL's DPOTrainer has it (loss_type ['sigmoid', 'sft']; the mean over a success's tokens);
there eta 0.005 was used with beta 0.1 (general knowledge, not read), TRL's weight of it is 1, the default here. Assumes
and degenerates as ``f_dpo``.
"""

from dataclasses import dataclass
from typing import ClassVar

from polytune.meanings import Metric
from polytune.methods.f_dpo import FDPO


@dataclass
class RPO(FDPO):
    divergence: str = "reverse"
    nll: float = 1.0
    name: ClassVar[str] = "rpo"
    logs: ClassVar[dict[str, Metric]] = {
        "rpo/pairs": Metric("pairs of a success and a failure", "count", "above 0", "0: no group has both"),
    }

    def says(self) -> str:
        return (
            f"**RPO** (arXiv 2405.16436) on groups of rollouts: successes preferred to failures as in DPO, beta "
            f"{self.beta:g}, and their likelihood, weight {self.nll:g}."
        )
