"""The first stage: encoder tokens propose boxes, the best become queries (appendix A.4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import DetectorConfig
from saccade.model.encoder import token_centres
from saccade.model.heads import BoxHead
from saccade.model.positions import box_embedding
from saccade.structures import Predictions, Queries, Tokens


class ProposalQueries(nn.Module):
    """Scores every token, corrects its default box, and makes queries of the best."""

    def __init__(self, config: DetectorConfig, class_head: nn.Linear, box_head: BoxHead) -> None:
        """Take the pair of heads that the decoder's are copies of, to start like them."""
        super().__init__()
        width = config.neck.width
        self.num_queries = config.queries.num_queries
        self.width = width
        self.token_projection = _projection(width, width)
        self.class_head, self.box_head = class_head, box_head
        self.content = (
            nn.Embedding(self.num_queries, width) if config.queries.content == "learned" else None
        )
        outputs = width if self.content is not None else 2 * width
        self.box_projection = _projection(2 * width, outputs)

    def forward(self, memory: Tokens) -> Queries:
        """The best proposals as queries; all proposals come along for the encoder's loss."""
        proposals = self.propose(memory)
        if proposals.logits.shape[1] < self.num_queries:
            raise ValueError(
                f"the image has {proposals.logits.shape[1]} tokens but the detector takes "
                f"{self.num_queries} proposals: use a larger image or fewer queries."
            )
        return self.start_from(proposals, range(self.num_queries), self.content)

    def start_from(
        self, proposals: Predictions, ranks: range, content: nn.Embedding | None
    ) -> Queries:
        """Queries from the proposals of some ranks, the best being 0.

        They hold the vectors of `content`, or without it what is made of their proposals.
        """
        # The encoder learns "object or not" in channel 0 (its targets are all labelled 0).
        scores = proposals.logits[..., 0]
        if ranks.start:
            # Among equal scores, the best so many are not the first of the best of more.
            scores = scores.scatter(1, scores.topk(ranks.start).indices, -torch.inf)
        best = scores.topk(len(ranks)).indices
        references = proposals.boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        embedded = self.embed(references)
        if content is None:
            positions, vectors = embedded.chunk(2, -1)
        else:
            positions, vectors = embedded, content.weight[: len(ranks)].expand_as(embedded)
        return Queries(vectors, positions, references, proposals)

    def propose(self, memory: Tokens) -> Predictions:
        """One scored box per token; tokens without a usable default box see zeros."""
        defaults = default_boxes(memory)
        usable = ((defaults > 0.01) & (defaults < 0.99)).all(-1, keepdim=True)
        if memory.mask is not None:
            usable = usable & ~memory.mask[..., None]
        tokens = self.token_projection(memory.features.masked_fill(~usable, 0.0))
        unbounded = torch.log(defaults / (1 - defaults)).masked_fill(~usable, float("inf"))
        return Predictions(
            logits=self.class_head(tokens), boxes=(self.box_head(tokens) + unbounded).sigmoid()
        )

    def embed(self, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q _"]:
        """What queries that start from boxes, fraction of image, begin with.

        Their positions [B, Q, C], followed by their contents [B, Q, C] where these come from the
        proposals.
        """
        return self.box_projection(box_embedding(boxes, self.width))


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(linear, nn.LayerNorm(outputs))


def default_boxes(memory: Tokens, side: float = 0.05) -> Float[Tensor, "B S 4"]:
    """A square around every token: ``cx, cy, w, h`` with sides ``side * 2**level``.

    In fraction of image; the centre of a padding token lies beyond 1.
    """
    centres = token_centres(memory.spatial_shapes, memory.valid_ratios)
    sides = torch.cat(
        [
            centres.new_full((height * width,), side * 2**level)
            for level, (height, width) in enumerate(memory.spatial_shapes)
        ]
    )
    return torch.cat([centres, sides[:, None].expand(centres.shape)], -1)
