"""How concentrated attention is, layer by layer (TSP, section 3.2).

DETR's cross-attention keeps concentrating for more than a hundred epochs, which is what TSP blames
for its slow convergence. Nothing here touches a detector's forward: the weights, which its kernels
never write to memory, are calculated a second time from what each layer was called with.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saccade.analysis.attention_weights import (
    dense_log_weights,
    map_logits,
    query_chunks,
    sampling_points,
    sampling_weights,
)
from saccade.attention import (
    DeformableAttention,
    DenseAttention,
    FourTermAttention,
    LevelwiseDeformableAttention,
    MultiheadAttention,
    SynthesizerAttention,
)
from saccade.model import DetectorModel
from saccade.model.decoder import DecoderLayer
from saccade.model.encoder import EncoderLayer
from saccade.structures import Batch, Predictions, Tokens


@dataclass(frozen=True)
class LayerSparsity:
    """How concentrated the attention of one layer is: means over images, queries and heads."""

    name: str
    """Where the layer is: "decoder.layers.0.cross_attention"."""
    negative_entropy: float
    """``sum_j P(a_ij) log P(a_ij)`` in nats: 0 where a query looks at one key alone, minus the
    logarithm of their number where it looks at all alike."""
    num_keys: float
    """m, the keys that a query weighs: tokens that are not padding, or queries, or L * P points."""
    sparsity: float
    """``1/m sum_j P(a_ij) log P(a_ij)``, TSP's measure, m taken as the number of keys."""
    spread: float | None = None
    """Deformable cross-attention: the root mean square of how far its points lie from the centre
    of the box that the layer predicts, in half sides: 1 is as far as its edges."""
    inside: float | None = None
    """Deformable cross-attention: the share of the attention on points inside of that box."""


@torch.no_grad()
def attention_sparsity(
    model: DetectorModel,
    batches: Iterable[Batch],
    see: Callable[[Predictions], object] | None = None,
) -> tuple[LayerSparsity, ...]:
    """Run a detector over batches and say how concentrated the attention of each layer is.

    To be called between epochs, on the same few batches each time; the detector is run in
    evaluation mode and left in the mode it was in. A query in the padding does not count. `spread`
    and `inside` weigh queries by their best class probability, so that background hardly counts.

    Args:
        model: Any detector; layers of other kinds than dense and deformable are left out.
        batches: On the device of the model.
        see: Called with what the detector says of each batch, for those who need that too.

    Returns:
        One entry per layer, those of the encoder first.

    Raises:
        ValueError: If there is no batch.
    """
    training = model.training
    model.eval()
    try:
        with _watch(model) as layers:
            num_batches = 0
            for batch in batches:
                predictions = model(batch)
                num_batches += 1
                for layer in layers:
                    layer.compare_with_boxes(predictions, model)
                if see is not None:
                    see(predictions)
    finally:
        model.train(training)
    if not num_batches:
        raise ValueError("no batches to look at: pass at least one.")
    return tuple(layer.result() for layer in layers if layer.entropies)


def negative_entropy(log_weights: Float[Tensor, "*N m"]) -> Float[Tensor, "*N"]:
    """``sum_j P_j log P_j`` in nats, from the logarithms; a key of weight zero adds nothing.

    >>> negative_entropy(torch.tensor([0.5, 0.5, 0.0]).log()).item()
    -0.6931471824645996
    """
    weights = log_weights.exp()
    return torch.where(weights > 0, weights * log_weights, 0.0).sum(-1)


@dataclass
class _Layer:
    """What is gathered about one layer: one number per image, and a call's points."""

    name: str
    own_tokens: bool
    """Whether the queries are the tokens themselves, some of which may be padding."""
    index: int = 0
    """Which decoder layer it is."""
    entropies: list[Tensor] = field(default_factory=list)
    num_keys: list[Tensor] = field(default_factory=list)
    spreads: list[Tensor] = field(default_factory=list)
    insides: list[Tensor] = field(default_factory=list)
    points: tuple[Tensor, Tensor] | None = None

    def add(
        self,
        entropy: Float[Tensor, "B Q"],
        num_keys: Float[Tensor, " B"],
        padding: Bool[Tensor, "B Q"] | None,
    ) -> None:
        """Take the mean over each image's queries."""
        counted = torch.ones_like(entropy) if padding is None else (~padding).to(entropy.dtype)
        self.entropies.append((entropy * counted).sum(1) / counted.sum(1))
        self.num_keys.append(num_keys)

    def compare_with_boxes(self, predictions: Predictions, model: DetectorModel) -> None:
        """Say where the points of the last call lie in the boxes that came of it."""
        if self.points is None or self.own_tokens:
            return
        of_layer = (*predictions.auxiliary, predictions)[self.index]
        (points, weights), self.points = self.points, None
        centre, sides = of_layer.boxes[:, :, None, None].float().chunk(2, -1)
        distances = (points - centre) / (sides / 2).clamp(min=1e-6)
        scores = of_layer.logits[..., : model.decoder.heads.num_classes].float().sigmoid()
        importance = scores.amax(-1)
        importance = importance / importance.sum(1, keepdim=True)
        spread = (weights * distances.square().mean(-1)).sum(-1).mean(-1)
        inside = (weights * (distances.abs() <= 1).all(-1)).sum(-1).mean(-1)
        self.spreads.append((importance * spread).sum(1).sqrt())
        self.insides.append((importance * inside).sum(1))

    def result(self) -> LayerSparsity:
        """Means over the images."""
        entropies, num_keys = torch.cat(self.entropies), torch.cat(self.num_keys)
        return LayerSparsity(
            name=self.name,
            negative_entropy=entropies.mean().item(),
            num_keys=num_keys.mean().item(),
            sparsity=(entropies / num_keys).mean().item(),
            spread=torch.cat(self.spreads).mean().item() if self.spreads else None,
            inside=torch.cat(self.insides).mean().item() if self.insides else None,
        )


@contextmanager
def _watch(model: DetectorModel) -> Iterator[list[_Layer]]:
    """The attention layers of a model, each noting what it is called with meanwhile."""
    layers, handles = [], []
    num_decoder_layers = 0
    for name, module in model.named_modules():
        if isinstance(module, EncoderLayer):
            found = [(_Layer(f"{name}.attention", own_tokens=True), module.attention)]
        elif isinstance(module, DecoderLayer):
            found = [
                (_Layer(f"{name}.self_attention", own_tokens=False), module.self_attention),
                (
                    _Layer(f"{name}.cross_attention", own_tokens=False, index=num_decoder_layers),
                    module.cross_attention,
                ),
            ]
            num_decoder_layers += 1
        else:
            continue
        for layer, attention in found:
            layers.append(layer)
            handles += _hooks(layer, attention)
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def _hooks(layer: _Layer, attention: nn.Module) -> list[Any]:
    if isinstance(attention, LevelwiseDeformableAttention):
        attention = attention.attention
    if isinstance(attention, DeformableAttention):
        note: Any = _note_deformable
    elif isinstance(attention, DenseAttention):
        note = _note_dense
    elif isinstance(attention, MultiheadAttention):
        note = _note_multihead
    elif isinstance(attention, SynthesizerAttention | FourTermAttention):
        note = _note_map
    else:
        return []
    hook = partial(note, layer)
    return [attention.register_forward_pre_hook(lambda module, inputs: hook(module, *inputs))]


def _note_deformable(
    layer: _Layer,
    attention: DeformableAttention,
    query: Float[Tensor, "B Q C"],
    references: Float[Tensor, "B Q _"],
    memory: Tokens,
) -> None:
    weights = sampling_weights(attention, query)
    num_keys = weights.new_full((len(query),), weights.shape[-1])
    entropy = negative_entropy(weights.log()).mean(2)
    layer.add(entropy, num_keys, memory.mask if layer.own_tokens else None)
    if not layer.own_tokens:
        layer.points = sampling_points(attention, query, references, memory), weights


def _note_dense(
    layer: _Layer,
    attention: DenseAttention,
    query: Float[Tensor, "B Q C"],
    references: Float[Tensor, "B Q _"] | None,  # noqa: ARG001 - what the layer is called with
    memory: Tokens,
) -> None:
    blocked = None if memory.mask is None else memory.mask[:, None, None]
    keys = memory.features + memory.positions
    padding = memory.mask if layer.own_tokens else None
    _note_multihead(layer, attention.attention, query, keys, memory.features, blocked, padding)


def _note_map(
    layer: _Layer,
    attention: SynthesizerAttention | FourTermAttention,
    query: Float[Tensor, "B S C"],
    references: Float[Tensor, "B S _"] | None,  # noqa: ARG001 - what the layer is called with
    memory: Tokens,
) -> None:
    num_images, num_tokens = query.shape[:2]
    logits = map_logits(attention, query, memory).float()
    logits = logits.expand(num_images, -1, num_tokens, -1)
    num_keys = logits.new_full((num_images,), num_tokens)
    if memory.mask is not None:
        logits = logits.masked_fill(memory.mask[:, None, None], -torch.inf)
        num_keys = (~memory.mask).sum(-1).float()
    layer.add(negative_entropy(logits.log_softmax(-1)).mean(1), num_keys, memory.mask)


def _note_multihead(
    layer: _Layer,
    attention: MultiheadAttention,
    query: Float[Tensor, "B Q C"],
    key: Float[Tensor, "B S C"],
    value: Float[Tensor, "B S C"],  # noqa: ARG001 - what the layer is called with
    blocked: Bool[Tensor, "... S"] | None = None,
    padding: Bool[Tensor, "B Q"] | None = None,
) -> None:
    # Only while denoising, which needs targets, are single pairs blocked instead of whole keys.
    assert blocked is None or blocked.ndim == 4
    chunks = [
        negative_entropy(dense_log_weights(attention, part, key, blocked)).mean(1)
        for part in query_chunks(attention, query, key)
    ]
    free = key.shape[1] if blocked is None else (~blocked).sum(-1)[:, 0, 0]
    num_keys = torch.as_tensor(free, dtype=torch.float32, device=key.device).expand(len(query))
    layer.add(torch.cat(chunks, 1), num_keys, padding)
