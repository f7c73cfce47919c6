"""What of a detector's detections people want."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch

from saccade.inference.detections import check_thresholds
from saccade.model import Found, select
from saccade.structures import Predictions


@dataclass(frozen=True)
class Wanted:
    """Which detections are kept."""

    threshold: float = 0.3
    """Lowest score, 0 to 1."""
    top_k: int = 100
    """Most detections per image, or per tile of one."""
    labels: frozenset[int] | None = None
    """Of the classes that count; None for all."""

    def __post_init__(self) -> None:
        check_thresholds(self.threshold, self.top_k)

    def choose(self, predictions: Predictions, classification: str) -> list[Found]:
        """The best detections of wanted classes in each image, on the CPU, of whatever score.

        Other classes take no part of the `top_k`, and change no score.
        """
        if self.labels is None:
            chosen = select(predictions, classification, self.top_k)
        else:
            everything = select(predictions, classification, predictions.logits[0].numel())
            chosen = [self._of_labels(found) for found in everything]
        return [taken(found, slice(None)) for found in chosen]

    def _of_labels(self, found: Found) -> Found:
        known = torch.tensor(sorted(self.labels or ()), device=found.labels.device)
        return taken(found, torch.isin(found.labels, known).nonzero()[: self.top_k, 0])


def taken(found: Found, rows: torch.Tensor | slice) -> Found:
    """Some of the detections, on the CPU."""
    return replace(
        found,
        boxes=found.boxes[rows].cpu(),
        scores=found.scores[rows].cpu(),
        labels=found.labels[rows].cpu(),
        queries=found.queries[rows].cpu(),
    )


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> frozenset[int] | None:
    """The labels of the classes of these names; None, which is all, if there are no names.

    Raises:
        ValueError: If the detector has no such class.

    >>> sorted(labels_of(["dog"], ["cat", "dog"]))
    [1]
    """
    for name in names:
        if name not in class_names:
            small = {known.casefold(): known for known in class_names}
            close = get_close_matches(name.casefold(), small, n=1, cutoff=0)
            shown = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
            raise ValueError(
                f'there is no class "{name}": the closest is "{small[close[0]]}", and the '
                f"detector knows {shown}."
            )
    return frozenset(class_names.index(name) for name in names) or None
