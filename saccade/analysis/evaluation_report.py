"""The report of an evaluation: one HTML file that needs nothing beside it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from saccade.analysis.draw import save_image
from saccade.analysis.evaluation_plots import (
    draw_calibration,
    draw_confusion,
    draw_gains,
    draw_precision_recall,
    draw_thresholds,
)
from saccade.analysis.evaluation_subject import Subject, conditions
from saccade.analysis.run_report import training_blocks
from saccade.analysis.study.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
)
from saccade.analysis.worst_images import draw_errors, worst_images
from saccade.data import DetectionDataset
from saccade.doctor.findings import counted
from saccade.evaluation import CocoEvaluator, CocoResult
from saccade.evaluation.calibration import calibration
from saccade.evaluation.confusion import confused_pairs, confusion
from saccade.evaluation.errors import KINDS, Errors, decompose, gains
from saccade.evaluation.matched import Matched, collected, match
from saccade.evaluation.precision_recall import Cut, best_cut, cut_at
from saccade.evaluation.report import percent

MOST_PAIRS = 10
"""Classes taken for others that are listed."""


def write_report(
    file: Path,
    subject: Subject,
    evaluator: CocoEvaluator,
    result: CocoResult,
    num_images: int = 6,
) -> None:
    """Write the report of what `evaluator` has collected.

    COCO's numbers, over classes and sizes; precision against recall; TIDE's kinds of
    errors; the confusion matrix; calibration; the worst images; configuration, machine and command.

    Args:
        file: The HTML file; folders above it are made.
        subject: What was evaluated.
        evaluator: With the detections of every image.
        result: What it computed.
        num_images: How many of the worst images are shown.

    Raises:
        OSError: If the file cannot be written, or one of the images not be read.
    """
    found, objects = collected(evaluator)
    names = list(evaluator.annotations.categories.values())
    matched = match(found, objects, max_detections=evaluator.max_detections)
    cut = best_cut(matched)
    seen = matched if cut is None else matched.above(cut.score)
    errors = decompose(seen)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        blocks = [
            *_numbers(evaluator, result, matched),
            *training_blocks(Path(subject.weights).parent, place),
            *_classes(result, matched, names, cut),
            *_precision_recall(matched, names, cut, place),
            *_errors(decompose(matched), errors, names, cut, place),
            *_confusion(seen, names, cut, place),
            *_calibration(matched, cut, place),
            *_worst(errors, names, subject.dataset, num_images, place),
            *conditions(subject),
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        title = f"{'/'.join(Path(subject.weights).parts[-2:])} on {subject.data}"
        file.write_text(to_html(title, blocks), "utf-8")


def _numbers(evaluator: CocoEvaluator, result: CocoResult, matched: Matched) -> list[Block]:
    crowds = int(matched.objects.crowds.sum())
    sentence = (
        f"{counted(len(evaluator.annotations.images), 'image')}, "
        f"{counted(int((~matched.objects.crowds).sum()), 'object')} of "
        f"{counted(len(evaluator.annotations.categories), 'class', 'classes')}"
        + (f" and {counted(crowds, 'crowd')}" if crowds else "")
        + f"; up to {evaluator.max_detections} detections count per image and class. All figures "
        "are percentages, - where nothing is to find."
    )
    areas = [entry.area for entry in evaluator.annotations.objects if not entry.crowd]
    small, medium = (sum(area < side**2 for area in areas) for side in (32, 96))
    of_all = [result.AP, result.AP50, result.AP75, result.AR1, result.AR10, result.AR100]
    rows: list[list[str | float]] = [
        ["all sizes", str(len(areas)), *of_all],
        ["small: below 32 x 32 pixels", str(small), result.APs, "", "", "", "", result.ARs],
        ["medium: below 96 x 96", str(medium - small), result.APm, "", "", "", "", result.ARm],
        ["large", str(len(areas) - medium), result.APl, "", "", "", "", result.ARl],
    ]
    most = evaluator.max_detections
    return [
        Paragraph(sentence),
        Heading("Average precision"),
        Table(
            ["objects", "how many", "AP", "AP50", "AP75", "AR1", "AR10", f"AR{most}"],
            [[each if isinstance(each, str) else percent(each) for each in row] for row in rows],
            "ours",
        ),
        Paragraph(
            "AP is COCO's: the mean over IoU 0.50, 0.55 ... 0.95; AP50 and AP75 are those of one "
            f"IoU; AR1, AR10 and AR{most} are the recall with so many detections per image and "
            "class, averaged over the same IoUs. Sizes are the areas that the annotations state."
        ),
    ]


def _classes(
    result: CocoResult, matched: Matched, names: Sequence[str], cut: Cut | None
) -> list[Block]:
    counts = matched.objects.count(len(names))
    header = ["class", "objects", "AP", "AP50"]
    if cut is not None:
        header += [f"{what} at {cut.score:.2f}" for what in ("precision", "recall", "F1")]
    rows = []
    for k, name in enumerate(names):
        row = [name, str(counts[k])]
        row += [percent(result.per_class[name]), percent(result.per_class_ap50[name])]
        if cut is not None:
            own = cut_at(matched, cut.score, k)
            row += [percent(each) for each in (own.precision, own.recall, own.f1)]
        rows.append(row)
    blocks: list[Block] = [Heading("Classes"), Table(header, rows, "ours")]
    if result.undetected:
        blocks.append(Paragraph(f"Unknown to the detector: {', '.join(result.undetected)}."))
    return blocks


def _precision_recall(
    matched: Matched, names: Sequence[str], cut: Cut | None, place: Path
) -> list[Block]:
    draw_precision_recall(matched, names, place / "precision-recall.png")
    curves = Picture(
        place / "precision-recall.png",
        "At IoU 0.5, each precision the best at this recall or beyond, as COCO has it; the mean "
        "height of a curve is its class's AP50.",
    )
    blocks: list[Block] = [Heading("Precision and recall"), curves]
    if cut is None:
        return blocks
    draw_thresholds(matched, cut, place / "thresholds.png")
    return [
        *blocks,
        Picture(place / "thresholds.png", "All classes together, at IoU 0.5."),
        Paragraph(
            f"Showing what scores at least {cut.score:.2f} gives the highest F1, "
            f"{percent(cut.f1)}: precision {percent(cut.precision)}, recall "
            f"{percent(cut.recall)}. It is chosen on these very images; what follows cuts there "
            "where it says so."
        ),
    ]


def _errors(
    every: Errors, seen: Errors, names: Sequence[str], cut: Cut | None, place: Path
) -> list[Block]:
    gained = gains(every, len(names))
    draw_gains(gained, place / "gains.png")
    counts = seen.counts
    at = "" if cut is None else f" at {cut.score:.2f}"
    rows = [
        [f"{name}: {meaning}", f"{100 * gained[name]:.1f}", str(counts[name])]
        for name, meaning in KINDS.items()
    ]
    return [
        Heading("What goes wrong"),
        Picture(place / "gains.png", "What AP50 would gain if one kind of error alone were gone."),
        Table(["kind", "AP50 to gain", f"errors{at}"], rows, "ours"),
        Paragraph(
            "After TIDE (Bolya et al., ECCV 2020). The gains count detections of every score and "
            "do not add up: errors of one kind hide those of another."
        ),
    ]


def _confusion(seen: Matched, names: Sequence[str], cut: Cut | None, place: Path) -> list[Block]:
    counts = confusion(seen, len(names))
    draw_confusion(counts, names, place / "confusion.png")
    which = "All detections" if cut is None else f"Detections that score at least {cut.score:.2f}"
    caption = (
        f"{which}; pairs of one class first, then across classes, down to IoU 0.5. At the right "
        "what was not found, below what was found where nothing is marked."
    )
    pairs = [
        f"{names[row]} found as {names[column]}: {times}"
        for row, column, times in confused_pairs(counts)[:MOST_PAIRS]
    ]
    blocks: list[Block] = [
        Heading("Which class is taken for which"),
        Picture(place / "confusion.png", caption),
    ]
    return [*blocks, Bullets(pairs)] if pairs else blocks


def _calibration(matched: Matched, cut: Cut | None, place: Path) -> list[Block]:
    if cut is None:
        return []
    result, seen = calibration(matched), calibration(matched.above(cut.score))
    draw_calibration(result, place / "calibration.png")
    return [
        Heading("Are scores probabilities?"),
        Picture(
            place / "calibration.png",
            "How many detections of a score are right, at IoU 0.5; the red marks are where they "
            "would be if scores were probabilities.",
        ),
        Paragraph(
            f"Expected calibration error, the mean gap of the two: {percent(result.error)} over "
            f"all {result.counts.sum()} detections, {percent(seen.error)} over the "
            f"{seen.counts.sum()} that score at least {cut.score:.2f}."
        ),
    ]


def _worst(
    errors: Errors, names: Sequence[str], dataset: DetectionDataset, count: int, place: Path
) -> list[Block]:
    pictures: list[Block] = []
    for rank, (image, weight) in enumerate(worst_images(errors, count)):
        file = dataset.file_of(image)
        if file is None:
            continue
        save_image(draw_errors(errors, names, image, file), place / f"worst-{rank}.jpg")
        pictures.append(Picture(place / f"worst-{rank}.jpg", f"{file.name}: weight {weight:.1f}"))
    if not pictures:
        return []
    return [
        Heading("The worst images"),
        Paragraph(
            "Left what was found, right what is marked; right ones are green, errors red with "
            "their kind, crowds brown. A wrong detection weighs its score, an object not found 1."
        ),
        *pictures,
    ]
