"""What a hop reads of the `Resume` that its handler was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deadline.aws._resume.claims import Once
    from deadline.aws._resume.signature import Keys
    from deadline.aws._resume.state_codec import Codec


class Settings(Protocol):
    """The arguments of `Resume`, checked.

    Attributes:
        codec: Turns a state into bytes and back.
        to: Where an envelope goes: `"self"`, `"return"`, or an `async def`.
        hops: How many invocations a chain may have.
        version: Of the state's shape.
        force: Whether the work goes on although the caller waits for the answer.
        keys: What signs envelopes, if anything does.
        once: Where hops are claimed, if they are.
        invoke: The client that invokes this function, with `to="self"`.
    """

    codec: Codec
    to: str | Callable[..., Awaitable[object]]
    hops: int
    version: str
    force: bool
    keys: Keys | None
    once: Once | None
    invoke: Any

    def limit(self) -> int:
        """Bytes that may go on."""
