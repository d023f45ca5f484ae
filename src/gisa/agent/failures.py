"""How a request to another machine can fail, in the words that retries, outcomes and reports decide by."""

from __future__ import annotations

from typing import Literal

Kind = Literal["refused", "status", "timeout", "connection", "too_large", "unreadable", "redirects"]
RETRYABLE_STATUS = frozenset({408, 409, 429}) | frozenset(range(500, 600))


class RequestError(Exception):
    """A request that brought nothing usable.

    Attributes:
        kind: ``refused`` (an unsafe URL; nothing was sent), ``status`` (the server said no), ``timeout``,
            ``connection``, ``too_large``, ``unreadable`` (a reply that is not what was asked for) or ``redirects``.
        status: HTTP status, where the kind is ``status``.
        retryable: Whether the same request may succeed later.
        retry_after_s: Seconds the server asked to wait, if it did.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Describe the failure; without ``retryable``, its kind and status decide."""
        super().__init__(message)
        self.kind = kind
        self.status = status
        passing = kind in ("timeout", "connection") or status in RETRYABLE_STATUS
        self.retryable = passing if retryable is None else retryable
        self.retry_after_s = retry_after_s
