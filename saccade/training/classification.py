"""The classification losses of a sigmoid detector, each summed over queries and classes."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

# What VarifocalNet found best.
_VARIFOCAL_ALPHA, _VARIFOCAL_GAMMA = 0.75, 2.0
# What DEIM trains with.
_MATCHABILITY_GAMMA = 1.5


def focal(
    logits: Float[Tensor, "layers B Q K"],
    rows: Int64[Tensor, " M"],
    labels: Int64[Tensor, " M"],
    alpha: float,
    gamma: float,
) -> Float[Tensor, " layers"]:
    """Focal loss (RetinaNet, equation 5): 1 for the class of a matched query, 0 elsewhere.

    Args:
        logits: Before the sigmoid.
        rows: The matched queries, rows of the flattened [layers, B, Q].
        labels: The class of the object that each is matched with.
        alpha: Weight of matched queries; the others weigh ``1 - alpha``.
        gamma: How much what is right already counts less.
    """
    sign = torch.ones_like(logits)
    sign.view(-1, logits.shape[-1])[rows, labels] = -1
    # With the sign of the wrong answer, -log(p_t) is a softplus and 1 - p_t a sigmoid.
    wrong = logits * sign
    losses = wrong.sigmoid() ** gamma * F.softplus(wrong)
    weight = torch.where(sign < 0, alpha, 1 - alpha)
    return (losses * weight).flatten(1).sum(1)


def varifocal(
    logits: Float[Tensor, "layers B Q K"],
    rows: Int64[Tensor, " M"],
    labels: Int64[Tensor, " M"],
    quality: Float[Tensor, " M"],
) -> Float[Tensor, " layers"]:
    """Varifocal loss (VarifocalNet, equation 2): the score of a matched query is its `quality`.

    Arguments as in `focal`; `quality` is the overlap of each matched box with its object, 0 to 1.
    Where they do not overlap, the query counts as background.
    """
    wanted = torch.zeros_like(logits)
    wanted.view(-1, logits.shape[-1])[rows, labels] = quality
    weight = _VARIFOCAL_ALPHA * logits.detach().sigmoid() ** _VARIFOCAL_GAMMA
    matched = weight.view(-1, logits.shape[-1])
    matched[rows, labels] = torch.where(quality > 0, quality, matched[rows, labels])
    losses = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none")
    return losses.flatten(1).sum(1)


def matchability(
    logits: Float[Tensor, "layers B Q K"],
    rows: Int64[Tensor, " M"],
    labels: Int64[Tensor, " M"],
    quality: Float[Tensor, " M"],
) -> Float[Tensor, " layers"]:
    """Matchability-aware loss (DEIM, section 3.3): poor matches count as much as good ones.

    Arguments as in `varifocal`.
    """
    wanted = torch.zeros_like(logits)
    wanted.view(-1, logits.shape[-1])[rows, labels] = quality**_MATCHABILITY_GAMMA
    weight = logits.detach().sigmoid() ** _MATCHABILITY_GAMMA
    weight.view(-1, logits.shape[-1])[rows, labels] = 1.0
    losses = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none")
    return losses.flatten(1).sum(1)
