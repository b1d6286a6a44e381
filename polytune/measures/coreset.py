"""k of n attempts that are unlike each other: greedy choice by leverage (RepExp at inference time, arXiv 2510.11686).

    next = argmax_y h_y^T L h_y,   L = I / damping at first;   then L -= (L h h^T L) / (1 + h^T L h)
h: an attempt's vector less the mean of all n, over the root of their mean squared length; L is the inverse of damping I
+ sum of h h^T over those that are chosen (Sherman and Morrison). Knows nothing of rewards.

Source: notes on the paper: the rule and its update. Centring and scaling are ours (without them, what all attempts have
in common decides), damping is not established. Degenerate cases: attempts alike are chosen in their order; k >= n: all.
"""

import numpy as np

DAMPING = 0.1


def coreset(vectors_N_W: np.ndarray, k: int, damping: float = DAMPING) -> list[int]:
    """Places of the chosen ones, in the order in which they were; the first k' < k are the choice for k'."""
    centred_N_W = np.asarray(vectors_N_W, dtype=np.float64)
    centred_N_W = centred_N_W - centred_N_W.mean(axis=0)
    length = np.sqrt((centred_N_W**2).sum(axis=1).mean())
    h_N_W = centred_N_W / length if length > 0 else centred_N_W
    inverse_W_W, chosen = np.eye(h_N_W.shape[1]) / damping, []
    for _ in range(min(k, len(h_N_W))):
        leverage_N = np.einsum("nw,wv,nv->n", h_N_W, inverse_W_W, h_N_W)
        leverage_N[chosen] = -1.0
        chosen.append(int(leverage_N.argmax()))
        moved_W = inverse_W_W @ h_N_W[chosen[-1]]
        inverse_W_W = inverse_W_W - np.outer(moved_W, moved_W) / (1 + h_N_W[chosen[-1]] @ moved_W)
    return chosen
