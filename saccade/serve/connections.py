"""Connections that do not wait forever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_SECONDS = 30.0
"""How long the headers of a request may take to arrive."""


class ImpatientProtocol(H11Protocol):
    """Closes a connection that begins no request, or does not finish its headers.

    uvicorn has a time limit only between requests: clients that send nothing, or a letter a minute,
    would hold all connections. Its other parser, httptools, which it takes where it is installed,
    also has no limit to the size of headers.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request that has begun."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        # uvicorn has no cycle before the first request. Once a request's headers are complete, the
        # application limits the time that its body may take.
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEADERS_SECONDS, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
