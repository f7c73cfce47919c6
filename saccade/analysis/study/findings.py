"""What the curves of a study say, calculated and put into sentences."""

from collections.abc import Sequence
from statistics import mean

from saccade.analysis.study.results import RowResult, RunResult, StudyResult

LEAST_AP = 0.01
"""A detector that ends below has not learned to detect: nobody is compared with it."""
FEW_OBJECTS = 50
"""Below this many objects of a size, their AP says little."""


def first_epoch(run: RunResult, ap: float) -> float | None:
    """When a run's evaluations first show at least this AP, in [0, 1]; None if never."""
    return next((record["epochs"] for record in run.records if record["AP"] >= ap), None)


def convergence(result: StudyResult) -> list[str]:
    """When the Deformable DETRs reach what the rows that train longer end with, in sentences."""
    done = [each for each in result.rows if each.state == "done" and each.finals("AP")]
    long = [each for each in done if each.row.times > 1]
    short = [each for each in done if each.row.key.startswith("deformable")]
    return [_sentences(goal, short) for goal in long if short]


def cautions(result: StudyResult) -> list[str]:
    """What a reader should know before comparing figures."""
    found = []
    names = ("small", "medium", "large")
    for name, number in zip(names, result.settings.data.val_objects, strict=True):
        if number < FEW_OBJECTS:
            objects = f"{number} {name} object{'' if number == 1 else 's'}"
            found.append(f"The validation images hold {objects}: their AP says little.")
    if max((len(each.counted) for each in result.rows), default=0) < 2:
        found.append("With one seed, differences of a few points may be chance.")
    return found


def _sentences(goal: RowResult, rows: Sequence[RowResult]) -> str:
    ap, length = mean(goal.finals("AP")), _length(goal)
    end = f"{goal.row.label} ends with AP {100 * ap:.1f} after {_count(length)} epochs"
    if ap < LEAST_AP:
        return f"{end}: too little to compare with."
    first = "; ".join(f"{row.row.label} {_when(row, ap, length)}" for row in rows)
    return f"{end}. The first evaluation with as much: {first}. {_compared(goal, rows)}"


def _when(row: RowResult, ap: float, length: float) -> str:
    epochs = [first_epoch(run, ap) for run in row.counted]
    reached = [each for each in epochs if each is not None]
    if not reached:
        return f"none within {_count(_length(row))} epochs"
    some = "" if len(reached) == len(epochs) else f", with {len(reached)} of {len(epochs)} seeds"
    spread = f" ({_count(min(reached))} to {_count(max(reached))})" if len(reached) > 1 else ""
    share = 100 * mean(reached) / length
    percent = f"{share:.1f}" if share < 9.95 else f"{share:.0f}"
    return f"at epoch {_count(mean(reached))}{spread}, {percent} % of these epochs{some}"


def _compared(goal: RowResult, rows: Sequence[RowResult]) -> str:
    """How the rows end beside the goal."""
    parts = []
    for name, said in (("AP", "AP"), ("APs", "AP of small objects")):
        if goal.finals(name) and all(row.finals(name) for row in rows):
            leads = [100 * (mean(row.finals(name)) - mean(goal.finals(name))) for row in rows]
            parts.append(f"{_listed([f'{round(lead, 1) + 0.0:+.1f}' for lead in leads])} in {said}")
    epochs = _listed(list(dict.fromkeys(_count(_length(row)) for row in rows)))
    return f"Their own ends, after {epochs} epochs, differ from it by {', and by '.join(parts)}."


def _length(row: RowResult) -> float:
    """Epochs that its runs have trained, the mean."""
    return mean(run.last["epochs"] for run in row.counted if run.last)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _count(epochs: float) -> str:
    return f"{epochs:.0f}" if epochs >= 9.95 or epochs == round(epochs) else f"{epochs:.1f}"


def seeds_of(rows: Sequence[RowResult]) -> list[int]:
    """Every seed that any row has been trained with."""
    return sorted({run.seed for row in rows for run in row.runs})
