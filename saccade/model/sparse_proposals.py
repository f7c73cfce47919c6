"""What the two ways to select tokens have in common (TSP, section 4)."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from saccade.config import DetectorConfig
from saccade.structures import Origins, Targets, Tokens


def tower(config: DetectorConfig) -> nn.Sequential:
    """Convolutions of 3x3 with group norms, which keep the width of the levels (FCOS, figure 2)."""
    width = config.neck.width
    layers = nn.Sequential(
        *(
            Conv2dNormActivation(width, width, 3, norm_layer=partial(nn.GroupNorm, 32), bias=True)
            for _ in range(config.selection.num_convolutions)
        )
    )
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers


def to_train_on(targets: Sequence[Targets] | None) -> Sequence[Targets]:
    """The targets of a batch.

    Raises:
        ValueError: If there are none.
    """
    if targets is None:
        raise ValueError(
            "a detector that selects tokens trains on targets, but got none: pass them, or call "
            "model.eval() first."
        )
    return targets


def draw_kept(count: int, keep: tuple[float, float]) -> Int64[Tensor, " _"]:
    """Random proposal dropping: which of `count` tokens stay, in rising order.

    A share within `keep` is drawn first, evenly, then the tokens; both by torch's own generator.
    """
    least, largest = keep
    share = least + (largest - least) * torch.rand(()).item()
    kept = torch.randperm(count)[: max(1, round(count * share))]
    return kept.sort().values


def as_set(
    features: Float[Tensor, "B S C"],
    positions: Float[Tensor, "B S C"],
    mask: Bool[Tensor, "B S"] | None,
    origins: Origins,
) -> Tokens:
    """Selected tokens, for attention that does not ask how they lie.

    An image all of whose tokens are padding keeps them: there is no softmax over nothing.
    """
    if mask is not None:
        mask = mask & ~mask.all(1, keepdim=True)
    return Tokens(
        features,
        positions,
        mask,
        spatial_shapes=((1, features.shape[1]),),
        valid_ratios=torch.ones(len(features), 1, 2, device=features.device),
        origins=origins,
    )


def gather_tokens(values: Float[Tensor, "B S D"], rows: Int64[Tensor, "B R"]) -> Tensor:
    """These rows of each image: [B, R, D]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
