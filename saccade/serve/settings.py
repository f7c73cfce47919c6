"""What the server allows: how much, how long, and who may ask."""

import math
from dataclasses import dataclass, field

MEGABYTE = 1_000_000

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""This machine's names for itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the server takes on; whatever exceeds it is refused with a sentence."""

    threshold: float = 0.3
    """Lowest score reported where a request does not say another, 0 to 1."""
    max_batch: int = 8
    """Most images that are run together; only those of one resized size are."""
    max_wait: float = 5.0
    """How long an image waits for others to share its batch while nothing runs, in milliseconds."""
    queue: int = 128
    """Most images of a model that wait or run; further requests are told when to come again (429).
    So are requests that could not be answered within --timeout, as fast as the model has been."""
    max_looks: int = 2
    """Most requests that wait or run to see where a detector looked, which takes longer."""
    timeout: float = 30.0
    """Seconds from a complete request to its answer; then it is given up (504)."""
    upload_timeout: float = 30.0
    """Seconds that a request may take to arrive (408)."""
    max_upload: float = 20.0
    """Largest body of a request, in megabytes (413)."""
    max_megapixels: float = 50.0
    """Largest image, in millions of pixels, read in its header before it is decoded (413)."""
    upload_memory: float = 256.0
    """Most that all bodies together may hold in memory, in megabytes (429)."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is {self.threshold}: expected a score between 0 and 1.")
        for name in ("max_batch", "queue", "max_looks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_option(name)} is {getattr(self, name)}: expected at least 1.")
        if not 0 <= self.max_wait < math.inf:
            raise ValueError(f"--max-wait is {self.max_wait}: expected milliseconds, 0 or more.")
        for name in ("timeout", "upload_timeout", "max_upload", "max_megapixels", "upload_memory"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{_option(name)} is {getattr(self, name)}: expected more than zero, and an "
                    "end."
                )
        if self.upload_memory < self.max_upload:
            raise ValueError(
                f"--upload-memory {self.upload_memory} holds no body of --max-upload "
                f"{self.max_upload}: expected at least as many megabytes."
            )


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask."""

    token: str | None = field(default=None, repr=False)
    """What requests must carry as ``Authorization: Bearer``; None lets everyone ask."""
    hosts: tuple[str, ...] | None = None
    """The names, without ports, under which the server may be addressed; None takes any."""


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
