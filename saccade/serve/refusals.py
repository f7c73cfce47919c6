"""What a request is told that is not answered."""

import math

from fastapi import HTTPException

GONE = 499
"""The status under which metrics count clients that did not wait; nobody receives it."""


class Refusal(HTTPException):
    """A 4xx or 504 of one sentence."""

    def __init__(
        self,
        status: int,
        sentence: str,
        reason: str,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        """Refuse.

        Args:
            status: Of HTTP.
            sentence: For the person who asked.
            reason: A word for the metrics.
            retry_after: In how many seconds it is worth asking again.
            close: End the connection, whose body has not been read.
        """
        headers = {}
        if retry_after is not None:
            headers["Retry-After"] = str(min(60, max(1, math.ceil(retry_after))))
        if close:
            headers["Connection"] = "close"
        super().__init__(status, sentence, headers)
        self.reason = reason
