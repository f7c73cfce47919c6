"""The two-layer perceptron that ends every transformer layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.model.dropout import Dropout

TOKENS_AT_A_TIME = 1024
"""On a CPU without gradients: how many tokens are transformed before the next ones."""


class FeedForward(nn.Module):
    """LayerNorm(x + W2 relu(W1 x)), normalised after the residual as DETR does.

    With `pre_norm` it is x + W2 relu(W1 LayerNorm(x)).
    """

    def __init__(self, width: int, hidden: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(self, features: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Transform each token or query by itself."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not features.is_cpu:
            return self.transform(features)
        # Few at a time, so that what is hidden stays in a CPU's cache: a third faster.
        parts = torch.split(features, max(1, TOKENS_AT_A_TIME // max(1, len(features))), 1)
        done = [self.transform(part) for part in parts]
        return torch.cat(done, 1) if len(done) > 1 else done[0]

    def transform(self, features: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """The whole of it, for any of the tokens."""
        entering = self.norm(features) if self.pre_norm else features
        hidden = self.dropout.after_relu(self.expand(entering))
        summed = features + self.dropout(self.contract(hidden))
        return summed if self.pre_norm else self.norm(summed)
