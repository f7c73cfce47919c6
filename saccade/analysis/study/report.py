"""The report of a study: report.md, report.html and their pictures, from what its folder holds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from saccade.analysis.study.conditions import conditions
from saccade.analysis.study.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    Table,
    to_html,
    to_markdown,
)
from saccade.analysis.study.files import write_text
from saccade.analysis.study.findings import cautions, convergence
from saccade.analysis.study.plots import draw_curves, draw_finals, draw_layers
from saccade.analysis.study.results import RowResult, StudyResult, read_study

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PUBLISHED_HEADER = ("", "epochs", *NUMBERS, "source")
KINDS = (
    ("cross_attention", "the decoder's cross-attention"),
    ("attention", "the encoder's attention"),
)


def write_report(out: Path) -> Path:
    """Write ``report.md``, ``report.html`` and the pictures into a study's folder.

    Runs may still be going on: their rows are marked.

    Returns:
        The HTML file.

    Raises:
        ValueError: If the folder holds no study, or none of its runs has begun.
    """
    result = read_study(out)
    if not result.rows:
        raise ValueError(f"{out} holds no run yet: there is nothing to report.")
    title = f"{result.study.title}: {result.settings.data.name}"
    blocks = [
        Paragraph(result.study.question),
        *_state(result),
        *_measured(result, out),
        *_published(result),
        *_sparsity(result, out),
        *conditions(result),
    ]
    write_text(out / "report.md", to_markdown(title, blocks))
    file = out / "report.html"
    write_text(file, to_html(title, blocks))
    return file


def _state(result: StudyResult) -> list[Block]:
    runs = [run for row in result.rows for run in row.runs]
    open_runs = [run for run in runs if run.state != "done"]
    blocks: list[Block] = []
    if open_runs:
        done = len(runs) - len(open_runs)
        blocks.append(Paragraph(f"Not complete: of {len(runs)} runs begun, {done} are done."))
    if result.missing:
        rows = ", ".join(f'"{row.label}"' for row in result.missing)
        blocks.append(Paragraph(f"Not trained: {rows}."))
    problems = [
        f"{row.row.label}, seed {run.seed}, {run.state}: {run.problem}"
        for row in result.rows
        for run in row.runs
        if run.problem
    ]
    return [*blocks, Bullets(problems)] if problems else blocks


def _measured(result: StudyResult, out: Path) -> list[Block]:
    seeds = max(len(row.counted) for row in result.rows)
    after = "" if seeds < 2 else "; mean ± standard deviation over the seeds (n of them)"
    said = convergence(result) if result.study.name == "convergence" else []
    notes = cautions(result)
    return [
        Heading("What was measured"),
        *([Bullets(said)] if said else []),
        Table(_measured_header(seeds), [_row(row, seeds) for row in result.rows], "ours"),
        Paragraph(
            "AP in percent on the validation images, after the last epoch; best: the highest of "
            f"all evaluations{after}. M: parameters in millions; G: multiply-adds of an image at "
            "the size it is trained at, in billions; minutes: of training, evaluations not "
            "counted."
        ),
        *([Bullets(notes)] if notes else []),
        *_pictures(result, seeds, out),
    ]


def _pictures(result: StudyResult, seeds: int, out: Path) -> list[Picture]:
    if not any(row.finals("AP") for row in result.rows):
        return []
    curves, finals = out / "curves.png", out / "finals.png"
    draw_curves(result.rows, curves)
    draw_finals(result.rows, finals)
    shaded = "" if seeds < 2 else "; shaded from the worst to the best seed"
    whiskers = "" if seeds < 2 else "; whiskers reach from the worst to the best seed"
    long = any(row.row.times > 1 for row in result.rows)
    dashes = "; dashes: where the detectors that train longer end" if long else ""
    return [
        Picture(curves, f"AP against epochs{shaded}{dashes}."),
        Picture(finals, f"Final AP of all objects and of the small ones{whiskers}."),
    ]


def _measured_header(seeds: int) -> list[str]:
    return ["", "M", "G", "epochs", "minutes", *NUMBERS, "best AP", *(["n"] if seeds > 1 else [])]


def _row(row: RowResult, seeds: int) -> list[str]:
    costs = row.costs
    counted = row.counted
    reached = [run.last["epochs"] for run in counted if run.last]
    cells = [
        row.row.label
        + {"done": "", "unfinished": " (unfinished)", "failed": " (failed)"}[row.state],
        f"{costs.parameters / 1e6:.1f}" if costs else "-",
        f"{costs.flops / 1e9:.2f}" if costs else "-",
        _epochs(row, reached),
        f"{mean(run.last['minutes'] for run in counted if run.last):.1f}" if reached else "-",
        *(_spread(row.finals(name)) for name in NUMBERS),
        _spread(row.bests()),
    ]
    return [*cells, str(len(reached))] if seeds > 1 else cells


def _epochs(row: RowResult, reached: Sequence[float]) -> str:
    if not reached:
        return "-"
    text = f"{mean(reached):.0f}"
    config = row.config
    if row.state == "done" or config is None or config.minutes is not None:
        return text
    return f"{text} of {config.epochs}"


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, in percent."""
    if not values:
        return "-"
    text = f"{100 * mean(values):.1f}"
    return text if len(values) == 1 else f"{text} ± {100 * stdev(values):.1f}"


def _published(result: StudyResult) -> list[Block]:
    rows = [
        [
            row.label,
            str(row.published.epochs),
            *(f"{number:.1f}" for number in row.published.numbers),
            *("-" for _ in NUMBERS[len(row.published.numbers) :]),
            row.published.source,
        ]
        for row in result.study.pick(result.settings.size)
        if row.published is not None
    ]
    if not rows:
        return []
    how = (
        "Much smaller detectors, from random weights, were measured above"
        if result.settings.size == "nano"
        else "Other images were measured above"
    )
    return [
        Heading("What is published, on COCO"),
        Paragraph(
            "Not measured here: the figures of the authors, on other images. "
            f"{how}: compare the order of the rows and their distances, not the values."
        ),
        Table(PUBLISHED_HEADER, rows, "published"),
    ]


def _sparsity(result: StudyResult, out: Path) -> list[Block]:
    pictures = [
        Picture(file, f"Sparsity of {said}, the mean over the seeds; scales differ.")
        for kind, said in KINDS
        if draw_layers(result.rows, kind, file := out / f"sparsity-{kind.replace('_', '-')}.png")
    ]
    if not pictures:
        return []
    return [
        Heading("How concentrated attention becomes"),
        Paragraph(
            "TSP blames DETR's slow convergence on its decoder's cross-attention, whose sparsity, "
            "1/m of the negative entropy over m keys, still rises after 100 epochs (section 3.2). "
            "Zero is attention to a single key; the more keys there are, the closer to zero all "
            "values lie."
        ),
        *pictures,
    ]
