"""Bodies of requests: read within limits of size, time and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from saccade.serve.refusals import GONE, Refusal
from saccade.serve.settings import MEGABYTE, Limits

_DRAINED = 4
"""How many times the largest body is read of a larger one, and thrown away, before it is refused:
a client that writes all before it reads would otherwise see its connection reset, not a sentence.
"""


class Uploads:
    """The bodies that are in memory, of all requests together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = int(limits.max_upload * MEGABYTE)
        self._most_together = int(limits.upload_memory * MEGABYTE)
        self.held = 0
        """In bytes."""

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body, which counts as held until the ``with`` ends.

        Raises:
            Refusal: If it is too large, arrives too slowly, or there is no room for it now.
        """
        received, size = bytearray(), 0
        try:
            try:
                await asyncio.wait_for(self._read(request, received), self._limits.upload_timeout)
            except asyncio.TimeoutError as error:
                raise Refusal(
                    408,
                    f"the request did not arrive within {self._limits.upload_timeout:g} s.",
                    "slow upload",
                    close=True,
                ) from error
            except ClientDisconnect as error:
                raise Refusal(GONE, "the client has gone.", "gone") from error
            body, size = bytes(received), len(received)
            received.clear()
            yield body
        finally:
            self.held -= size + len(received)

    async def _read(self, request: Request, received: bytearray) -> None:
        # Not a number, or several: the HTTP parser has refused it.
        declared = int(request.headers.get("content-length", "0"))
        if declared > self._most and "expect" in request.headers:
            # The client waits for leave to send it.
            raise self._too_large()
        stream = request.stream()
        async for chunk in stream:
            if len(received) + len(chunk) > self._most or declared > self._most:
                await self._drain(stream)
                raise self._too_large()
            if self.held + len(chunk) > self._most_together:
                raise Refusal(
                    429, "too many uploads at once: try again.", "uploads", 1.0, close=True
                )
            received += chunk
            self.held += len(chunk)

    async def _drain(self, stream: AsyncIterator[bytes]) -> None:
        drained = 0
        async for chunk in stream:
            drained += len(chunk)
            if drained > _DRAINED * self._most:
                return

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            f"the request is larger than {self._limits.max_upload:g} MB: send a smaller image.",
            "too large",
            close=True,
        )
