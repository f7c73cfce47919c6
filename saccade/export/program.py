"""A detector as one graph of torch's own operators: what every target is written from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from saccade.config import DetectorConfig
from saccade.data import normalise
from saccade.export.attention import attention_by_grid_sample
from saccade.export.convolution import convolution_by_grid_sample
from saccade.model import DetectorModel
from saccade.structures import Batch

Parts = dict[str, Tensor]
Operator = Callable[..., Tensor]
_TRACED = {"batch": 2, "height": 160, "width": 224}
"""What a graph of any size is traced with: no 1, and no two alike, which torch would take for
one."""


@dataclass(frozen=True)
class Sizes:
    """What images a graph takes; None for any."""

    batch: int | None = None
    """Number of images."""
    height: int | None = None
    """In pixels."""
    width: int | None = None
    """In pixels."""

    @property
    def fixed(self) -> bool:
        """Whether all three are."""
        return None not in (self.batch, self.height, self.width)

    @property
    def example(self) -> tuple[int, int, int, int]:
        """The shape of images that fit."""
        batch, height, width = (getattr(self, name) or _TRACED[name] for name in _TRACED)
        return (batch, 3, height, width)

    def __str__(self) -> str:
        named = (str(getattr(self, name) or f"any {name}") for name in _TRACED)
        batch, height, width = named
        return f"{batch} x 3 x {height} x {width}"


class WholeDetector(nn.Module):
    """A detector from pixels to predictions, for images of one size, which need no padding.

    With `probes`, names of modules of the detector, it returns what these modules return, too.
    """

    def __init__(
        self, config: DetectorConfig, model: DetectorModel, probes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.probes = tuple(probes)

    def forward(
        self, images: UInt8[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B Q K"] | Float[Tensor, "B Q 4"] | Tensor, ...]:
        """Logits, boxes (``cx, cy, w, h``, fraction of image), then one tensor for each probe."""
        seen: Parts = {}
        hooks = [
            self.model.get_submodule(name).register_forward_hook(_keep(seen, name))
            for name in self.probes
        ]
        size = (images.shape[2], images.shape[3])
        mask = torch.zeros(images.shape[0], *size, dtype=torch.bool, device=images.device)
        try:
            # One size for all: how many images there are stays open.
            sizes = (size,) if self.model.selection is None else (size,) * images.shape[0]
            predictions = self.model(Batch(normalise(images, self.config.input), mask, sizes))
        finally:
            for hook in hooks:
                hook.remove()
        return predictions.logits, predictions.boxes, *(seen[name] for name in self.probes)


def _keep(seen: Parts, name: str) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001
        found = _first_tensor(output)
        if found is not None:
            # A copy, which no later operation writes into.
            seen[name] = found.clone()

    return keep


def _first_tensor(output: object) -> Tensor | None:
    for attribute in ("features", "content", "logits"):
        output = getattr(output, attribute, output)
    if isinstance(output, list | tuple):
        return _first_tensor(output[-1])
    return output if isinstance(output, Tensor) else None


def capture(
    config: DetectorConfig,
    model: DetectorModel,
    sizes: Sizes,
    probes: Sequence[str] = (),
    attention: Operator = attention_by_grid_sample,
) -> ExportedProgram:
    """The detector's graph, its own operators replaced by torch's.

    Args:
        config: The detector's.
        model: In evaluation mode, on the CPU, in float32.
        sizes: Of the images that the graph shall take.
        probes: Names of modules whose outputs become outputs of the graph.
        attention: What deformable attention becomes, called like
            ``torch.ops.saccade.ms_deform_attn_fused``.

    Raises:
        ValueError: If the detector cannot be written as a graph for such sizes.
    """
    whole = WholeDetector(config, model, probes).eval()
    images = torch.zeros(sizes.example, dtype=torch.uint8)
    open_axes = {
        axis: Dim.AUTO
        for axis, side in ((0, sizes.batch), (2, sizes.height), (3, sizes.width))
        if side is None
    }
    with torch.no_grad(), _Replace(_table(attention)):
        program = torch.export.export(
            whole, (images,), dynamic_shapes={"images": open_axes or None}, strict=False
        )
    _check_open(program, open_axes, sizes)
    return program


def _check_open(program: ExportedProgram, open_axes: dict[int, object], sizes: Sizes) -> None:
    (images,) = (node for node in program.graph.nodes if node.name == "images")
    shape = images.meta["val"].shape
    closed = [axis for axis in open_axes if isinstance(shape[axis], int)]
    if closed:
        names = {0: "batch", 2: "height", 3: "width"}
        raise ValueError(
            f"this detector cannot be exported for {sizes}: its graph is made for one "
            f"{' and '.join(names[axis] for axis in closed)}; fix it with --size and --batch."
        )


def _table(attention: Operator) -> dict[object, Operator]:
    import torchvision  # noqa: F401 - defines torch.ops.torchvision

    return {
        torch.ops.saccade.ms_deform_attn_fused: attention,
        torch.ops.torchvision.deform_conv2d: convolution_by_grid_sample,
    }


class _Replace(TorchFunctionMode):
    """Calls other functions in place of some operators."""

    def __init__(self, table: dict[object, Operator]) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        positional: tuple[object, ...] = (),
        named: dict[str, object] | None = None,
    ) -> object:
        """The result of `function`, or of what takes its place."""
        return self.table.get(function, function)(*positional, **(named or {}))
