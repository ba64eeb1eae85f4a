"""One invocation of a chain: what it takes from the hop before, and what it hands on."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, final

from deadline._core.scope import deadline
from deadline._events import emit, shown
from deadline.aws._resume.envelope import (
    DEEPEST,
    KEY,
    ResumeError,
    candidates,
    is_envelope,
    is_too_deep,
    one_line,
    records,
)
from deadline.aws._resume.signature import DIGITS, is_signed, signature
from deadline.aws._sources.callers import caller

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from deadline._core.scope import Deadline
    from deadline.aws._resume.claims import Claim
    from deadline.aws._resume.settings import Settings

State = TypeVar("State")

WITHOUT_LIMIT: Final = 900.0
"""Seconds for a claim where there is no deadline: Lambda's longest timeout."""


@final
class Hop(Generic[State]):
    """One invocation of a chain.

    Attributes:
        event: The event that began the chain.
        state: What the hop before has handed on.
        room: Bytes that a snapshot may have.
        snapshot: The last checkpoint.
        raw: Whether the snapshot was given as bytes.
    """

    def __init__(self, resume: Settings, event: Any, context: Any, outside: contextvars.Context) -> None:
        self._resume = resume
        self._context = context
        self._outside = outside
        self._claim: Claim | None = None
        self._head = b""
        self._keys: tuple[bytes, ...] = ()
        self._function: str = getattr(context, "function_name", None) or ""
        self.event = event
        self.state: State | None = None
        self.chain: str = getattr(context, "aws_request_id", None) or "local"
        self.number = 1
        self.room = 0
        self.snapshot: bytes | None = None
        self.raw = False

    # --- its beginning ------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Take event, state and number out of an envelope, if the event is one.

        Raises:
            ResumeError: It is one that this function cannot carry on.
        """
        envelope = await self._find()
        if envelope is not None:
            self._read(envelope)
        elif self._resume.to == "self" and not self._resume.force:
            known = caller(self.event)
            if known is not None and known.waits:
                self.fail(
                    f"the caller ({known.title}) waits for the answer, which would be that the work goes "
                    'on, and never the result; use Resume(..., to="return"), or have the caller invoke '
                    "asynchronously; with force=True it goes on all the same"
                )
        try:
            event = json.dumps(self.event, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            self.fail(f"the event is to go on with the state, and JSON cannot hold it: {error}")
        head = {KEY: {"chain": self.chain, "hop": self.number + 1, "version": self._resume.version}}
        self._head = json.dumps(head)[:-2].encode() + b', "event": ' + event + b', "state": '
        self.room = self._resume.limit() - len(self._head) - len(self._tail(b"0" * DIGITS))

    async def _find(self) -> dict[str, Any] | None:
        """The envelope that the event is. Everything else is an ordinary event, also what looks like one."""
        self._keys = await self._read_keys()
        found: list[Any] = list(candidates(self.event, queued=callable(self._resume.to)))
        formed = [one for one in found if is_envelope(one)]
        good = [one for one in formed if self._is_ours(one)]
        if formed and not good and self._keys:
            self._keys = await self._read_keys(fresh=True)  # it may have been signed by a newer key
            good = [one for one in formed if self._is_ours(one)]
        if not good:
            if found:
                self._emit("aws.resume_ignored", logging.WARNING, wrong="signature" if formed else "form")
            return None
        together = len(records(self.event))
        if together > 1:
            self.fail(
                f"a checkpoint came in a batch of {together} messages, and a hop is one invocation; give the "
                "queue's event source mapping a batch size of 1"
            )
        envelope: dict[str, Any] = good[0]
        return envelope

    async def _read_keys(self, *, fresh: bool = False) -> tuple[bytes, ...]:
        keys = self._resume.keys
        if keys is None:
            return ()
        try:
            return await keys.current(self._outside, fresh=fresh)
        except Exception as error:
            raise self.error(
                f"key: the secret cannot be used ({error}); it has to be there, with a text of at least 32 "
                "bytes, and the function needs secretsmanager:GetSecretValue",
                None,
            ) from error

    def _is_ours(self, envelope: dict[str, Any]) -> bool:
        return not self._keys or is_signed(self._keys, self._function, envelope)

    def _read(self, envelope: dict[str, Any]) -> None:
        resume = self._resume
        self.chain, self.number = envelope["chain"], envelope["hop"]
        self.event = envelope["event"]
        as_it_came = {KEY: envelope}
        if envelope["version"] != resume.version:
            self.fail(
                f"the state was written in version {envelope['version']!r:.80}, and this function reads "
                f"{resume.version!r}: its shape was changed while the chain was on its way; invoke a version "
                "that reads it, or begin again",
                as_it_came,
            )
        if self.number > resume.hops:
            self.fail(f"this is hop {self.number}, and hops={resume.hops} is the most", as_it_came)
        try:
            self.state = resume.codec.loads(envelope["state"])
        except (TypeError, ValueError) as error:
            self.fail(f"the state is not of the declared type: {error}", as_it_came)

    async def begin(self, dl: Deadline) -> bytes | None:
        """Claim the hop, where there is a table; return what was written there if it is done."""
        once = self._resume.once
        if once is None:
            return None
        from deadline.aws._resume.claims import NoTable, Taken  # noqa: PLC0415

        claim = once.claim(f"{self.chain}#{self.number}", self._outside)
        try:
            done = await claim.take(min(dl.remaining(hard=True), WITHOUT_LIMIT))
        except Taken as taken:
            self._fail_taken(taken)
        except NoTable as error:
            raise self.error(str(error), None) from error
        self._claim = claim
        return done

    async def repeat(self, written: bytes, resources: tuple[Any, ...]) -> Any:
        """Answer for a hop that was done before, and send what it may not have sent any more."""
        self._emit("aws.resume_repeated", logging.INFO)
        done = json.loads(written)
        if KEY not in done:
            return done.get("result", {"status": "repeated"})
        if self._claim is not None and not self._claim.sent:
            await self._send(written, resources)
        return self._answer(done)

    # --- its end ------------------------------------------------------------------------------------------

    async def finish(self, result: Any, seconds: float) -> None:
        """Note that the chain is at its end, in so many seconds at most.

        Raises:
            ResumeError: Another run has the hop by now.
        """
        if self._claim is None:
            return
        from deadline.aws._resume.claims import LARGEST  # noqa: PLC0415

        try:
            done = json.dumps({"result": result}, allow_nan=False).encode()
        except (TypeError, ValueError):  # the runtime has its own idea of what it can write
            done = b"{}"
        try:
            async with deadline(min(WITHOUT_LIMIT, max(0.0, seconds)), name="finish"):
                await self._settle(done if len(done) <= LARGEST else b"{}")
        except ResumeError:
            raise
        except Exception as error:  # noqa: BLE001  # a failure would have it run again
            self._emit("aws.resume_unnoted", logging.WARNING, error=shown(error))

    async def release(self) -> None:
        """Let a retry of a hop that failed follow at once."""
        if self._claim is not None:
            await self._note(self._claim.release)

    async def carry_on(self, resources: tuple[Any, ...]) -> Any:
        """Hand the last checkpoint on; return the response.

        Raises:
            ResumeError: The chain has had its hops.
            Exception: It was not handed on.
        """
        snapshot = self.snapshot
        assert snapshot is not None
        if self.raw:
            self.read_back(snapshot)
        if self.number >= self._resume.hops:
            self.fail(
                f"the time was up in hop {self.number}, and hops={self._resume.hops} is the most",
                self.envelope(),
            )
        written = self._payload(snapshot)
        if callable(self._resume.to) and is_too_deep(written.decode()):
            self.fail(
                f"event and state are nested more than {DEEPEST} levels deep, which no hop reads",
                self.envelope(),
            )
        if self._claim is not None:
            written = await self._settle(written)
        done = json.loads(written)
        if KEY not in done:
            return done.get("result")
        await self._send(written, resources)
        self._emit("aws.resumed", logging.INFO, bytes=len(snapshot))
        return self._answer(done)

    async def _settle(self, done: bytes) -> bytes:
        from deadline.aws._resume.claims import Taken  # noqa: PLC0415

        assert self._claim is not None
        try:
            return await self._claim.settle(done)
        except Taken as taken:
            self._fail_taken(taken)

    async def _send(self, event: bytes, resources: tuple[Any, ...]) -> None:
        to = self._resume.to
        if callable(to):
            await to(json.loads(event), self._context, *resources)
        elif self._resume.invoke is not None:
            request = {
                # As it was invoked: with the alias or version, or without.
                "FunctionName": self._context.invoked_function_arn,
                "InvocationType": "Event",
                "Payload": event,
            }
            await self._resume.invoke.call("Invoke", request, self._outside)
        if self._claim is not None and to != "return":
            await self._note(self._claim.note_sent)

    async def _note(self, note: Callable[[], Awaitable[None]]) -> None:
        """Write what makes things quicker or quieter, and no difference else."""
        try:
            await note()
        except Exception as error:  # noqa: BLE001
            self._emit("aws.resume_unnoted", logging.WARNING, error=shown(error))

    def _answer(self, done: dict[str, Any]) -> dict[str, Any]:
        if self._resume.to == "return":
            return {"status": "partial", "checkpoint": done}
        return {"status": "resumed", "chain": self.chain, "hop": self.number}

    # --- what goes on -------------------------------------------------------------------------------------

    def envelope(self) -> dict[str, Any] | None:
        """The event of the next hop, if there is a checkpoint that can be read."""
        try:
            return None if self.snapshot is None else json.loads(self._payload(self.snapshot))
        except ValueError:
            return None

    def _payload(self, snapshot: bytes) -> bytes:
        if not self._keys:
            return self._head + snapshot + self._tail(b"")
        fields = json.loads(self._head + snapshot + b"}}")[KEY]
        signed = signature(self._keys[0], self._function, fields)
        return self._head + snapshot + self._tail(signed.encode())

    def _tail(self, signed: bytes) -> bytes:
        return b', "signature": "' + signed + b'"}}' if self._keys else b"}}"

    def read_back(self, snapshot: bytes) -> None:
        """Check what was given as bytes.

        Raises:
            TypeError, ValueError: It is no state.
        """
        try:
            self._resume.codec.loads(json.loads(snapshot.decode()))
        except (TypeError, ValueError) as error:
            from deadline.aws._resume.state_codec import said  # noqa: PLC0415  # loaded by Resume

            raise said("checkpoint: the bytes are not the JSON of a state", error) from None

    def refuse_size(self, snapshot: bytes) -> NoReturn:
        """Say that a state is too large."""
        size, limit = len(self._payload(snapshot)), self._resume.limit()
        self.fail(
            f"checkpoint: with the event it is {size:,} bytes, and {limit:,} is the most that may go on "
            f"(to={self._resume.to!r:.60}); keep the bulk elsewhere, in S3 say, and its name in the state",
            json.loads(self._payload(snapshot)),
        )

    # --- telling ------------------------------------------------------------------------------------------

    def fail(self, message: str, checkpoint: dict[str, Any] | None = None) -> NoReturn:
        """Raise a `ResumeError`."""
        raise self.error(message, checkpoint)

    def error(self, message: str, checkpoint: dict[str, Any] | None) -> ResumeError:
        """A `ResumeError` of this hop."""
        error = ResumeError(one_line(f"hop {self.number} of chain {self.chain}: {message}"))
        error.chain, error.hop, error.checkpoint = self.chain, self.number, checkpoint
        return error

    def failure(self, error: BaseException) -> ResumeError:
        """What the invocation fails with if its checkpoint was not handed on."""
        if isinstance(error, ResumeError):
            return error
        failure = self.error("the checkpoint could not be handed on", self.envelope())
        failure.__cause__ = error
        return failure

    def _fail_taken(self, taken: Any) -> NoReturn:
        import datetime as dt  # noqa: PLC0415

        until = dt.datetime.fromtimestamp(taken.lease, dt.UTC).isoformat(timespec="seconds")
        self.fail(
            f"another run of it has claimed it until {until}; this one does not run, and fails, so that it "
            "comes again if that one is killed"
        )

    def _emit(self, name: str, level: int, **fields: Any) -> None:
        request_id = getattr(self._context, "aws_request_id", None)
        emit(name, level, request_id=request_id, chain=self.chain, hop=self.number, **fields)
