"""evaluations.jsonl: one line per evaluation of a run."""

import json
import os
from pathlib import Path

from saccade.training.checkpoint import Progress


class EvaluationRecords:
    """The numbers of a run's evaluations, each kept once however often the run is resumed."""

    def __init__(self, file: Path) -> None:
        """Read nothing yet.

        Args:
            file: Need not exist.
        """
        self.file = file

    def start(self, resume: bool) -> None:
        """Forget another run's, or on resuming what was cut off while it was written."""
        if not resume:
            self.file.unlink(missing_ok=True)
        elif self.file.exists():
            partial = self.file.with_suffix(".partial")
            partial.write_text("".join(f"{line}\n" for line in self._lines()), "utf-8")
            os.replace(partial, self.file)

    def read(self) -> list[dict[str, float]]:
        """All records, in order; a line that is not complete is left out."""
        records = [json.loads(line) for line in self._lines()]
        return [{name: float(value) for name, value in each.items()} for each in records]

    def add(self, progress: Progress, numbers: dict[str, float]) -> None:
        """Write the numbers found at a moment of the run."""
        record: dict[str, float] = {"epoch": progress.epoch, "step": progress.step}
        record |= {"minutes": progress.seconds / 60, **numbers}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def at(self, progress: Progress) -> dict[str, float] | None:
        """The numbers of this moment, None if it was not evaluated."""
        for record in self.read():
            if (record.pop("epoch"), record.pop("step")) == (progress.epoch, progress.step):
                del record["minutes"]
                return record
        return None

    @property
    def best_ap(self) -> float:
        """The best AP so far, below zero before the first."""
        return max((record["AP"] for record in self.read()), default=-2.0)

    @property
    def best(self) -> dict[str, float]:
        """AP, AP50 and AP75 of the evaluation with the best AP, by names that say so."""
        best = max(self.read(), key=lambda record: record["AP"], default={})
        return {f"best_{name}": best[name] for name in ("AP", "AP50", "AP75") if name in best}

    def _lines(self) -> list[str]:
        lines = self.file.read_text("utf-8").splitlines() if self.file.exists() else []
        return [line for line in lines if line.endswith("}")]
