"""What a training run starts from: random weights, or those of a file; and what of it is frozen."""

from saccade.inference.predictor import Detector
from saccade.model import DetectorModel
from saccade.run_config import RunConfig
from saccade.weights import LoadReport, load_into


def new_detector(config: RunConfig, resumed: bool = False) -> Detector:
    """The detector that a run starts from, its frozen parts frozen.

    Args:
        config: The run.
        resumed: The weights come from the run's checkpoint: none are looked for here.

    Raises:
        ValueError: If the run's weights cannot be read or do not fit its model, or a part is to be
            frozen that does not exist, has random weights, or would leave nothing to train.
    """
    pretrained = config.pretrained_backbone and config.weights is None and not resumed
    model = DetectorModel(config.model, pretrained)
    report = None
    if config.weights is not None and not resumed:
        loaded = load_into(config.weights, config.model, model.state_dict())
        model.load_state_dict(loaded.state)
        report = loaded.report
    model.freeze(config.freeze)
    if not resumed:
        _check_trained(config, report)
    return Detector(config.model, model, report)


def _check_trained(config: RunConfig, report: LoadReport | None) -> None:
    """Raises ValueError if a part is frozen that nothing has trained."""
    for part in config.freeze:
        if report is None:
            small = config.model.backbone.name == "small-resnet"
            known = config.pretrained_backbone and not small
            if not (known and part.split(".")[0] == "backbone"):
                raise ValueError(
                    f"freeze names {part}, which has random weights without --weights: start from "
                    "trained ones, or leave it out."
                )
            continue
        random = [key for key in report.random if key.startswith(f"{part}.")]
        if random:
            raise ValueError(
                f"freeze names {part}, but {random[0]} is not, or not all, from "
                f"{config.weights} and must be trained: freeze modules without it, such as "
                "decoder.layers."
            )
