"""Class and box heads (DETR, section 3.2; Deformable DETR, appendix A.4)."""

import copy
import math

from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import DetectorConfig


class BoxHead(nn.Module):
    """A perceptron of three layers that says cx, cy, w, h before the sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)]
        )

    @property
    def last(self) -> nn.Linear:
        """The layer whose bias is the first guess."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, queries: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q 4"]:
        """One correction per query."""
        first, second, last = self.layers
        return last(second(first(queries).relu()).relu())


class Heads(nn.Module):
    """One pair of heads for all decoder layers, or with refinement one pair for each."""

    def __init__(self, config: DetectorConfig, class_head: nn.Linear, box_head: BoxHead) -> None:
        """Make copies of one pair, so that all layers start alike as officially."""
        super().__init__()
        self.num_classes = config.num_classes
        count = config.decoder.num_layers if config.decoder.refined else 1
        self.class_heads = nn.ModuleList(copy.deepcopy(class_head) for _ in range(count))
        box_heads = [copy.deepcopy(box_head) for _ in range(count)]
        if config.classification == "sigmoid" and config.queries.source == "learned":
            # A first guess of small boxes, sigmoid(-2) = 0.12 of the image; refinement keeps it.
            nn.init.constant_(box_heads[0].last.bias[2:], -2.0)
        self.box_heads = nn.ModuleList(box_heads)

    def forward(
        self, layer: int, queries: Float[Tensor, "B Q C"]
    ) -> tuple[Float[Tensor, "B Q K"], Float[Tensor, "B Q 4"]]:
        """Class logits and box corrections after decoder layer number `layer`."""
        index = layer if len(self.class_heads) > 1 else 0
        return self.class_heads[index](queries), self.box_heads[index](queries)


def make_heads(config: DetectorConfig) -> tuple[nn.Linear, BoxHead]:
    """A class head and a box head with the official initialisation."""
    box_head = BoxHead(config.width)
    if config.classification == "softmax":
        return nn.Linear(config.width, config.num_classes + 1), box_head
    class_head = nn.Linear(config.width, config.num_classes)
    # Every query starts as background with probability 0.99 (focal loss, section 4.1 there).
    nn.init.constant_(class_head.bias, -math.log(99))
    nn.init.zeros_(box_head.last.weight)
    nn.init.zeros_(box_head.last.bias)
    return class_head, box_head
