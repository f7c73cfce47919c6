"""The doctor's quick form: what `saccade train` says before its first step."""

from pathlib import Path

from torch import nn

from saccade.data import Annotations, Split
from saccade.doctor.box_checks import box_findings
from saccade.doctor.class_checks import class_findings
from saccade.doctor.crowding import crowding_findings
from saccade.doctor.findings import Finding, Severity, counted, hurts, share
from saccade.doctor.label_numbers import number_findings
from saccade.doctor.recipe_lint import lint_recipe, lint_weights
from saccade.doctor.size_checks import size_findings
from saccade.doctor.tables import Tables, tabulate
from saccade.run_config import RunConfig


def quick_findings(
    config: RunConfig,
    train: tuple[Split, Annotations],
    val: tuple[Split, Annotations],
    model: nn.Module,
) -> list[Finding]:
    """What is sure to hurt as far as annotations tell, and all that the recipe's lint finds.

    Args:
        config: The run, with the classes of its dataset.
        train: The split that is trained on.
        val: The split that is evaluated.
        model: The detector, with the weights that it starts from.
    """
    same_name = config.train_split == config.val_split
    val_name = f"{config.val_split} (evaluated)" if same_name else config.val_split
    read = {config.train_split: train, val_name: val}
    tables = tabulate(
        {name: (split.images, each) for name, (split, each) in read.items()},
        config.train_split,
        val_name,
    )
    splits = {name: split for name, (split, _) in read.items()}
    of_data = [
        *number_findings(tables, splits),
        *class_findings(tables),
        *box_findings(tables, splits),
        *crowding_findings(tables, config),
        *size_findings(tables, config),
        *shared_files(tables),
    ]
    num_images = len(train[1].images)
    of_recipe = [*lint_recipe(config, num_images), *lint_weights(model, config.model)]
    return [*hurts(of_data), *of_recipe]


def shared_files(tables: Tables) -> list[Finding]:
    """Images that two splits list by the same path."""
    train = tables.of_training
    findings = []
    for table in tables.held_out if train else []:
        own: set[Path] = set(table.files())
        shared = own & set(train.files() if train else ())
        if shared:
            findings.append(
                Finding(
                    Severity.HURTS,
                    "images in two splits",
                    f"{counted(len(shared), 'image')} of {table.name} "
                    f"({share(len(shared), len(own))}) are trained on too: what is learnt by heart "
                    "is counted as found",
                    "set other images apart to evaluate on",
                )
            )
    return findings
