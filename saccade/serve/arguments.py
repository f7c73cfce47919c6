"""What `saccade serve` can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from saccade.serve.settings import Limits

Runtime = Literal["torch", "onnxruntime", "openvino"]


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Answer over HTTP what detectors find in images, and show where they look.

    GET / is the viewer, POST /predict finds objects, GET /docs tells the rest. SIGTERM or Ctrl-C
    ends the server once it has answered what it accepted.

    Example: saccade serve examples/blood-cells/nano --port 8000
    """

    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """Weights as in `saccade predict`; NAME=WEIGHTS gives them a name. The first is the default."""
    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 for all addresses of this machine."""
    port: int = 8000
    """Where to listen; 0 takes a free port and prints it."""
    token_file: Path | None = None
    """A file with the token that requests must carry as Authorization: Bearer TOKEN; so does the
    environment variable SACCADE_TOKEN. /health, /docs and the viewer's page are open."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the server may be addressed (Host), besides this machine's own when it
    listens there alone; elsewhere, any unless some are given."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    runtime: Runtime = "torch"
    """What runs the detectors. Only torch tells where they look."""
    threads: int | None = None
    """CPU threads of a detector; by default as many as torch takes."""
    connections: int = 512
    """Most connections and requests at a time; further ones get 503."""
    drain: float = 0.0
    """Seconds between SIGTERM and the end of listening, in which /health answers 503, so that a
    balancer sends requests elsewhere."""
    access_log: bool = False
    """Log every request."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port is {self.port}: expected 0 to 65535.")
        for name in ("threads", "connections"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: expected at least 1.")
        if not 0 <= self.drain <= 3600:
            raise ValueError(f"--drain is {self.drain}: expected seconds, 0 to 3600.")
