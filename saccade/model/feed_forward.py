"""The two-layer perceptron that ends every transformer layer."""

from jaxtyping import Float
from torch import Tensor, nn

from saccade.model.dropout import Dropout


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
        entering = self.norm(features) if self.pre_norm else features
        hidden = self.dropout.after_relu(self.expand(entering))
        summed = features + self.dropout(self.contract(hidden))
        return summed if self.pre_norm else self.norm(summed)
