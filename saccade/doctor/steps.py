"""Training steps that are timed, in a process of their own: ``python -m saccade.doctor.steps``.

It reads a task as JSON from its standard input and writes what it measures as lines of JSON, so
that a process that is ended still leaves what it had found.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from lightning.fabric import Fabric

from saccade.config_json import from_dict
from saccade.doctor.findings import counted
from saccade.run_config import RunConfig
from saccade.starting import new_detector
from saccade.structures import Batch, Targets
from saccade.training.loss_model import LossModel
from saccade.training.losses import SetCriterion
from saccade.training.optimizer import build_optimizer
from saccade.training.watch import GradientTracker

SMALL_RATE = 1e-5
LEAST_STEPS = 3
"""Before gradients are judged: residual branches that start at zero pass none in the first."""


@dataclass(frozen=True)
class Step:
    """One size of batch."""

    num_images: int
    size: tuple[int, int]
    """(height, width) of each image in pixels."""
    seconds: float
    """Of forward, backward and the optimiser; the fastest of a few."""
    peak: int
    """Bytes of memory, at the worst moment so far: of the process, or of the GPU."""


class Stepper:
    """A detector that takes training steps on noise."""

    def __init__(self, config: RunConfig) -> None:
        """Build the detector as the run does, but for what would have to be downloaded."""
        frozen = config.freeze
        fabric = Fabric(accelerator=config.launch.accelerator, devices=1)
        self.device = fabric.device
        if config.weights is None:
            # What is frozen must have come with weights; here only what it takes matters.
            config = replace(config, pretrained_backbone=False, freeze=())
        self.config = config
        self.model = new_detector(config).model
        self.model.freeze(frozen)
        self.model.to(self.device).train()
        model = config.model
        self.criterion = SetCriterion(config.loss, model.num_classes, model.classification)
        self.losses_of = LossModel(self.model, self.criterion, config.launch.precision)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.tracker = GradientTracker(self.model)
        self.taken = 0

    def take(self, num_images: int, size: tuple[int, int], num_objects: int) -> float:
        """One step; the seconds that it took."""
        batch, targets = self._noise(num_images, size, num_objects)
        self._wait()
        started = time.perf_counter()
        total = self.criterion.total(self.losses_of(batch, targets))
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.tracker.look()
        self.taken += 1
        # Enough for what starts at zero to let gradients through, too little to diverge.
        for group in self.optimizer.param_groups:
            group["lr"] = SMALL_RATE
        self.optimizer.step()
        self._wait()
        return time.perf_counter() - started

    def unreached(self) -> list[str]:
        """Modules that no gradient reached, as far as that can be told."""
        if self.taken < LEAST_STEPS:
            return []
        # A random backbone stands for a trained one: its frozen norms may stop gradients.
        stands_in = self.config.weights is None and self.config.model.backbone.norm == "frozen"
        vanished = self.tracker.vanished()
        return [name for name in vanished if not (stands_in and name.startswith("backbone"))]

    def peak(self) -> int:
        """Bytes at the worst moment so far; 0 where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        if sys.platform == "win32":
            return 0
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else 1024 * used

    def _noise(
        self, num_images: int, size: tuple[int, int], num_objects: int
    ) -> tuple[Batch, list[Targets]]:
        height, width = size
        images = torch.randn(num_images, 3, height, width)
        corners = torch.rand(num_images, num_objects, 2) * 0.9
        boxes = torch.cat([corners, corners + 0.02 + 0.08 * torch.rand_like(corners)], -1)
        labels = torch.randint(self.config.model.num_classes, (num_images, num_objects))
        scale = torch.tensor([width, height, width, height])
        targets = [
            Targets(each * scale, label, size) for each, label in zip(boxes, labels, strict=True)
        ]
        batch = Batch.from_images(list(images)).to(self.device)
        return batch, [target.to(self.device) for target in targets]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(task: dict[str, Any]) -> None:
    """Take the steps that the task lists, until its seconds are spent."""
    stepper = Stepper(from_dict(RunConfig, task["config"], "run"))
    _say(device=str(stepper.device), name=_name(stepper.device), base=stepper.peak())
    ends = time.perf_counter() + task["seconds"]
    per_pixel = 0.0
    for number, each in enumerate(task["steps"]):
        num_images, size = each["num_images"], (each["size"][0], each["size"][1])
        pixels = num_images * size[0] * size[1]
        # The first step is small, and says too much of one that is larger.
        if number > 1 and per_pixel * pixels > ends - time.perf_counter():
            break
        try:
            times = [stepper.take(num_images, size, each["num_objects"])]
            if not number:
                # The first one compiled kernels.
                times = [stepper.take(num_images, size, each["num_objects"])]
            while len(times) < each["repeats"] and time.perf_counter() + 2 * min(times) < ends:
                times.append(stepper.take(num_images, size, each["num_objects"]))
        except (torch.cuda.OutOfMemoryError, MemoryError):
            _say(too_large=True, num_images=num_images, size=size)
            return
        per_pixel = min(times) / pixels
        _say(step=asdict(Step(num_images, size, min(times), stepper.peak())))
    _say(unreached=stepper.unreached())


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {counted(torch.get_num_threads(), 'thread')}"


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    measure(json.loads(sys.stdin.read()))
