"""Work for a request, as long as somebody waits for it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from saccade.serve.refusals import GONE, Refusal

T = TypeVar("T")


async def while_awaited(request: Request, work: Awaitable[T], seconds: float) -> T:
    """The result of `work`, which is cancelled when the client leaves or the time is over.

    Args:
        request: Whose body has been read.
        work: What is to be done.
        seconds: How long it may take.

    Raises:
        Refusal: If the client left, or it took longer.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if leaving.done():
            raise Refusal(GONE, "the client has gone.", "gone")
        raise Refusal(
            504, f"there was no answer within {seconds:g} s: try again later.", "timeout", 1.0
        )
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
