"""What is wrong with a run's recipe, told from its values, its dataset's size and its weights."""

import math
from collections.abc import Mapping
from typing import get_args

from torch import Tensor, nn

from saccade.advice import num_steps
from saccade.config import DetectorConfig
from saccade.doctor.findings import Finding, Severity, counted, listed
from saccade.fine_tuning import fine_tuning
from saccade.recipes import RecipeName, for_detector, paper
from saccade.run_config import RunConfig

MOST_RATIO = 4.0
"""Of effective batches: beyond, the learning rate must have followed."""
LEAST_STEPS = 50
"""Of the optimiser: fewer teach nothing."""
MOST_PRIOR = 0.1
"""The probability that a class head may start from."""


def lint_recipe(config: RunConfig, num_images: int) -> list[Finding]:
    """Everything that the configuration and the number of training images tell."""
    return [
        *lint_learning_rate(config),
        *lint_schedule(config, num_images),
        *lint_input(config),
    ]


def effective_batch(config: RunConfig) -> int:
    """Images that one step of the optimiser sees, over all processes."""
    processes = config.launch.devices * config.launch.num_nodes
    return config.batch_size * config.accumulate * processes


def lint_learning_rate(config: RunConfig) -> list[Finding]:
    """A learning rate that was left where another batch had it.

    The references are the recipes of the detector (`saccade.recipes`), such as 2e-4 at 32 images
    for Deformable DETR as published. Adam's rate is taken to grow with the square root of the batch
    (Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022); what
    lies between that and a rate that grows with the batch itself is left alone, and so are
    batches within four times a recipe's. One recipe that agrees is enough.
    """
    references = [for_detector(config.model, name) for name in get_args(RecipeName)]
    if config.weights is not None:
        references += [fine_tuning(each) for each in references]
    judged = [_against(config, each) for each in references]
    if not all(judged):
        return []
    rate = config.optimizer.learning_rate
    same = [each.optimizer.learning_rate == rate for each in references]
    return judged[same.index(True) if any(same) else 0]


def _against(config: RunConfig, reference: RunConfig) -> list[Finding]:
    ratio = effective_batch(config) / effective_batch(reference)
    if 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        return []
    rate = config.optimizer.learning_rate
    root, linear = (reference.optimizer.learning_rate * each for each in (math.sqrt(ratio), ratio))
    least, most = sorted((root, linear))
    too_high, too_low = rate > 1.5 * most, rate < least / 1.5
    if not (too_high if ratio < 1 else too_low):
        return []
    accumulate = max(1, round(config.accumulate / ratio))
    return [
        Finding(
            Severity.LOOK,
            "recipe",
            f"a step sees {counted(effective_batch(config), 'image')}, where the recipe's learning "
            f"rate of {reference.optimizer.learning_rate:g} is for {effective_batch(reference)}: "
            f"{rate:g} is too {'high and may diverge' if too_high else 'low and learns slowly'}",
            f"pass --optimizer.learning-rate {root:.1g}"
            + (f", or --accumulate {accumulate}" if accumulate != config.accumulate else ""),
        )
    ]


def lint_steps(config: RunConfig, num_images: int) -> list[Finding]:
    """A run that is over before it has begun."""
    total = num_steps(config, num_images)
    if total is None or total >= LEAST_STEPS or not num_images:
        return []
    return [
        Finding(
            Severity.HURTS,
            "recipe",
            f"the run takes {counted(total, 'step')} of the optimiser, in "
            f"{counted(config.epochs, 'epoch')} of {counted(num_images, 'image')}, and is over "
            "before anything is learnt",
            f"pass --epochs {math.ceil(config.epochs * 20 * LEAST_STEPS / total)}, or --accumulate "
            "1 with a lower learning rate",
        )
    ]


def lint_schedule(config: RunConfig, num_images: int) -> list[Finding]:
    """Parts of the schedule that the run never reaches."""
    schedule, findings = config.schedule, []
    total = num_steps(config, num_images)
    if total is not None and 0 < schedule.warmup * total < 1:
        findings.append(
            Finding(
                Severity.LOOK,
                "recipe",
                f"the warm-up of {schedule.warmup:g} of the run's {counted(total, 'step')} is over "
                "with the first one",
                "lengthen it with --schedule.warmup, or leave it out with 0",
            )
        )
    if schedule.kind == "step" and schedule.drop_at == 1 and schedule.drop_factor != 1:
        findings.append(
            Finding(
                Severity.LOOK,
                "recipe",
                "the learning rate drops at the end of the run, so that no step is taken at the "
                "lower one, which usually brings the last points of AP",
                f"pass --schedule.drop-at {paper(config.model).schedule.drop_at:.2g}, the "
                "published recipe's",
            )
        )
    return findings


def lint_minutes(config: RunConfig, seconds_per_epoch: float) -> list[Finding]:
    """A run that the clock ends before it has seen every image."""
    if config.minutes is None or config.minutes * 60 >= seconds_per_epoch:
        return []
    seen = config.minutes * 60 / seconds_per_epoch
    return [
        Finding(
            Severity.LOOK,
            "recipe",
            f"--minutes {config.minutes:g} ends the run after about {seen:.0%} of an epoch, which "
            f"takes {seconds_per_epoch / 60:.0f} minutes on this machine",
            "give it more time, or take a smaller preset or input",
        )
    ]


def lint_input(config: RunConfig) -> list[Finding]:
    """Images that evaluation sees at another size than training does."""
    trained = max(config.augmentation.short_sides)
    evaluated = config.model.input.short_side
    if 1 / 1.5 <= evaluated / trained <= 1.5:
        return []
    return [
        Finding(
            Severity.LOOK,
            "recipe",
            f"training resizes images to a shorter side of at most {trained} pixels, evaluation to "
            f"{evaluated}: objects are then of other sizes than those learnt",
            f"pass --augmentation.short-sides {evaluated}, or --model.input.short-side {trained}",
        )
    ]


def lint_weights(model: nn.Module, config: DetectorConfig) -> list[Finding]:
    """What the parameters tell before the first step: class heads that lost their prior, and parts
    that are frozen without having been named.

    Args:
        model: The detector as the run will train it, its weights loaded and adapted.
        config: Of the detector.
    """
    findings = []
    if config.classification == "sigmoid":
        findings += lint_prior(dict(model.named_parameters()))
    frozen = [
        name
        for name, child in model.named_children()
        if name not in ("backbone", *getattr(model, "frozen", ()))
        and (parameters := list(child.parameters()))
        and not any(each.requires_grad for each in parameters)
    ]
    if not any(each.requires_grad for each in model.parameters()):
        findings.append(
            Finding(
                Severity.HURTS,
                "recipe",
                "no parameter of the detector is trained, for all are frozen",
                "train at least the heads",
            )
        )
    elif frozen:
        findings.append(
            Finding(
                Severity.LOOK,
                "recipe",
                f"no parameter of {listed(frozen)} is trained, for all are frozen",
                "unfreeze them, unless that is meant",
            )
        )
    return findings


def lint_prior(parameters: Mapping[str, Tensor]) -> list[Finding]:
    """Class heads whose biases say "object" too often.

    A detector with the focal loss starts every query as background with probability 0.99, a bias
    of -log(99) (focal loss, section 4.1 there). With biases of zero the loss begins a hundred times
    as large, and all of it is background.

    Args:
        parameters: Of a sigmoid detector, by name.
    """
    lost = {}
    for name, tensor in parameters.items():
        if ".class_head" in f".{name}" and name.endswith(".bias"):
            prior = tensor.detach().float().sigmoid().mean().item()
            if prior > MOST_PRIOR:
                lost[name.removesuffix(".bias")] = prior
    if not lost:
        return []
    worst = max(lost.values())
    return [
        Finding(
            Severity.HURTS,
            "recipe",
            f"the class head{'s' if len(lost) > 1 else ''} {listed(list(lost), most=3)} start from "
            f"a probability of {worst:.2g}, expected about 0.01 (a bias of -log 99 = "
            f"{-math.log(99):.1f}): the first steps push background down and undo what was learnt",
            "set the biases, or load weights with class_names so that heads are adapted by name",
        )
    ]


def lint_gradients(unreached: list[str]) -> list[Finding]:
    """Modules that a training step did not reach.

    Args:
        unreached: Their paths; see `saccade.training.watch.GradientTracker`.
    """
    if not unreached:
        return []
    return [
        Finding(
            Severity.HURTS,
            "recipe",
            f"no gradient reaches {listed(unreached)} in a training step, so that they stay random",
            "look at the loss weights, or freeze them",
        )
    ]
