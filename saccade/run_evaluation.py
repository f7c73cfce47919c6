"""What a training run does at each of its evaluations, and what it leaves at its end."""

from pathlib import Path

from lightning.fabric import Fabric

from saccade.analysis.curves import draw_sparsity
from saccade.analysis.images import FewImages
from saccade.analysis.run_document import write_run_report
from saccade.analysis.run_pictures import EvaluationPictures
from saccade.analysis.while_training import EvaluationAnalysis
from saccade.config_json import to_dict
from saccade.inference.predictor import Detector
from saccade.model import DetectorModel
from saccade.run_config import RunConfig
from saccade.split_evaluation import SplitEvaluation
from saccade.training import HungarianMatcher
from saccade.training.checkpoint import Progress
from saccade.training.records import EvaluationRecords
from saccade.training.sharding import whole
from saccade.training.trackers import finish, log_pictures


class RunEvaluation:
    """Evaluates the detector of a run, and keeps its numbers, pictures and best weights.

    All processes of the run make one and call it together; the first one writes.
    """

    def __init__(self, fabric: Fabric, config: RunConfig, folder: Path, trained: Detector) -> None:
        """Read the validation split: an unusable one is told before hours of training.

        Args:
            fabric: Launched; its loggers are told pictures.
            config: The run, with the classes of its dataset.
            folder: The run folder.
            trained: The detector whose model will train.

        Raises:
            ValueError: If the validation split is missing or unusable.
        """
        self.fabric = fabric
        self.config = config
        self.folder = folder
        self.trained = trained
        self.detector = trained
        """What is evaluated and saved: it has all of its weights in each process."""
        if config.launch.strategy == "fsdp" and fabric.world_size > 1:
            self.detector = Detector(config.model, DetectorModel(config.model), trained.report)
        self.split = SplitEvaluation(
            self.detector,
            Path(config.data),
            config.val_split,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_detections=config.max_detections,
            on_broken_image=config.on_broken_image,
            fabric=fabric,
        )
        self.analysis = _analysis(config, self.detector) if fabric.is_global_zero else None
        self.pictures = EvaluationPictures(
            self.split.dataset, self.split.evaluator, config.pictures
        )
        self.records = EvaluationRecords(folder / "evaluations.jsonl")

    def __call__(self, progress: Progress) -> dict[str, float]:
        """COCO's numbers of the model as it is now, and those of `EvaluationAnalysis`."""
        # A run that was killed after an evaluation, before its next checkpoint, comes here again.
        known: dict[str, float] | None = self.fabric.broadcast(self.records.at(progress))
        if known is not None:
            self.split.result = None
            return known
        self._gather_weights()
        result = self.split()
        numbers = result.numbers
        if self.fabric.is_global_zero:
            if result.AP > self.records.best_ap:
                self.detector.save_pretrained(self.folder / "best")
            if self.analysis is not None:
                numbers |= self.analysis()
            self.records.add(progress, numbers)
            pictures = self.pictures()
            self.pictures.save(pictures, self.folder / "pictures", progress.step)
            log_pictures(self.fabric, pictures, progress.step)
        return numbers

    def finish(self) -> None:
        """Leave ``last/``, the curves and the report, and tell the trackers that all is done."""
        self._gather_weights()
        self.detector.model.eval()
        first = self.fabric.is_global_zero
        if first:
            self.detector.save_pretrained(self.folder / "last")
            if any(name.startswith("sparsity/") for each in self.records.read() for name in each):
                draw_sparsity(self.records.file, self.folder / "sparsity.png")
            # Before the report: whatever happens to that, the run is complete.
            finish(self.fabric, to_dict(self.config), self.records.best)
        if self.config.report:
            # A run that was killed after its last evaluation has only the numbers of it.
            result = self.split.result or self.split()
            if first:
                write_run_report(
                    self.folder, self.config, self.split, result, self.fabric.world_size
                )

    def _gather_weights(self) -> None:
        """Give weights that are divided among processes to the detector that has all of them."""
        if self.detector is not self.trained:
            self.detector.model.load_state_dict(whole(self.trained.model.state_dict()))
            self.detector.model.to(self.fabric.device)


def _analysis(config: RunConfig, detector: Detector) -> EvaluationAnalysis | None:
    if not config.analyse:
        return None
    images = FewImages(
        Path(config.data),
        config.val_split,
        config.model,
        config.analyse,
        on_broken_image=config.on_broken_image,
    )
    matcher = HungarianMatcher(config.loss, config.model.classification)
    return EvaluationAnalysis(detector.model, images, matcher)
