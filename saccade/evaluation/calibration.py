"""Whether scores are probabilities: of detections scored 0.8, four in five should be right."""

from dataclasses import dataclass

import numpy as np

from saccade.evaluation.matched import Floats, Integers, Matched


@dataclass(frozen=True)
class Calibration:
    """Detections in bins of equal width by score; NaN in bins without any."""

    edges: Floats
    """[bins + 1], from 0 to 1."""
    counts: Integers
    """[bins], detections."""
    scores: Floats
    """[bins], their mean score."""
    right: Floats
    """[bins], the share of them that found an object."""

    @property
    def error(self) -> float:
        """The expected calibration error (ECE): the mean gap of share and score, per detection.

        As Guo et al. (ICML 2017) define it for classification; for detections, right means that
        an object of the class was found (Küppers et al., CVPR workshops 2020). NaN without any.
        """
        filled = self.counts > 0
        if not filled.any():
            return float("nan")
        gaps = np.abs(self.scores[filled] - self.right[filled])
        return float(np.average(gaps, weights=self.counts[filled]))


def calibration(matched: Matched, num_bins: int = 10) -> Calibration:
    """Bin the detections of all classes by score; those in crowds do not count.

    Args:
        matched: Its scores are in [0, 1].
        num_bins: Of equal width.

    Raises:
        ValueError: If a score is outside [0, 1].
    """
    kept = ~matched.ignored
    scores, right = matched.found.scores[kept], matched.right[kept]
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(
            f"scores lie between {scores.min():g} and {scores.max():g}: expected probabilities in "
            "[0, 1]; pass what select returns."
        )
    bins = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return Calibration(
            np.linspace(0, 1, num_bins + 1),
            counts,
            np.bincount(bins, scores, num_bins) / counts,
            np.bincount(bins, right, num_bins) / counts,
        )
