"""What a run records at every evaluation beside COCO's numbers (TSP, sections 3.1 and 3.2)."""

from torch import Tensor

from saccade.analysis.curves import as_record
from saccade.analysis.images import FewImages
from saccade.analysis.matching import Assignment, answers, keeps_queries, matching_change
from saccade.analysis.sparsity import attention_sparsity
from saccade.model import DetectorModel
from saccade.structures import Predictions
from saccade.training import HungarianMatcher


class EvaluationAnalysis:
    """Sparsity of attention, and how much the matching changed since the call before."""

    def __init__(self, model: DetectorModel, images: FewImages, matcher: HungarianMatcher) -> None:
        """Look at nothing yet.

        Args:
            model: The detector that trains; it is left in the mode it is in, as is torch's random
                state.
            images: The same at every call.
            matcher: As in training.
        """
        self.model = model
        self.images = images
        self.matcher = matcher
        self.before: Assignment | None = None

    def __call__(self) -> dict[str, float]:
        """Numbers for a line of ``evaluations.jsonl``.

        Returns:
            What `as_record` returns, and from the second call on ``matching/changed``, the share
            of all queries that answer for another object than at the call before, and
            ``matching/changed_of_matched``, the share of those that answer for one; these two only
            where queries stay the same ones, learned or tokens.
        """
        device = next(self.model.parameters()).device
        # Held while the detector runs: the matching needs their targets afterwards.
        pictures = list(self.images)
        predictions: list[Predictions] = []
        layers = attention_sparsity(
            self.model, (batch.to(device) for batch, _ in pictures), predictions.append
        )
        record = as_record(layers)
        if not keeps_queries(self.model):
            return record
        now: dict[int, Tensor] = {}
        for (_, targets), found in zip(pictures, predictions, strict=True):
            now |= answers(found, [target.to(device) for target in targets], self.matcher)
        if self.before is not None:
            change = matching_change(self.before, now)
            record["matching/changed"] = change.share
            record["matching/changed_of_matched"] = change.share_of_matched
        self.before = now
        return record
