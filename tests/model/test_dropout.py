import pytest
import torch
from torch import Tensor

from saccade.model.dropout import Dropout


def features() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(301, 333, generator=generator)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_as_many_are_dropped_as_asked_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(probability)(torch.ones(400, 500))
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    kept = dropped[dropped != 0]
    assert kept.unique().numel() == 1


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    zero = (Dropout(0.3)(torch.ones(400_003)) == 0).float()
    for distance in (1, 2, 3, 4):
        both = (zero[:-distance] * zero[distance:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.003)


@pytest.mark.parametrize("behind_relu", [False, True])
def test_gradients_are_those_of_what_was_kept(behind_relu: bool) -> None:
    torch.manual_seed(0)
    inputs = features().double().requires_grad_()
    layer = Dropout(0.25)
    outputs = layer.after_relu(inputs) if behind_relu else layer(inputs)
    upstream = torch.randn_like(outputs)
    (grad,) = torch.autograd.grad(outputs, inputs, upstream)
    passed = outputs.detach() != 0
    expected = torch.where(passed, upstream / 0.75, 0.0)
    torch.testing.assert_close(grad, expected)
    entering = inputs.detach().relu() if behind_relu else inputs.detach()
    torch.testing.assert_close(outputs.detach()[passed], (entering / 0.75)[passed])


@pytest.mark.parametrize("behind_relu", [False, True])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_nothing_or_everything_is_dropped_at_the_ends(
    behind_relu: bool, probability: float
) -> None:
    inputs = features().requires_grad_()
    layer = Dropout(probability)
    outputs = layer.after_relu(inputs) if behind_relu else layer(inputs)
    outputs.sum().backward()
    expected = inputs.relu() if behind_relu else inputs
    torch.testing.assert_close(outputs, expected * (1 - probability))
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()


def test_evaluation_drops_nothing() -> None:
    layer = Dropout(0.5).eval()
    assert torch.equal(layer(features()), features())
    assert torch.equal(layer.after_relu(features()), features().relu())


def test_the_seed_decides() -> None:
    layer, results = Dropout(0.5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(layer(features()))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(("behind_relu", "bytes_per_element"), [(False, 1), (True, 4)])
def test_one_byte_or_the_result_alone_is_remembered(
    behind_relu: bool, bytes_per_element: int
) -> None:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = features().requires_grad_()
    layer = Dropout(0.1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = layer.after_relu(inputs) if behind_relu else layer(inputs)
    assert sum(kept.values()) == pytest.approx(bytes_per_element * inputs.numel(), abs=16)
    assert (outputs.untyped_storage().data_ptr() in kept) == behind_relu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_stay_what_they_are(dtype: torch.dtype) -> None:
    inputs = features().to(dtype).requires_grad_()
    layer = Dropout(0.5)
    for outputs in (layer(inputs), layer.after_relu(inputs)):
        assert outputs.dtype == dtype
        (grad,) = torch.autograd.grad(outputs.float().sum(), inputs)
        assert grad.dtype == dtype


@pytest.mark.slow
def test_it_can_be_compiled_without_a_break() -> None:
    layer = Dropout(0.5)
    compiled = torch.compile(
        lambda inputs: layer.after_relu(layer(inputs)), backend="aot_eager", fullgraph=True
    )
    inputs = features().requires_grad_()
    outputs = compiled(inputs)
    (grad,) = torch.autograd.grad(outputs.sum(), inputs)
    assert (outputs == 0).float().mean().item() == pytest.approx(0.875, abs=0.02)
    assert torch.equal(grad != 0, outputs != 0)
