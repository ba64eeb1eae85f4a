"""What the proxy keeps of the exchanges. No sockets here."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, final

from deadline.testing._proxy.faults import Fault
from deadline.testing._proxy.request import Request
from deadline.testing._seconds import checked_seconds

Outcome: TypeAlias = Literal["answered", "client_left", "upstream_left", "reset", "half_closed", "cut"]


@final
@dataclasses.dataclass(frozen=True)
class Exchange:
    """What became of one request, at the moment the log was read.

    It is one connection, with an empty request, where the proxy passes TLS through.

    Attributes:
        request: The request.
        fault: The fault that was played, or None.
        started: When the request had been read completely, in seconds of `time.monotonic`.
        sent_upstream: Whether any of it was sent upstream, so that it may have had its effect.
        sent_whole: Whether all of it was. Always False with TLS, which hides where a request ends.
        bytes_upstream: Bytes of the request that were sent upstream, its head included.
        upstream_status: The status that upstream answered with, or None before it did.
        upstream_answered: Whether upstream's answer was read to its end, which a fault may keep from
            being read.
        status: The status of the answer that the client got, or None before its head was sent.
        answered: Whether the answer was sent to its last byte. A client that has it all finds it so.
            Always False with TLS, which hides where an answer ends.
        bytes_to_client: Bytes of the answer that were sent to the client, its head included.
        outcome: How it ended; None while it goes on. `"answered"`: to the answer's last byte.
            `"client_left"`: the client hung up first. `"reset"`, `"half_closed"`: a fault did it.
            `"upstream_left"`: upstream broke off, or, with TLS, hung up. `"cut"`: the proxy was
            closed, began to refuse, or a fault ended without an answer.
        ended: When that was, in seconds of `time.monotonic`; None while it goes on.
        error: What went wrong other than by a fault: a rule that raised (the client got a 500), an
            upstream that broke (a 502). None if nothing did.
    """

    request: Request
    fault: Fault | None
    started: float
    sent_upstream: bool = False
    sent_whole: bool = False
    bytes_upstream: int = 0
    upstream_status: int | None = None
    upstream_answered: bool = False
    status: int | None = None
    answered: bool = False
    bytes_to_client: int = 0
    outcome: Outcome | None = None
    ended: float | None = None
    error: str | None = None

    @property
    def effect(self) -> Literal["no", "yes", "unknown"]:
        """Whether the request had its effect upstream, as far as the wire tells.

        `"no"`: it was not sent, or upstream answered with another status than 200 to 299. `"yes"`:
        upstream answered with one of those, whether the client heard of it or not. `"unknown"`: it
        was sent, in part at least, and upstream has not answered.
        """
        if self.upstream_status is not None:
            return "yes" if 200 <= self.upstream_status <= 299 else "no"
        return "unknown" if self.sent_upstream else "no"


@final
class Journal:
    """The exchanges in the order their requests were read. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._exchanges: list[Exchange] = []

    def open(self, request: Request) -> int:
        """Note a request; the number returned is for `note`."""
        with self._changed:
            self._exchanges.append(Exchange(request, None, time.monotonic()))
            self._changed.notify_all()
            return len(self._exchanges) - 1

    def note(self, number: int, **changes: Any) -> None:
        """Replace fields of one exchange."""
        with self._changed:
            self._exchanges[number] = dataclasses.replace(self._exchanges[number], **changes)
            self._changed.notify_all()

    def read(self) -> list[Exchange]:
        """Return the exchanges so far."""
        with self._changed:
            return list(self._exchanges)

    def wait_until(self, predicate: Callable[[Sequence[Exchange]], object], timeout: float) -> None:
        """Block until `predicate` is true of the exchanges."""
        timeout = checked_seconds("timeout", timeout)
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(tuple(self._exchanges)), timeout):
                raise TimeoutError(f"not so within {timeout} seconds; the log holds {self._exchanges}")
