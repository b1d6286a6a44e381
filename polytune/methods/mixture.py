"""A mixture of Gaussians with full covariances, fitted by expectation-maximisation, for methods that draw where it is.

    responsibilities: p(j | x_n) ~ w_j N(x_n; m_j, S_j);   w_j, m_j, S_j: shares, means, covariances under them
Begun at ``count`` points drawn as k-means++ does (Arthur and Vassilvitskii, SODA 2007); FLOOR on each variance. AIC = 2
parameters - 2 log likelihood. Degenerate case: a component that no point belongs to keeps its place.
"""

import math
from typing import NamedTuple

import torch

FLOOR = 1e-6
STEPS = 100


class Mixture(NamedTuple):
    """weights (J,), means (J, D), covariances (J, D, D), float64; and the log likelihood of what it was fitted to."""

    weights_J: torch.Tensor
    means_J_D: torch.Tensor
    covariances_J_D_D: torch.Tensor
    log_likelihood: float

    def aic(self) -> float:
        """Akaike's criterion: less is better."""
        count, size = self.means_J_D.shape
        return 2 * (count * (1 + size + size * (size + 1) / 2) - 1) - 2 * self.log_likelihood


def fit(points_N_D: torch.Tensor, count: int, generator: torch.Generator) -> Mixture:
    """The mixture of ``count`` components that EM ends at; ``count`` <= N."""
    points_N_D = points_N_D.double()
    size = points_N_D.size(1)
    whole = torch.cov(points_N_D.T, correction=0).reshape(size, size) + FLOOR * torch.eye(size, dtype=torch.float64)
    found = Mixture(torch.full((count,), 1 / count, dtype=torch.float64), _begin(points_N_D, count, generator),
                    whole.expand(count, size, size), -math.inf)  # fmt: skip
    for _ in range(STEPS):
        joint_N_J = log_joint(points_N_D, found)
        log_likelihood = float(joint_N_J.logsumexp(dim=1).sum())
        if log_likelihood - found.log_likelihood < 1e-6 * len(points_N_D):
            return found._replace(log_likelihood=log_likelihood)
        found = _maximise(points_N_D, joint_N_J.softmax(dim=1), found)._replace(log_likelihood=log_likelihood)
    return found._replace(log_likelihood=float(log_joint(points_N_D, found).logsumexp(dim=1).sum()))


def log_joint(points_N_D: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """log w_j N(x_n; m_j, S_j), (N, J)."""
    roots_J_D_D = torch.linalg.cholesky(mixture.covariances_J_D_D)
    apart_J_D_N = (points_N_D[None] - mixture.means_J_D[:, None]).mT
    scaled_J_D_N = torch.linalg.solve_triangular(roots_J_D_D, apart_J_D_N, upper=False)
    half_J = roots_J_D_D.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    size = points_N_D.size(1)
    density_J_N = -0.5 * (scaled_J_D_N**2).sum(dim=1) - half_J[:, None] - 0.5 * size * math.log(2 * math.pi)
    return (density_J_N + mixture.weights_J.log()[:, None]).T


def _maximise(points_N_D: torch.Tensor, shares_N_J: torch.Tensor, before: Mixture) -> Mixture:
    masses_J = shares_N_J.sum(dim=0)
    held_J = masses_J > 1e-9
    safe_J = masses_J.clamp(min=1e-9)
    means_J_D = torch.where(held_J[:, None], shares_N_J.T @ points_N_D / safe_J[:, None], before.means_J_D)
    apart_J_N_D = points_N_D[None] - means_J_D[:, None]
    spread_J_D_D = torch.einsum("nj,jnd,jne->jde", shares_N_J, apart_J_N_D, apart_J_N_D) / safe_J[:, None, None]
    floor = FLOOR * torch.eye(points_N_D.size(1), dtype=torch.float64)
    covariances = torch.where(held_J[:, None, None], spread_J_D_D + floor, before.covariances_J_D_D)
    weights_J = safe_J / safe_J.sum()
    return Mixture(weights_J, means_J_D, covariances, before.log_likelihood)


def _begin(points_N_D: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Means (J, D): points, each next one drawn by its squared distance to the nearest so far."""
    chosen = [int(torch.randint(len(points_N_D), (1,), generator=generator))]
    while len(chosen) < count:
        nearest_N = torch.cdist(points_N_D, points_N_D[chosen]).min(dim=1).values ** 2
        if float(nearest_N.sum()) <= 0:
            nearest_N = torch.ones_like(nearest_N)
        chosen.append(int(torch.multinomial(nearest_N, 1, generator=generator)))
    return points_N_D[chosen]
