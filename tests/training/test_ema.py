"""The average of the weights: what it is, and where it takes their place."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from saccade.run import train
from saccade.run_config import RunConfig
from saccade.split_evaluation import SplitEvaluation
from saccade.training.checkpoint import load_checkpoint
from saccade.training.ema import WeightAverage
from tests.training.test_resume import assert_same


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    net[0].bias.requires_grad_(False)
    net.register_buffer("table", torch.randn(3))
    return net


def test_it_is_the_moving_average_with_its_warm_up(net: nn.Sequential) -> None:
    average = WeightAverage(net, 0.3)
    expected = {name: each.double() for name, each in net.state_dict().items()}
    decays = []
    for step in range(6):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter) * parameter.requires_grad
        net(torch.randn(2, 3, 5, 5))
        decay = min(0.3, (1 + step) / (10 + step))
        decays.append(average.present_decay)
        average.update()
        for name, each in net.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * each.double()
    assert decays == pytest.approx([0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3])
    with average.applied():
        for name, each in net.state_dict().items():
            if name != "1.num_batches_tracked":
                torch.testing.assert_close(each.double(), expected[name], rtol=1e-5, atol=1e-6)
    # The statistics of the norm are not those of the last batch.
    assert not torch.equal(average.state_dict()["averages"]["1.running_mean"], net[1].running_mean)


def test_only_what_changes_is_kept_twice(net: nn.Sequential) -> None:
    averages = WeightAverage(net, 0.9).state_dict()["averages"]
    trained = {"0.weight", "1.weight", "1.bias", "2.weight", "2.bias"}
    assert averages.keys() == trained | {"1.running_mean", "1.running_var"}
    assert WeightAverage(net, 0.0).state_dict() == {"updates": 0, "averages": {}}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_weights_that_train_come_back_whatever_happens(
    net: nn.Sequential, error: type[BaseException] | None
) -> None:
    average = WeightAverage(net, 0.9)
    places = [each.data_ptr() for each in net.state_dict().values()]
    with torch.no_grad():
        net[0].weight *= 2
    before = {name: each.clone() for name, each in net.state_dict().items()}
    try:
        with average.applied():
            assert torch.equal(net[0].weight, before["0.weight"] / 2)
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        assert error is not None
    assert_same(dict(net.state_dict()), before)
    assert [each.data_ptr() for each in net.state_dict().values()] == places


def test_without_a_decay_the_weights_take_the_place_of_their_average(net: nn.Sequential) -> None:
    average = WeightAverage(net, 0.0)
    with torch.no_grad():
        net[0].weight += 1
    before = net[0].weight.clone()
    average.update()
    average.apply()
    assert torch.equal(net[0].weight, before)


def test_other_frozen_parts_are_told_on_resuming(net: nn.Sequential) -> None:
    state = WeightAverage(net, 0.9).state_dict()
    net[2].bias.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"2\.bias is only in one of them\): resume .* same frozen"
    ):
        WeightAverage(net, 0.9).load_state_dict(state)


def test_averaged_weights_are_evaluated_and_saved(run: RunConfig, tmp_path: Path) -> None:
    """best/ and last/ hold the average, last.ckpt both; the numbers are the average's."""
    run = replace(run, ema=0.9, num_evaluations=1)
    seen = []
    original = SplitEvaluation.__call__

    def look(self: SplitEvaluation) -> object:
        seen.append({name: x.clone() for name, x in self.detector.model.state_dict().items()})
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitEvaluation, "__call__", look)
        detector = train(run, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert checkpoint.average is not None
    averages = checkpoint.average["averages"]
    assert checkpoint.average["updates"] == checkpoint.progress.step == 4
    for saved in (
        seen[0],
        load_file(tmp_path / "run" / "best" / "model.safetensors"),
        load_file(tmp_path / "run" / "last" / "model.safetensors"),
        detector.model.state_dict(),
    ):
        for name, value in averages.items():
            assert torch.equal(saved[name], value), name
    assert any(not torch.equal(checkpoint.model[name], x) for name, x in averages.items())


def test_averaging_does_not_change_how_the_weights_train(run: RunConfig, tmp_path: Path) -> None:
    train(run, tmp_path / "plain")
    train(replace(run, ema=0.9), tmp_path / "averaged")
    states = [load_checkpoint(tmp_path / name / "last.ckpt") for name in ("plain", "averaged")]
    assert_same(states[0].model, states[1].model)
    assert_same(states[0].optimizer, states[1].optimizer)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "0.9"])
def test_a_decay_that_forgets_nothing_or_all_is_refused(run: RunConfig, decay: float) -> None:
    with pytest.raises(ValueError, match=r"ema is .*: expected a decay per step below 1, such as"):
        replace(run, ema=decay)
