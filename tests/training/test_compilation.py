"""torch.compile in training: the same numbers, and what must not be lost by it."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from saccade.structures import Batch, Targets
from saccade.training import loop
from saccade.training.compilation import compiled, num_graphs
from saccade.training.guards import Moment, find_non_finite
from saccade.training.recomputation import recomputing
from saccade.training.step_images import StepImages

# Of torch's own making, while it looks at what is to be compiled.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


class Net(nn.Module):
    """Two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(4, 2), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.movedim(1, -1)))


@pytest.fixture
def net() -> Iterator[Net]:
    torch.manual_seed(0)
    torch.compiler.reset()
    yield Net()
    torch.compiler.reset()


@pytest.mark.slow
def test_graphs_are_made_once_for_all_sizes_and_parts_run_plainly_without_gradients(
    net: Net,
) -> None:
    before = num_graphs()
    with compiled([net.first, net.second], backend="eager"):
        with torch.no_grad():
            net(torch.randn(1, 3, 4, 4))
        assert num_graphs() == before
        for side in (4, 6, 7):
            net(torch.randn(2, 3, side, side))
        assert num_graphs() == before + 2
    net(torch.randn(2, 3, 9, 5))
    assert num_graphs() == before + 2
    assert "forward" not in vars(net.first)


@pytest.mark.slow
def test_compiled_parts_are_recomputed_to_the_same_gradients(net: Net) -> None:
    images = torch.randn(2, 3, 4, 4)
    net(images).sum().backward()
    plain = [each.grad.clone() for each in net.parameters()]
    net.zero_grad()
    parts = [net.first, net.second]
    with compiled(parts, backend="eager"), recomputing(parts):
        net(images).sum().backward()
    for parameter, expected in zip(net.parameters(), plain, strict=True):
        assert torch.equal(parameter.grad, expected)


@pytest.mark.slow
def test_what_is_not_finite_is_found_inside_of_compiled_parts(net: Net) -> None:
    images = torch.randn(1, 3, 4, 4)
    batch = Batch.from_images([images[0]])
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (4, 4))
    moment = Moment(batch, [targets], seed=1, name="step 1", images=StepImages((0,)))
    with compiled([net.first, net.second], backend="eager"):
        net(images)
        net.second[1].register_forward_hook(lambda module, inputs, output: output * torch.nan)
        found = find_non_finite(net, lambda batch, _: net(batch.images).sum(), moment, False)
    assert found.startswith("first in the output of second.1 (Tanh)")


def test_laps_that_compiled_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "num_graphs", iter([3, 3, 3, 5, 5, 5]).__next__)
    times = iter(range(100))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(times)))
    clock = loop.Stopwatch(Fabric(accelerator="cpu", devices=1), shared=False)
    clock.start()
    # The first lap, one like it, one with other graphs, and another like that.
    assert [clock.lap() for _ in range(4)] == [0.0, 1.0, 0.0, 1.0]


# Without the hooks of the tests, which look at shapes in ways that cannot be compiled.
TRAINS = """
import sys
from dataclasses import replace
import torch
from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Targets
from saccade.training import SetCriterion
from saccade.training.compilation import compiled, num_graphs
from saccade.training.loss_model import LossModel
from saccade.training.sharding import parts

config = preset_config("deformable-detr-nano", class_names=["cat", "dog"])
config = replace(config, queries=replace(config.queries, num_queries=12))

def gradients(backend):
    torch.manual_seed(0)
    model = DetectorModel(config)
    criterion = SetCriterion(LossConfig(), 2)
    losses_of = LossModel(model, criterion)
    with compiled(parts(model) if backend else (), backend):
        for size in ((64, 96), (96, 64), (128, 160)):
            torch.manual_seed(size[0])
            batch = Batch.from_images([torch.randn(3, *size), torch.randn(3, *size)])
            boxes = torch.tensor([[4.0, 8.0, 40.0, 50.0]])
            targets = [Targets(boxes, torch.tensor([1]), size)] * 2
            criterion.total(losses_of(batch, targets)).backward()
            graphs.append(num_graphs())
    return torch.cat([each.grad.flatten() for each in model.parameters()])

graphs = []
plain = gradients(None)
graphs.clear()
difference = (gradients(sys.argv[1]) - plain).norm() / plain.norm()
assert difference < 1e-4, difference
assert graphs[0] == graphs[-1] > 1, graphs
assert not torch._dynamo.utils.counters["graph_break"], torch._dynamo.utils.counters
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_detector_trains_alike_when_compiled(backend: str) -> None:
    """At three sizes with the same graphs, none of them broken."""
    subprocess.run([sys.executable, "-c", TRAINS, backend], check=True, timeout=900)
