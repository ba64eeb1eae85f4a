"""`Resume`: a checkpoint, and the next invocation that carries on from it.

    hop 1                     hop 2                     hop 3
      |-- work --|soft          |-- work --|soft          |-- work --| result
                 | checkpoint             ^ | checkpoint            ^
                 '------------------------' '-----------------------'

What is kept at a checkpoint is a snapshot, made by writing the state as JSON then and there. When the
invocation's time is up, the last one goes on, in an envelope that is the event of the next hop. A hop without
a checkpoint has nothing to hand on: to it an expiry is what it is without all this. See docs/resume.md for
what may be lost and what may happen twice.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, final

from deadline.aws._notices.notice import MEGABYTE, QUARTER
from deadline.aws._resume.hop import Hop
from deadline.aws._resume.signature import ARN, ENVIRONMENT, Keys

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from deadline.aws._resume.claims import Once

State = TypeVar("State")

MOST_HOPS: Final = 15
"""Lambda stops a chain of its own invocations after about 16, the first one included
(docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html)."""

LIMITS: Final = {"self": MEGABYTE, "return": 262_144, "callable": QUARTER}
"""Bytes of an envelope. "return": docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html, the input
or output of a state."""


@final
class Resume(Generic[State]):
    """Work that takes longer than one invocation: make one for a function, `resume = aws.Resume(Progress)`.

    Give it to the handler, `@aws.handler(resume=resume)`. In the function `resume.state` is what the hop
    before has handed on, and `resume.checkpoint(state)` keeps where the work is. When the time is up, the
    last checkpoint of this hop goes on, within the mitigation's share of the margin; `on_exceeded` is not
    asked and no notice is sent, unless that fails: then `ResumeError` is the function's error. Without a
    checkpoint in this hop an expiry is an ordinary one.

    Args:
        state: The type: a frozen dataclass, a pydantic model, or what JSON can hold (`dict[str, int]`).
        to: Where a checkpoint goes. `"self"`: this function, same version or alias, is invoked
            asynchronously; the response is `{"status": "resumed", ...}`. `"return"`: the response is
            `{"status": "partial", "checkpoint": ...}`, for Step Functions and callers that loop, and what
            stands under `checkpoint` is the event to call with. Or an `async def` that sends the next event
            somewhere; it is called with `(event, context)`, and the lifespan's resources if there are some.
        hops: The most invocations of a chain, at least 1. With `"self"` Lambda stops more than 15, unless
            `PutFunctionRecursionConfig` allows them: a warning says so.
        once: A DynamoDB table, with the text `id` as its only key, in which each hop is claimed, so that one
            which is delivered again does not run again.
        version: Of the state's shape, by default made from its type. A hop does not read what another version
            has written.
        limit: The most bytes that may go on. By default 1 MB to `"self"`, else 256 KB.
        force: Use `"self"` also where the event shows that a caller waits for the answer.
        key: What signs an envelope, so that no other message is taken for one: at least 32 bytes, as bytes or
            text; a tuple of them, of which the first signs and each is accepted; or the ARN of a secret of
            Secrets Manager, whose current and previous versions are read in the first invocation. By default
            the environment's `DEADLINE_RESUME_KEY`: keys with commas between them, or the ARN. An `async def`
            needs one, as others may write where it sends to. `"self"` and `"return"` need none, as only
            callers that may invoke the function choose its event; with one, an unsigned envelope is no longer
            read.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it and says what to write.
        ImportError: AWS is to be called, and there is no SDK.
    """

    def __init__(
        self,
        state: type[State],
        *,
        to: Literal["self", "return"] | Callable[..., Awaitable[object]] = "self",
        hops: int = 12,
        once: str | None = None,
        version: str | None = None,
        limit: int | None = None,
        force: bool = False,
        key: bytes | str | tuple[bytes | str, ...] | None = None,
    ) -> None:
        from deadline.aws._resume.state_codec import Codec  # noqa: PLC0415  # whoever resumes nothing loads nothing

        self.codec = Codec(state)
        self.to = _checked_to(to)
        self.hops = _checked_count("hops", hops)
        if to == "self" and hops > MOST_HOPS:
            warnings.warn(
                f"hops: Lambda stops a function that has invoked itself 16 times, before {hops} hops, unless "
                "its recursive loop detection is set to Allow (PutFunctionRecursionConfig)",
                stacklevel=2,
            )
        self.version = _checked_text("version", version, "2") or self.codec.version
        if not isinstance(force, bool):
            raise TypeError(f"force: expected True or False, got {force!r}")
        self.force = force
        self.keys = _checked_keys(key, needed=callable(to))
        self.once = _once(_checked_text("once", once, "hops"))
        self._limit = None if limit is None else _checked_count("limit", limit)
        self._current: ContextVar[Hop[State]] = ContextVar("deadline_resume")
        self.invoke = _client("lambda") if to == "self" else None

    @property
    def state(self) -> State | None:
        """What the hop before has handed on; `None` in the first one.

        Raises:
            RuntimeError: There is no invocation.
        """
        return self._hop().state

    @property
    def hop(self) -> int:
        """The number of this invocation in its chain, from 1. A retry of a hop has the hop's number.

        Raises:
            RuntimeError: There is no invocation.
        """
        return self._hop().number

    @property
    def chain(self) -> str:
        """The id of the chain, which all its hops share: the request id of the first one.

        Raises:
            RuntimeError: There is no invocation.
        """
        return self._hop().chain

    def checkpoint(self, state: State | bytes) -> None:
        """Keep where the work is, in place of the checkpoint before.

        It is written as JSON now, so that nothing that happens to `state` afterwards changes what is kept. If
        this raises, the checkpoint before stays.

        Args:
            state: Of the type that this was made for. Or its JSON as bytes, for the cost of a reference; only
                the first of an invocation is read at once, the one that goes on is read when it goes.

        Raises:
            TypeError, ValueError: It is not of that type, or JSON cannot hold it.
            ResumeError: It is larger than what may go on; the message names the limit.
            RuntimeError: There is no invocation.
        """
        hop = self._hop()
        if type(state) is not bytes:
            try:
                snapshot = self.codec.dumps(state)
            except (TypeError, ValueError) as error:
                from deadline.aws._resume.state_codec import said  # noqa: PLC0415  # see __init__

                raise said("checkpoint", error) from None
            hop.raw = False
        else:
            snapshot = state
            if not hop.raw:
                hop.read_back(snapshot)
                hop.raw = True
        if len(snapshot) > hop.room:
            hop.refuse_size(snapshot)
        hop.snapshot = snapshot

    def open(self, event: Any, context: Any, outside: contextvars.Context) -> Hop[State]:
        """The hop that an invocation is; for the handler."""
        return Hop(self, event, context, outside)

    def bind(self, hop: Hop[State]) -> None:
        """Have `hop` be the one of the context that this is called in."""
        self._current.set(hop)

    def initialise(self, outside: contextvars.Context) -> None:
        """Open the clients, in Lambda's init phase."""
        if self.invoke is not None:
            self.invoke.initialise(outside)
        if self.once is not None:
            self.once.client.initialise(outside)
        if self.keys is not None and self.keys.client is not None:
            self.keys.client.initialise(outside)

    def limit(self) -> int:
        """Bytes that may go on."""
        limit = self._limit or LIMITS[self.to if isinstance(self.to, str) else "callable"]
        if self.once is None:
            return limit
        from deadline.aws._resume.claims import LARGEST  # noqa: PLC0415

        return min(limit, LARGEST)

    def _hop(self) -> Hop[State]:
        try:
            return self._current.get()
        except LookupError:
            raise RuntimeError(
                "resume: there is no invocation here; write @aws.handler(resume=resume) above the function, "
                "and use it inside of that function"
            ) from None


def _checked_to(to: Any) -> Any:
    if to in ("self", "return") or inspect.iscoroutinefunction(to):
        return to
    raise TypeError(
        f'to: expected "self", "return" or an `async def` that takes event and context, got {to!r}'
    )


def _checked_count(name: str, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name}: expected a whole number, got {count!r}")
    if count < 1:
        raise ValueError(f"{name}: {count} lets nothing go on; 1 is the least")
    return count


def _checked_text(name: str, text: Any, example: str) -> str | None:
    if text is not None and (not isinstance(text, str) or not text):
        raise TypeError(f"{name}: expected a text such as {name}={example!r}, got {text!r}")
    return text


def _checked_keys(key: Any, *, needed: bool) -> Keys | None:
    if key is None:
        told = os.environ.get(ENVIRONMENT, "")
        key = told if told.startswith(ARN) else tuple(one.strip() for one in told.split(",") if one.strip())
    if key == ():
        if needed:
            raise ValueError(
                "key: where an `async def` sends to, others may write, so a checkpoint has to be signed; set "
                f"the environment variable {ENVIRONMENT} to what "
                'python -c "import secrets; print(secrets.token_hex(32))" prints, or write '
                'Resume(..., key="arn:aws:secretsmanager:...")'
            )
        return None
    if isinstance(key, str) and key.startswith(ARN):
        _check_sdk("key")
    return Keys(key)


def _once(table: str | None) -> Once | None:
    if table is None:
        return None
    _check_sdk("once")
    from deadline.aws._resume.claims import Once  # noqa: PLC0415

    return Once(table)


def _client(service: str) -> Any:
    _check_sdk('to="self"')
    from deadline.aws._runtime.own_client import OwnClient  # noqa: PLC0415

    return OwnClient(service)


def _check_sdk(why: str) -> None:
    if importlib.util.find_spec("aiobotocore") is None:
        raise ImportError(f'{why}: it needs the SDK: pip install "asyncio-deadline[aws]"')
