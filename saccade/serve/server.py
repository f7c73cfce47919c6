"""uvicorn, which ends as a service should."""

import logging
import math
import socket
import time
import warnings
from types import FrameType

import uvicorn
from fastapi import FastAPI

from saccade.inference.reading import image_limit
from saccade.serve.arguments import ServeArguments
from saccade.serve.connections import ImpatientProtocol

KEEP_ALIVE = 60
"""Seconds for which a connection without a request stays open."""
_MARGIN = 5
"""Seconds beyond the longest request after which the rest is cut off."""


class GracefulServer(uvicorn.Server):
    """Ends once all that was accepted is answered, without dying of the signal that asked for it.

    uvicorn's own raises the signal again at the end, so that the exit status is not 0.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: float) -> None:
        super().__init__(config)
        self._state = app.state.server
        self._drain = drain
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """First drain, then stop listening, at a third signal drop what is left."""
        if self.should_exit:
            self.force_exit = True
        elif self._state.draining:
            self.should_exit = True
        else:
            self._state.draining = True
            self._stop_at = time.monotonic() + self._drain

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop listening."""
        self.should_exit = self.should_exit or time.monotonic() >= self._stop_at
        return await super().on_tick(counter)


def run(app: FastAPI, listener: socket.socket, arguments: ServeArguments) -> None:
    """Serve at a bound socket until a signal ends it."""
    # What is wrong with a body is for who sent it, not for the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")
    limits = arguments.limits
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        log_level="info" if arguments.access_log else "warning",
        access_log=arguments.access_log,
        # Neither the client's address nor its scheme is asked for: nobody's word is taken for it.
        proxy_headers=False,
        server_header=False,
        limit_concurrency=arguments.connections,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(limits.upload_timeout + limits.timeout + _MARGIN),
    )
    with image_limit(limits.max_megapixels):
        GracefulServer(config, app, arguments.drain).run(sockets=[listener])
