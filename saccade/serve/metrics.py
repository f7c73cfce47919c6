"""What Prometheus is told."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All figures of one server."""

    def __init__(self) -> None:
        # Not the library's global registry: an application made twice would count twice.
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "saccade_requests",
            "Requests, by path and status; 499 where the client did not wait.",
            ("path", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "saccade_request_seconds",
            "From a request's headers to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "saccade_rejected", "Requests refused, by reason.", ("reason",), registry=registry
        )
        self.batch_sizes = Histogram(
            "saccade_batch_images",
            "Images that were run together.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.inference = Histogram(
            "saccade_inference_seconds",
            "Of one batch.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "saccade_queue_images", "Images that wait or run.", ("model",), registry=registry
        )
        self._uploads = Gauge(
            "saccade_upload_bytes", "Bodies of requests held in memory.", registry=registry
        )

    def watch_queue(self, model: str, depth: Callable[[], float]) -> None:
        """Ask how many images of a model wait or run whenever the figures are fetched."""
        self._queue.labels(model).set_function(depth)

    def watch_uploads(self, held: Callable[[], float]) -> None:
        """Ask how many bytes of bodies are held whenever the figures are fetched."""
        self._uploads.set_function(held)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
