"""Is the matching to blame for slow convergence? How much it changes, and training without it.

TSP (section 3.1) trains DETR with the assignment of a teacher that has converged ("matching
distillation") and finds that it only helps in the first epochs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from saccade.config import DetectorConfig
from saccade.inference.predictor import Detector
from saccade.model import DetectorModel
from saccade.model.queries import LearnedQueries, TokenQueries
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Predictions, Targets
from saccade.training import HungarianMatcher
from saccade.training.matcher import Match

Assignment = Mapping[int, Int64[Tensor, " _"]]
"""By image id: the object that each query answers for, -1 for none."""

_SAME_TOKENS = ("backbone.levels", "backbone.dilated", "neck.num_extra_levels")
"""What decides which token is where in an image."""


@dataclass(frozen=True)
class MatchingChange:
    """How much an assignment differs from an earlier one, over all their images."""

    num_queries: int
    """Queries, images times those of the detector."""
    num_matched: int
    """Those that answered for an object before, or do so now."""
    num_changed: int
    """Those whose object is another one than before, or is there only before or only now."""

    @property
    def share(self) -> float:
        """The share of all queries whose object changed; background never does."""
        return self.num_changed / max(1, self.num_queries)

    @property
    def share_of_matched(self) -> float:
        """The share of those that answered for an object at one of the two times: 1 if every
        object went to another query."""
        return self.num_changed / max(1, self.num_matched)


@torch.no_grad()
def assignment(
    model: DetectorModel,
    batches: Iterable[tuple[Batch, Sequence[Targets]]],
    matcher: HungarianMatcher,
) -> dict[int, Int64[Tensor, " _"]]:
    """Which object each query of the last layer answers for, image by image.

    Compare what two epochs give on the same images, without random transforms, by
    `matching_change`. The detector is run in evaluation mode and left in the mode it was in.

    Args:
        model: A detector whose queries are the same for every image, or are its tokens.
        batches: On the device of the model; the targets' image ids tell images apart.
        matcher: As in training.

    Raises:
        ValueError: If the queries are proposals, which have no identity from epoch to epoch.
    """
    if not keeps_queries(model):
        raise ValueError(
            "the detector's queries are proposals, which are others in every epoch: matching "
            'can be followed where queries.source is "learned" or "tokens" and selection.kind '
            '"none".'
        )
    found: dict[int, Tensor] = {}
    training = model.training
    model.eval()
    try:
        for batch, targets in batches:
            found |= answers(model(batch), targets, matcher)
    finally:
        model.train(training)
    return found


def keeps_queries(model: DetectorModel) -> bool:
    """Whether query i is the same one at all times: learned, or a place in the image."""
    stay = isinstance(model.queries, LearnedQueries | TokenQueries)
    return stay and model.selection is None


@torch.no_grad()
def answers(
    predictions: Predictions, targets: Sequence[Targets], matcher: HungarianMatcher
) -> dict[int, Int64[Tensor, " _"]]:
    """The assignment of the images of one batch, from what the detector said of it."""
    found = {}
    matches = matcher(predictions.logits, predictions.boxes, targets)
    for target, (queries, objects) in zip(targets, matches, strict=True):
        of_image = torch.full((predictions.logits.shape[1],), -1)
        of_image[queries] = objects
        found[target.image_id] = of_image
    return found


def matching_change(before: Assignment, after: Assignment) -> MatchingChange:
    """Compare two assignments of the same queries on the same images.

    Raises:
        ValueError: If the images differ, or an image has another number of queries.

    >>> one, other = torch.tensor([0, 1, -1, -1]), torch.tensor([0, -1, 1, -1])
    >>> change = matching_change({7: one}, {7: other})
    >>> change.share, change.share_of_matched
    (0.5, 0.6666666666666666)
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"the assignments are of different images: {len(before.keys() - after.keys())} are "
            f"only in the first, {len(after.keys() - before.keys())} only in the second; match "
            "the same images both times."
        )
    num_queries = num_matched = num_changed = 0
    for image, objects in before.items():
        now = after[image]
        if len(objects) != len(now):
            raise ValueError(
                f"image {image} has {len(objects)} queries in the first assignment and {len(now)} "
                "in the second: compare detectors with equally many, on images of equal size."
            )
        num_queries += len(objects)
        num_matched += int(((objects >= 0) | (now >= 0)).sum())
        num_changed += int((objects != now).sum())
    return MatchingChange(num_queries, num_matched, num_changed)


def load_teacher(
    source: str, student: DetectorConfig, costs: LossConfig, device: torch.device | str = "cpu"
) -> "TeacherMatching":
    """A teacher from weights, for a student whose queries can answer for what its own do.

    Args:
        source: Whatever `Detector.from_pretrained` reads; classes are matched by name.
        student: The detector that is to learn.
        costs: Of the matching.
        device: Of the batches.

    Raises:
        ValueError: If the weights cannot be read, or the two detectors' queries, classes or
            normalised images cannot be compared.
    """
    teacher = Detector.from_pretrained(source, class_names=student.class_names)
    if teacher.report is not None and teacher.report.new:
        raise ValueError(
            f"the teacher {source} does not know {', '.join(teacher.report.new)}: choose one that "
            "was trained on the student's classes."
        )
    taught = student.queries.source
    for name, config in (("student", student), ("teacher", teacher.config)):
        kind = config.queries.source
        if kind not in ("learned", "tokens") or kind != taught:
            raise ValueError(
                f'the {name} has queries.source "{kind}": expected "learned" or '
                '"tokens", the same in teacher and student, because query i of the one answers for '
                "what query i of the other does."
            )
        if config.selection.kind != "none":
            raise ValueError(
                f'the {name} has selection.kind "{config.selection.kind}": expected "none", '
                "because selected tokens are others in every epoch."
            )
    fields = _SAME_TOKENS if taught == "tokens" else ("queries.num_queries",)
    for field in (*fields, "input.mean", "input.std"):
        theirs, own = attrgetter(field)(teacher.config), attrgetter(field)(student)
        if theirs != own:
            raise ValueError(
                f"the teacher {source} has {field} {theirs!r}, but the student {own!r}: expected "
                "the same in both; choose another teacher or change the student's."
            )
    matcher = HungarianMatcher(costs, teacher.config.classification)
    return TeacherMatching(teacher.to(device).model, matcher)


class TeacherMatching:
    """Matching distillation: every layer of the student learns a teacher's assignment.

    The student's query i answers for what the teacher's query i answers for, in all layers. Its
    predictions carry that assignment to `SetCriterion`, which then matches nothing itself but a
    two-stage student's proposals.
    """

    def __init__(self, teacher: nn.Module, matcher: HungarianMatcher) -> None:
        """Freeze the teacher.

        Args:
            teacher: A detector that has converged, on the device of the batches.
            matcher: With the teacher's kind of classification.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.matcher = matcher

    @torch.no_grad()
    def match(self, batch: Batch, targets: Sequence[Targets]) -> tuple[Match, ...]:
        """(query indices, target indices) of each image, by the teacher's last layer."""
        predictions = self.teacher(batch)
        return tuple(self.matcher(predictions.logits, predictions.boxes, targets))

    def distil(
        self, predictions: Predictions, batch: Batch, targets: Sequence[Targets]
    ) -> Predictions:
        """The student's predictions with the teacher's assignment for all layers.

        Args:
            predictions: What the student said of `batch`.
            batch: The same images, transformed in the same way.
            targets: Their objects.

        Raises:
            ValueError: If the teacher matched a query that the student does not have.
        """
        matches = self.match(batch, targets)
        num_queries = predictions.logits.shape[1]
        largest = max((int(queries.max()) for queries, _ in matches if len(queries)), default=-1)
        if largest >= num_queries:
            raise ValueError(
                f"the teacher matched its query {largest}, but the student has {num_queries}: "
                "choose a teacher with as many queries as the student."
            )
        return replace(predictions, matches=matches)
