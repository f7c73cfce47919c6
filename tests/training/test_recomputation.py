"""Activation checkpointing: the same numbers from less memory."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.run import train
from saccade.run_config import Precision, RunConfig
from saccade.structures import Batch, Targets
from saccade.training import SetCriterion
from saccade.training.checkpoint import load_checkpoint
from saccade.training.loss_model import LossModel
from saccade.training.recomputation import recomputing
from saccade.training.sharding import parts
from tests.conftest import small_config
from tests.training.test_resume import assert_same


def detector(kind: str, dropout: float = 0.0) -> DetectorModel:
    config = small_config(kind)
    encoder, decoder = (replace(x, dropout=dropout) for x in (config.encoder, config.decoder))
    torch.manual_seed(0)
    return DetectorModel(replace(config, encoder=encoder, decoder=decoder))


def step(model: DetectorModel, kind: str, precision: Precision = "32") -> dict[str, Tensor]:
    """Losses, gradients and statistics after one step, of which two batches are a part."""
    config = small_config(kind)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    losses_of = LossModel(model, criterion, precision)
    found: dict[str, Tensor] = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        batch = Batch.from_images([torch.randn(3, 64, 96), torch.randn(3, 64, 64)])
        boxes = torch.tensor([[4.0, 8.0, 40.0, 50.0]])
        targets = [Targets(boxes, torch.tensor([1]), size) for size in batch.sizes]
        losses = losses_of(batch, targets)
        criterion.total(losses).backward()
        found |= {f"{name} {seed}": loss.detach() for name, loss in losses.items()}
        # Nothing that the backward pass draws reaches what comes next.
        found[f"random numbers {seed}"] = torch.get_rng_state()
    found |= {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return found | {name: each.clone() for name, each in model.named_buffers()}


@pytest.mark.parametrize("kind", ["two-stage", "detr", "tsp-fcos"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_are_the_same_bits(kind: str, precision: Precision) -> None:
    """With dropout, and with batch norms that count along."""
    plain, saving = detector(kind, dropout=0.1), detector(kind, dropout=0.1)
    expected = step(plain, kind, precision)
    with recomputing(parts(saving)):
        assert_same(step(saving, kind, precision), expected)


def test_parts_run_twice_and_names_stay() -> None:
    model = detector("two-stage")
    names = list(model.state_dict())
    runs: list[nn.Module] = []
    inner = [part.ffn for part in (*model.encoder.layers, *model.decoder.layers)]
    for module in inner:
        module.register_forward_pre_hook(lambda module, *_: runs.append(module))
    with recomputing(parts(model)):
        assert list(model.state_dict()) == names
        step(model, "two-stage")
    assert len(runs) == 2 * 2 * len(inner)
    step(model, "two-stage")
    assert len(runs) == 3 * 2 * len(inner)
    copy.deepcopy(model)


def test_nothing_is_recomputed_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("saccade.training.recomputation.checkpoint", fail)
    model = detector("detr").eval()
    with recomputing(parts(model)), torch.no_grad():
        model(Batch.from_images([torch.randn(3, 64, 64)]))


def peak(model: DetectorModel, inside: Callable[[], AbstractContextManager[None]]) -> int:
    """The most bytes that wait for the backward pass at one time."""
    now = most = 0
    seen: dict[int, int] = {}

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor, self.place = tensor, tensor.untyped_storage().data_ptr()
            if not isinstance(tensor, nn.Parameter) and not seen.get(self.place):
                now += tensor.untyped_storage().nbytes()
                most = max(most, now)
            seen[self.place] = seen.get(self.place, 0) + 1

        def __del__(self) -> None:
            nonlocal now
            seen[self.place] -= 1
            if not isinstance(self.tensor, nn.Parameter) and not seen[self.place]:
                now -= self.tensor.untyped_storage().nbytes()

    torch.manual_seed(1)
    images = [torch.randn(3, 192, 192), torch.randn(3, 192, 192)]
    with inside(), torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        predictions = model(Batch.from_images(images))
        (predictions.logits.sum() + predictions.boxes.sum()).backward()
    return most


def test_less_waits_for_the_backward_pass() -> None:
    model = detector("learned")
    plain = peak(model, nullcontext)
    saving = peak(model, lambda: recomputing(parts(model)))
    assert saving < 0.6 * plain


def test_a_run_with_it_equals_one_without(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, epochs=1)
    train(run, tmp_path / "plain")
    detector = train(replace(run, activation_checkpointing=True), tmp_path / "saving")
    states = [load_checkpoint(tmp_path / name / "last.ckpt") for name in ("plain", "saving")]
    assert_same(states[0].model, states[1].model)
    assert_same(states[0].optimizer, states[1].optimizer)
    assert not any("forward" in vars(module) for module in detector.model.modules())
