"""Checkpoints: what is kept, when it goes on, and what is refused.

Chains of real processes have a file of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from events import EVENTS

from deadline import DeadlineExceeded, Event, aws, deadline
from deadline.aws._resume.signature import signature
from deadline.aws._runtime.own_client import OwnClient
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import VirtualClock
    from tests.aws.conftest import Connect


@dataclass(frozen=True)
class Progress:
    done: int
    note: str = ""


SECRET = "0123456789abcdef" * 4
"""A key."""

Notices = list[dict[str, Any]]


async def hang(event: Any, context: Any) -> None:
    await asyncio.sleep(3600)


async def not_asked(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
    raise AssertionError


def counting(resume: aws.Resume[Progress], *, to: int = 100, notice: Any = None) -> Any:
    """A function that counts, one a second, and notes each."""

    @aws.handler(resume=resume, margin=1.0, notice=notice)
    async def count(event: Any, context: Any) -> Any:
        progress = resume.state or Progress(0)
        while progress.done < to:
            await asyncio.sleep(1)
            progress = replace(progress, done=progress.done + 1)
            resume.checkpoint(progress)
        return {"status": "done", "count": progress.done, "event": event}

    return count


def envelope(resume: aws.Resume[Any], state: Any, **other: Any) -> Any:
    fields = {"chain": "c", "hop": 2, "version": resume.version, "event": None, "state": state}
    return {"deadline_resume": fields | other}


def signed(event: Any, key: str = SECRET, function: str = "function") -> Any:
    """An envelope with its signature."""
    fields = event["deadline_resume"]
    return {"deadline_resume": {**fields, "signature": signature(key.encode(), function, fields)}}


def queued(*bodies: str) -> Any:
    """Messages of a queue."""
    return {"Records": [{"eventSource": "aws:sqs", "body": body} for body in bodies]}


async def send_nothing(event: Any, context: Any) -> None:
    """Take the next event, which nobody will see."""


def causes(error: BaseException | None) -> list[type[BaseException]]:
    """The types of an error's causes."""
    return [type(error), *causes(error.__cause__)] if error is not None else []


async def notices() -> tuple[Notices, Any]:
    got: Notices = []

    async def note(message: dict[str, Any]) -> None:
        got.append(message)

    return got, note


# --- what goes on -----------------------------------------------------------------------------------------


async def test_a_loop_of_calls_reaches_the_end(virtual_clock: VirtualClock) -> None:
    """Each call answers with its checkpoint, which is the event of the next; the last has the result."""
    resume = aws.Resume(Progress, to="return")
    count = counting(resume, to=25)
    event: Any = {"first": True}
    answers = []
    while True:
        answer = await count.invoke(event, FakeContext(10.5))
        if answer["status"] == "done":
            break
        answers.append(answer)
        event = answer["checkpoint"]
    assert [one["checkpoint"]["deadline_resume"]["state"]["done"] for one in answers] == [9, 18]
    assert answer == {"status": "done", "count": 25, "event": {"first": True}}
    chains = {one["checkpoint"]["deadline_resume"]["chain"] for one in answers}
    assert len(chains) == 1
    assert [one["checkpoint"]["deadline_resume"]["hop"] for one in answers] == [2, 3]


async def test_the_state_of_a_hop_is_what_was_handed_on(virtual_clock: VirtualClock) -> None:
    """`None`, hop 1 and the request id in the first one; then what the hop before has said."""
    resume = aws.Resume(Progress, to="return")
    seen = []

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        seen.append((event, resume.state, resume.hop, resume.chain))
        resume.checkpoint(Progress(resume.hop, "ä"))
        await asyncio.sleep(60)

    answer = await function.invoke([1], FakeContext(3, aws_request_id="r"))
    await function.invoke(answer["checkpoint"], FakeContext(3))
    assert seen == [([1], None, 1, "r"), ([1], Progress(1, "ä"), 2, "r")]


async def test_the_last_checkpoint_is_a_snapshot(virtual_clock: VirtualClock) -> None:
    """What happens to a state after its checkpoint is not in it."""
    resume: aws.Resume[dict[str, list[int]]] = aws.Resume(dict[str, list[int]], to="return")

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        state: dict[str, list[int]] = {"seen": [1]}
        resume.checkpoint({"seen": [0]})
        resume.checkpoint(state)
        state["seen"].append(2)
        await asyncio.sleep(60)

    answer = await function.invoke(None, FakeContext(3))
    assert answer["checkpoint"]["deadline_resume"]["state"] == {"seen": [1]}


async def test_bytes_are_kept_as_they_are(virtual_clock: VirtualClock) -> None:
    """A state's JSON needs no writing; bytes that are no state are refused, the first at once."""
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        resume.checkpoint(b'{"done": 4, "note": "a"}')
        resume.checkpoint(b'{"done": 5, "note": "a"}' if event is None else event.encode())
        await asyncio.sleep(60)

    answer = await function.invoke(None, FakeContext(3))
    assert answer["checkpoint"]["deadline_resume"]["state"] == {"done": 5, "note": "a"}
    for bad in ("{", '{"done": "5"}', '1}, "hop": 3', '\ufeff{"done": 5, "note": ""}'):
        with pytest.raises(aws.ResumeError, match="the bytes are not the JSON of a state"):
            await function.invoke(bad, FakeContext(3))

    @aws.handler(resume=resume)
    async def at_once(event: Any, context: Any) -> None:
        resume.checkpoint(b"{")

    with pytest.raises(ValueError, match="checkpoint: the bytes are not the JSON of a state"):
        await at_once.invoke(None, FakeContext(3))


async def test_without_a_checkpoint_an_expiry_is_an_ordinary_one(virtual_clock: VirtualClock) -> None:
    """Also in a later hop: to hand its state on again would be no progress. on_exceeded is asked."""
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    for event in (None, envelope(resume, {"done": 1, "note": ""})):
        with pytest.raises(DeadlineExceeded):
            await function.invoke(event, FakeContext(3))

    @function.on_exceeded
    async def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return {"mitigated": event, "state": resume.state}

    answer = await function.invoke(envelope(resume, {"done": 1, "note": ""}, event="e"), FakeContext(3))
    assert answer == {"mitigated": "e", "state": Progress(1)}


async def test_with_a_checkpoint_nobody_is_asked_or_told(
    virtual_clock: VirtualClock, told: list[Event]
) -> None:
    """Going on is what is to happen: no on_exceeded, no notice, no warning; an event says so."""
    got, note = await notices()
    resume = aws.Resume(Progress, to="return")
    count = counting(resume, notice=note)

    count.on_exceeded(not_asked)
    assert (await count.invoke(None, FakeContext(5, aws_request_id="r")))["status"] == "partial"
    assert got == []
    (resumed,) = told
    assert resumed.name == "aws.resumed"
    assert resumed.level == logging.INFO
    assert resumed.fields == {
        "request_id": "r",
        "chain": "r",
        "hop": 1,
        "bytes": len('{"done": 3, "note": ""}'),
    }


async def test_an_inner_deadline_of_the_invocation_goes_on_too(virtual_clock: VirtualClock) -> None:
    """As on_exceeded is reached from it."""
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume)
    async def function(event: Any, context: Any) -> Any:
        async with deadline(context, margin=1.5):
            resume.checkpoint(Progress(1))
            await asyncio.sleep(60)

    assert (await function.invoke(None, FakeContext(3)))["status"] == "partial"


async def test_a_callable_gets_the_next_event(virtual_clock: VirtualClock) -> None:
    """With context and resources, within the mitigation's share; its answer does not count."""
    sent = []

    async def send(event: Any, context: Any) -> str:
        sent.append((event, context.function_name))
        return "ignored"

    resume = aws.Resume(Progress, to=send, key=SECRET)
    answer = await counting(resume).invoke({"a": 1}, FakeContext(5, aws_request_id="r"))
    assert answer == {"status": "resumed", "chain": "r", "hop": 1}
    ((event, name),) = sent
    assert event == signed(envelope(resume, {"done": 3, "note": ""}, event={"a": 1}, chain="r"))
    assert name == "function"


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_message_of_a_queue_is_a_hop(virtual_clock: VirtualClock, indent: int | None) -> None:
    """An envelope that comes by SQS is unwrapped, as it was written; in a batch it is refused."""
    resume = aws.Resume(Progress, to=send_nothing, key=SECRET)
    count = counting(resume, to=5)
    event = signed(envelope(resume, {"done": 4, "note": "ü"}, event={"b": 1.5, "a": "ä"}))
    body = json.dumps(event, indent=indent)
    answer = {"status": "done", "count": 5, "event": {"b": 1.5, "a": "ä"}}
    assert await count.invoke(queued(body), FakeContext(9)) == answer
    assert await count.invoke(event, FakeContext(9)) == answer
    with pytest.raises(aws.ResumeError, match="a batch of 2 messages.*batch size of 1"):
        await count.invoke(queued("deadline_resume", body), FakeContext(9))


async def test_concurrent_invocations_keep_their_own(virtual_clock: VirtualClock) -> None:
    """One Resume, many hops at once, and the tasks that each of them starts."""
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        async def work() -> None:
            resume.checkpoint(Progress(event, str(resume.chain)))

        async with asyncio.TaskGroup() as group:
            group.create_task(work())
        await asyncio.sleep(60)

    contexts = [FakeContext(3, aws_request_id=str(number)) for number in range(20)]
    answers = await asyncio.gather(*(function.invoke(n, context) for n, context in enumerate(contexts)))
    states = [one["checkpoint"]["deadline_resume"]["state"] for one in answers]
    assert states == [{"done": n, "note": str(n)} for n in range(20)]


@pytest.mark.slow
def test_a_blocked_loop_goes_on(own_environment: None) -> None:
    """Work that never gives the loop a turn is interrupted, and its last checkpoint goes; a thread's, too."""
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume, margin=0.3)
    async def function(event: Any, context: Any) -> Any:
        if event == "thread":
            await asyncio.to_thread(resume.checkpoint, Progress(1))
            time.sleep(60)  # noqa: ASYNC251  # that is the case
        done = 0
        while True:
            done += 1
            resume.checkpoint(Progress(done))

    answer = function({"a": 1}, FakeContext(0.6))
    assert answer["status"] == "partial"
    assert answer["checkpoint"]["deadline_resume"]["state"]["done"] > 100
    answer = function("thread", FakeContext(0.6))
    assert answer["checkpoint"]["deadline_resume"]["state"]["done"] == 1


# --- what fails -------------------------------------------------------------------------------------------


async def test_the_hop_limit_stops_a_runaway(virtual_clock: VirtualClock) -> None:
    """The last hop fails, with its checkpoint in the error and in the notice: nothing is lost."""
    got, note = await notices()
    resume = aws.Resume(Progress, to="return", hops=3)
    count = counting(resume, notice=note)
    event: Any = {"x": 1}
    for _ in range(2):
        event = (await count.invoke(event, FakeContext(5)))["checkpoint"]
    with pytest.raises(aws.ResumeError, match="hops=3 is the most") as failed:
        await count.invoke(event, FakeContext(5))
    assert failed.value.hop == 3
    checkpoint = failed.value.checkpoint
    assert checkpoint == envelope(
        resume, {"done": 9, "note": ""}, hop=4, event={"x": 1}, chain=failed.value.chain
    )
    assert DeadlineExceeded in causes(failed.value)
    (message,) = got
    assert message["checkpoint"] == checkpoint
    assert message["reason"] == "error"
    with pytest.raises(aws.ResumeError, match="this is hop 4, and hops=3 is the most"):
        await count.invoke(checkpoint, FakeContext(5))
    longer = counting(aws.Resume(Progress, to="return", hops=4), to=10)
    assert (await longer.invoke(checkpoint, FakeContext(5)))["count"] == 10


async def test_a_checkpoint_that_is_too_large_is_refused_at_once(virtual_clock: VirtualClock) -> None:
    """The message names the limit, the notice has the state, and the checkpoint before stays."""
    got, note = await notices()
    resume = aws.Resume(Progress, to="return", limit=1_000)

    @aws.handler(resume=resume, margin=1.0, notice=note)
    async def function(event: Any, context: Any) -> Any:
        resume.checkpoint(Progress(1))
        try:
            resume.checkpoint(Progress(2, "x" * 1_000))
        except aws.ResumeError as error:
            if event is None:
                raise
            assert error.checkpoint is not None
            await asyncio.sleep(60)

    with pytest.raises(aws.ResumeError, match=r"1,\d\d\d bytes, and 1,000 is the most.*in S3"):
        await function.invoke(None, FakeContext(3))
    assert got[0]["checkpoint"]["deadline_resume"]["state"]["note"] == "x" * 1_000
    answer = await function.invoke("handled", FakeContext(3))
    assert answer["checkpoint"]["deadline_resume"]["state"]["done"] == 1


@pytest.mark.parametrize(("to", "limit"), [("self", 1_000_000), ("return", 262_144), (None, 260_096)])
async def test_the_limits_are_those_of_what_it_goes_to(
    virtual_clock: VirtualClock, to: Any, limit: int
) -> None:
    """To the byte, the event included."""

    async def send(event: Any, context: Any) -> None:
        """Take anything."""

    resume: aws.Resume[str] = aws.Resume(str, to=to or send, key=SECRET)

    @aws.handler(resume=resume)
    async def function(event: Any, context: Any) -> str:
        with pytest.raises(aws.ResumeError, match=f"{limit:,} is the most") as refused:
            resume.checkpoint("x" * limit)
        over = len(json.dumps(refused.value.checkpoint)) - limit
        resume.checkpoint("x" * (limit - over))
        with pytest.raises(aws.ResumeError):
            resume.checkpoint("x" * (limit - over + 1))
        return "checked"

    assert await function.invoke({"a": "ü" * 100}, FakeContext(60)) == "checked"


async def test_a_failure_to_hand_on_is_the_function_s_error(virtual_clock: VirtualClock) -> None:
    """With what went wrong as its cause, and the checkpoint in the notice. on_exceeded is not asked."""
    got, note = await notices()

    async def send(event: Any, context: Any) -> None:
        raise KeyError("no queue")

    for to, cause in ((send, KeyError), (hang, DeadlineExceeded)):
        resume = aws.Resume(Progress, to=to, key=SECRET)
        count = counting(resume, notice=note)
        count.on_exceeded(not_asked)
        before = asyncio.get_running_loop().time()
        with pytest.raises(aws.ResumeError, match="the checkpoint could not be handed on") as failed:
            await count.invoke(None, FakeContext(5, aws_request_id="r"))
        assert asyncio.get_running_loop().time() - before < 5
        assert cause in causes(failed.value)
        assert failed.value.checkpoint == signed(envelope(resume, {"done": 3, "note": ""}, chain="r"))
        assert got.pop()["checkpoint"] == failed.value.checkpoint
        assert not got


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 13}, "hops=12 is the most"),
        ({"version": "old"}, "the state was written in version 'old'"),
        ({"state": {"done": "1", "note": ""}}, "the state is not of the declared type"),
        ({"state": {"done": 1}}, "the state is not of the declared type"),
        ({"state": None}, "the state is not of the declared type"),
    ],
)
async def test_a_stale_envelope_is_refused(
    virtual_clock: VirtualClock, change: dict[str, Any], message: str
) -> None:
    """Before the body runs; what is well formed and only cannot be read here stands in the notice."""
    got, note = await notices()
    resume = aws.Resume(Progress, to="return")
    ran = []

    @aws.handler(resume=resume, notice=note)
    async def function(event: Any, context: Any) -> Any:
        ran.append(event)

    event = envelope(resume, {"done": 1, "note": ""})
    event["deadline_resume"] |= change
    with pytest.raises(aws.ResumeError, match=message):
        await function.invoke(event, FakeContext(5))
    assert ran == []
    assert got[0]["event"] == event
    assert got[0]["checkpoint"] == event


@pytest.mark.parametrize("caller", [one for one in aws.callers if one.waits], ids=lambda one: one.name)
async def test_a_caller_that_waits_is_refused_self(virtual_clock: VirtualClock, caller: aws.Caller) -> None:
    """It would never get the result; the message says what to do. `force` goes on, and "return" may."""
    event = EVENTS[caller.name]

    @aws.handler(resume=aws.Resume(Progress))
    async def refused(event: Any, context: Any) -> None:
        raise AssertionError

    refusal = f'{caller.title}.* waits for the answer.*to="return".*force=True'
    with pytest.raises(aws.ResumeError, match=refusal):
        await refused.invoke(event, FakeContext(5))
    for resume in (aws.Resume(Progress, force=True), aws.Resume(Progress, to="return")):
        assert (await counting(resume, to=1).invoke(event, FakeContext(5)))["status"] == "done"
    queue = {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}
    assert (await counting(aws.Resume(Progress), to=1).invoke(queue, FakeContext(5)))["status"] == "done"


async def test_an_event_that_json_cannot_hold_is_refused(virtual_clock: VirtualClock) -> None:
    """It could not go on; Lambda sends none, but tests may."""
    with pytest.raises(aws.ResumeError, match="the event is to go on with the state, and JSON cannot"):
        await counting(aws.Resume(Progress)).invoke({"a": {1}}, FakeContext(5))


async def test_a_bad_state_leaves_the_checkpoint_before(virtual_clock: VirtualClock) -> None:
    """Of another type, with a value that JSON has not: an error that says so, and nothing lost."""
    resume = aws.Resume(Progress, to="return")
    bad: list[Any] = [{"done": 1}, Progress("1"), None, bytearray(b"{}"), Progress(1, b"a")]  # type: ignore[arg-type]

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        resume.checkpoint(Progress(1))
        for state in bad:
            with pytest.raises(TypeError, match="^checkpoint: expected"):
                resume.checkpoint(state)
        await asyncio.sleep(60)

    answer = await function.invoke(None, FakeContext(3))
    assert answer["checkpoint"]["deadline_resume"]["state"] == {"done": 1, "note": ""}


async def test_outside_of_an_invocation_there_is_nothing() -> None:
    """The message says what is missing."""
    resume = aws.Resume(Progress)
    uses: list[Callable[[], object]] = [
        lambda: resume.state,
        lambda: resume.hop,
        lambda: resume.chain,
        lambda: resume.checkpoint(Progress(1)),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"write @aws.handler\(resume=resume\)"):
            use()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hops": 0}, ValueError, "hops: 0 lets nothing go on"),
        ({"hops": 1.5}, TypeError, "hops: expected a whole number"),
        ({"hops": True}, TypeError, "hops: expected a whole number"),
        ({"to": "queue"}, TypeError, 'to: expected "self", "return" or an `async def`'),
        ({"to": print}, TypeError, "to: expected"),
        ({"once": ""}, TypeError, "once: expected a text"),
        ({"once": 3}, TypeError, "once: expected a text"),
        ({"version": 2}, TypeError, "version: expected a text such as version='2'"),
        ({"limit": 0}, ValueError, "limit: 0 lets nothing go on"),
        ({"force": "yes"}, TypeError, "force: expected True or False"),
        ({"key": 5}, TypeError, "key: expected bytes, a text, a tuple of them, or the ARN"),
        ({"key": ("x" * 32, 5)}, TypeError, "key: expected bytes, a text, a tuple of them, or the ARN"),
        ({"key": "hunter2"}, ValueError, r"key: 7 bytes are too few.*secrets.token_hex\(32\)"),
        ({"to": send_nothing}, ValueError, "key: .*set the environment variable DEADLINE_RESUME_KEY"),
        ({"to": send_nothing, "key": ()}, ValueError, "key: .*set the environment variable"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """With the fix."""
    with pytest.raises(error, match=message):
        aws.Resume(Progress, **arguments)


def test_more_hops_than_lambda_allows_warn() -> None:
    """With "self" only, and it can be allowed."""
    with pytest.warns(UserWarning, match="PutFunctionRecursionConfig"):
        aws.Resume(Progress, hops=16)
    aws.Resume(Progress, hops=100, to="return")


def test_the_handler_checks_what_it_is_given() -> None:
    """A Resume, whose callable takes what it will be given."""

    async def send(event: Any) -> None:
        """Take too little."""

    with pytest.raises(TypeError, match="resume: expected an aws.Resume"):
        aws.handler(resume=Progress(1))(hang)  # type: ignore[call-overload]

    with pytest.raises(TypeError, match=r"to: .*send is called with \(event, context\)"):
        aws.handler(resume=aws.Resume(Progress, to=send, key=SECRET))(hang)


async def test_disabled_a_hop_still_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that is on its way when somebody turns the switch does its last hop, however long it takes."""
    monkeypatch.setattr("deadline._core.scope.DISABLED", True)
    resume = aws.Resume(Progress, to="return")

    @aws.handler(resume=resume)
    async def function(event: Any, context: Any) -> Any:
        resume.checkpoint(Progress(5))
        return event, resume.state, resume.hop

    answer = await function.invoke(envelope(resume, {"done": 1, "note": ""}, event="e"), FakeContext(0))
    assert answer == ("e", Progress(1), 2)


# --- what is no envelope ----------------------------------------------------------------------------------


def forged(resume: aws.Resume[Any], **change: Any) -> Any:
    """An envelope with a good signature of somebody, and a change after that."""
    event = signed(envelope(resume, {"done": 1, "note": ""}, event={"admin": True}))
    return {"deadline_resume": event["deadline_resume"] | change}


@pytest.mark.parametrize(
    "change",
    [
        {"hop": "2"},
        {"hop": 1},
        {"hop": True},
        {"hop": 2.0},
        {"hop": -3},
        {"hop": 10**30},
        {"hop": 3},
        {"chain": 5},
        {"chain": ""},
        {"chain": "x" * 500},
        {"chain": "c\n[ERROR] a made-up line\x1b[2J"},
        {"chain": "another"},
        {"version": "v\n[ERROR]" * 5_000},
        {"more": 1},
        {"state": {"done": 2, "note": ""}},
        {"event": {"admin": False}},
        {"signature": "0" * 64},
        {"signature": "ä" * 64},
        {"signature": ""},
        {"signature": None},
        {"signature": 5},
    ],
    ids=repr,
)
async def test_what_is_not_signed_as_it_stands_is_an_ordinary_event(
    virtual_clock: VirtualClock, told: list[Event], change: dict[str, Any]
) -> None:
    """Each field is bound; the event reaches the function untouched, and `aws.resume_ignored` tells of it."""
    resume = aws.Resume(Progress, to=send_nothing, key=SECRET)
    count = counting(resume, to=0)
    event = forged(resume, **change)
    assert (await count.invoke(event, FakeContext(5, aws_request_id="r")))["event"] is event
    (ignored,) = told
    assert (ignored.name, ignored.fields["hop"], ignored.fields["chain"]) == ("aws.resume_ignored", 1, "r")
    message = queued(json.dumps(event))
    assert (await count.invoke(message, FakeContext(5)))["event"] is message
    assert resume_names(told) == ["aws.resume_ignored"] * 2


def resume_names(told: list[Event]) -> list[str]:
    return [one.name for one in told if one.name.startswith("aws.resume")]


@pytest.mark.parametrize("value", [None, 3, [], "text", {}])
@pytest.mark.parametrize("to", ["self", "return"])
async def test_a_foreign_value_under_the_key_is_an_ordinary_event(
    virtual_clock: VirtualClock, value: Any, to: Any
) -> None:
    """Without a key, too; also where other keys stand beside an envelope."""
    resume = aws.Resume(Progress, to=to)
    count = counting(resume, to=0)
    for event in ({"deadline_resume": value}, envelope(resume, {"done": 1, "note": ""}) | {"more": 1}):
        assert (await count.invoke(event, FakeContext(5)))["event"] is event


@pytest.mark.parametrize("to", ["self", "return"])
async def test_no_message_is_looked_at_that_cannot_be_a_hop(virtual_clock: VirtualClock, to: Any) -> None:
    """A function that invokes itself, or hands back, gets no hop from a queue, also no signed one."""
    resume = aws.Resume(Progress, to=to, key=SECRET)
    event = queued(json.dumps(signed(envelope(resume, {"done": 1, "note": ""}))))
    assert (await counting(resume, to=0).invoke(event, FakeContext(5)))["event"] is event


async def test_one_forged_message_fails_no_other(virtual_clock: VirtualClock) -> None:
    """A batch of ten, one of them hostile in each way, reaches the function whole."""
    resume = aws.Resume(Progress, to=send_nothing, key=SECRET)
    count = counting(resume, to=0)
    innocent = [json.dumps({"order": number}) for number in range(9)]
    deep = '{"deadline_resume":' + "[" * 200_000
    closed = '{"deadline_resume":' + "[" * 200 + "]" * 200 + "}"
    huge = json.dumps(signed(envelope(resume, {"done": 1, "note": "x" * 1_100_000})))
    hostile = [json.dumps(forged(resume, chain="x")), '{"deadline_resume":0}', deep, closed, huge]
    hostile += ['{"deadline_resume":', '"deadline_resume"', "deadline_resume", '{"deadline_resume":1}{']
    hostile.append('{"deadline_resume":' + '"\\' * 500_000)  # each quote could begin a text, and none ends
    hostile.append(json.dumps(forged(resume, state=float("nan"))))
    for body in hostile:
        for event in (queued(*innocent, body), queued(body)):
            assert (await count.invoke(event, FakeContext(5)))["event"] is event
    odd: Any = {"Records": [{}, 1, None, {"body": 5}, {"body": None}]}
    assert (await count.invoke(odd, FakeContext(5)))["event"] is odd


@pytest.mark.parametrize("to", ["self", "return"])
async def test_a_key_has_unsigned_envelopes_refused(virtual_clock: VirtualClock, to: Any) -> None:
    """Where the key is optional it counts all the same."""
    resume = aws.Resume(Progress, to=to, key=SECRET)
    event = envelope(resume, {"done": 1, "note": ""}, event="e")
    assert (await counting(resume, to=1).invoke(event, FakeContext(5)))["event"] is event
    assert (await counting(resume, to=1).invoke(signed(event), FakeContext(5)))["event"] == "e"


async def test_an_envelope_of_another_function_or_key_is_none(virtual_clock: VirtualClock) -> None:
    """The function's name is signed, so functions with one key do not take each other's hops."""
    resume = aws.Resume(Progress, to="return", key=SECRET)
    count = counting(resume, to=0)
    event = envelope(resume, {"done": 1, "note": ""}, event="e")
    for other in (signed(event, function="other"), signed(event, key="x" * 32)):
        assert (await count.invoke(other, FakeContext(5)))["event"] is other


async def test_a_key_is_replaced_while_a_chain_is_on_its_way(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first key signs; each is accepted. The environment's have commas between them."""
    old, new = "a" * 32, "b" * 32
    before = aws.Resume(Progress, to="return", key=old.encode())
    handed = (await counting(before).invoke("e", FakeContext(5)))["checkpoint"]
    monkeypatch.setenv("DEADLINE_RESUME_KEY", f"{new}, {old}")
    for resume in (aws.Resume(Progress, to="return"), aws.Resume(Progress, to="return", key=(new, old))):
        answer = await counting(resume).invoke(handed, FakeContext(5))
        fields = dict(answer["checkpoint"]["deadline_resume"])
        assert (fields["hop"], fields["state"]["done"]) == (3, 6)
        given = fields.pop("signature")
        assert given == signature(new.encode(), "function", fields)


async def test_what_is_too_deep_to_be_read_is_not_sent(virtual_clock: VirtualClock) -> None:
    """The next hop would take it for an ordinary message; the error has the checkpoint."""
    state: Any = []
    for _ in range(150):
        state = [state]
    resume: aws.Resume[Any] = aws.Resume(Any, to=send_nothing, key=SECRET)

    @aws.handler(resume=resume, margin=1.0)
    async def function(event: Any, context: Any) -> Any:
        resume.checkpoint(state)
        await asyncio.sleep(60)

    with pytest.raises(aws.ResumeError, match="more than 100 levels deep") as failed:
        await function.invoke(None, FakeContext(5))
    assert failed.value.checkpoint is not None
    assert failed.value.checkpoint["deadline_resume"]["state"] == state


async def test_a_resume_error_is_one_short_line(virtual_clock: VirtualClock) -> None:
    """Whatever an envelope says: no control characters, and not longer than a line of a log should be."""
    resume = aws.Resume(dt.datetime, to="return")
    for change in ({"state": "x\n[ERROR]\x1b[2J" * 50_000}, {"version": "v\n[ERROR]" * 5_000}):
        event = envelope(resume, "2026-01-01") | {}
        event["deadline_resume"] |= change
        with pytest.raises(aws.ResumeError) as failed:
            await counting(resume).invoke(event, FakeContext(5))  # type: ignore[arg-type]
        assert str(failed.value).isprintable()
        assert len(str(failed.value)) <= 2_000


class Vault:
    """Secrets Manager, as a client that counts."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.reads = 0
        self.broken = False

    async def get_secret_value(self, **request: str) -> dict[str, str]:
        stage = request["VersionStage"]
        self.reads += 1
        code = "ResourceNotFoundException"
        if self.broken or stage not in self.versions:
            code = "InternalServiceError" if self.broken else code
            raise ClientError({"Error": {"Code": code, "Message": request["SecretId"]}}, "GetSecretValue")
        return {"SecretString": self.versions[stage]}


async def test_a_secret_is_read_once_and_again_for_a_newer_key(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at import; its current version signs, the one before is accepted; a failure later costs nothing."""
    vault = Vault(AWSCURRENT="a" * 32)
    monkeypatch.setattr(OwnClient, "_client", lambda _: contextlib.nullcontext(vault))
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:resume"
    resume = aws.Resume(Progress, to=send_nothing, key=arn)
    count = counting(resume, to=0)
    assert vault.reads == 0
    for _ in range(3):
        await count.invoke("e", FakeContext(5))
    assert vault.reads == 2
    vault.versions = {"AWSCURRENT": "b" * 32, "AWSPREVIOUS": "a" * 32}
    event = envelope(resume, {"done": 1, "note": ""}, event="e")
    for key in ("a" * 32, "b" * 32, "a" * 32):
        assert (await count.invoke(signed(event, key=key), FakeContext(5)))["event"] == "e"
    assert vault.reads == 4
    vault.broken = True
    wrong = signed(event, key="c" * 32)
    assert (await count.invoke(wrong, FakeContext(5)))["event"] is wrong
    with pytest.raises(
        aws.ResumeError, match="key: the secret cannot be used.*secretsmanager:GetSecretValue"
    ):
        await counting(aws.Resume(Progress, to="return", key=arn)).invoke("e", FakeContext(5))


# --- once -------------------------------------------------------------------------------------------------


@pytest.fixture
async def table(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table of claims; gives a client, which handlers use, too: `invoke` would make one for each call."""
    dynamodb = await connect()
    monkeypatch.setattr(OwnClient, "_client", lambda _: contextlib.nullcontext(dynamodb))
    await create_table(dynamodb, "hops", "id")
    return dynamodb


async def create_table(dynamodb: Any, name: str, key: str) -> None:
    await dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


class Work:
    """A function whose hops are told, and cut after a moment."""

    def __init__(self, to: Any = "return", table: str = "hops") -> None:
        self.runs: list[int] = []
        self.fail = False
        resume = self.resume = aws.Resume(Progress, to=to, once=table, key=SECRET if callable(to) else None)

        @aws.handler(resume=resume, margin=0.6)
        async def function(event: Any, context: Any) -> Any:
            self.runs.append(resume.hop)
            if resume.hop == 3:
                return {"result": 3}
            resume.checkpoint(Progress(len(self.runs)))
            if self.fail:
                raise KeyError("bad luck")
            return await asyncio.sleep(60)

        self.function: Any = function

    async def begun(self) -> asyncio.Task[Any]:
        """A first hop that runs."""
        task = asyncio.create_task(self(None, 2.0))
        while not self.runs and not task.done():
            await asyncio.sleep(0.01)
        return task

    async def __call__(self, event: Any, seconds: float = 1.2) -> Any:
        return await self.function.invoke(event, FakeContext(seconds, aws_request_id="r"))


@pytest.mark.slow
async def test_a_hop_that_is_done_does_not_run_again(table: Any) -> None:
    """A duplicate, and one that comes after its successors, answers what the first answered."""
    work = Work()
    first = await work(None)
    second = await work(first["checkpoint"])
    third = await work(second["checkpoint"])
    assert third == {"result": 3}
    assert await work(first["checkpoint"]) == second
    assert await work(None) == first
    assert await work(second["checkpoint"]) == third
    assert work.runs == [1, 2, 3]
    item = (await table.get_item(TableName="hops", Key={"id": {"S": "r#1"}}))["Item"]
    assert 13 < (float(item["expires"]["N"]) - time.time()) / 86_400 < 15


@pytest.mark.slow
async def test_a_hop_that_runs_does_not_run_beside(table: Any) -> None:
    """The second is told until when the first may take, and fails, so as to come again."""
    work = Work()
    first = await work.begun()
    with pytest.raises(aws.ResumeError, match="hop 1 of chain r: another run of it has claimed it until"):
        await work(None)
    assert (await first)["status"] == "partial"
    assert work.runs == [1]


@pytest.mark.slow
async def test_a_hop_that_failed_runs_again_at_once(table: Any) -> None:
    """Its error gives the claim back."""
    work = Work()
    work.fail = True
    with pytest.raises(KeyError):
        await work(None, 60)
    work.fail = False
    assert (await work(None))["status"] == "partial"
    assert work.runs == [1, 1]


@pytest.mark.slow
async def test_an_end_that_cannot_be_noted_is_an_end(table: Any, told: list[Event]) -> None:
    """The result stands: an error would have the work done again."""
    work = Work()
    event = envelope(work.resume, {"done": 1, "note": ""}, hop=3)

    @aws.handler(resume=work.resume)
    async def loses(event: Any, context: Any) -> Any:
        await table.delete_table(TableName="hops")
        return {"result": 3}

    work.function = loses
    assert await work(event) == {"result": 3}
    assert "aws.resume_unnoted" in [one.name for one in told]


@pytest.mark.slow
async def test_what_was_written_and_not_sent_is_sent_by_the_retry(table: Any) -> None:
    """Nothing runs again, and after that nothing is sent again."""
    sent: list[Any] = []
    broken = [True]

    async def send(event: Any, context: Any) -> None:
        if broken[0]:
            raise ConnectionError
        sent.append(event)

    work = Work(to=send)
    with pytest.raises(aws.ResumeError, match="could not be handed on"):
        await work(None)
    broken[0] = False
    for _ in range(2):
        assert (await work(None))["status"] == "resumed"
    assert work.runs == [1]
    assert [event["deadline_resume"]["state"]["done"] for event in sent] == [1]


@pytest.mark.slow
async def test_a_run_that_was_overtaken_hands_nothing_on(table: Any) -> None:
    """Its claim is another's by now: a frozen process, say, that was thought dead."""
    sent: list[Any] = []

    async def send(event: Any, context: Any) -> None:
        sent.append(event)

    work = Work(to=send)
    running = await work.begun()
    await table.update_item(
        TableName="hops",
        Key={"id": {"S": "r#1"}},
        UpdateExpression="SET #owner = :other",
        ExpressionAttributeNames={"#owner": "owner"},
        ExpressionAttributeValues={":other": {"S": "other"}},
    )
    with pytest.raises(aws.ResumeError, match="another run of it has claimed it"):
        await running
    assert sent == []


@pytest.mark.slow
async def test_a_table_that_is_not_there_or_other_is_named(table: Any) -> None:
    """Before the body runs."""
    await create_table(table, "other", "pk")
    for name in ("nowhere", "other"):
        work = Work(table=name)
        with pytest.raises(aws.ResumeError, match=f'once: the DynamoDB table .{name}. .*text "id"'):
            await work(None)
        assert work.runs == []


@pytest.mark.slow
def test_whoever_resumes_nothing_loads_nothing() -> None:
    """`import deadline.aws` leaves it out; a handler without it, too. The state's codec waits for one."""
    code = """
import sys
from deadline import aws
@aws.handler
async def function(event, context): ...
print([name for name in ("resume", "hop", "state_codec") if f"deadline.aws._resume.{name}" in sys.modules])
from deadline.aws import Resume, ResumeError
print(aws.Resume is Resume, aws.ResumeError is ResumeError)
print("deadline.aws._resume.state_codec" in sys.modules, "botocore" in sys.modules)
aws.Resume(int, to="return")
print("botocore" in sys.modules, "pydantic" in sys.modules)
try:
    aws.Nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [
        "[]",
        "True True",
        "False False",
        "False False",
        "module 'deadline.aws' has no attribute 'Nothing'",
    ]


@pytest.mark.parametrize("state", ["\u4e2d" * 50_000, list(range(30_000))])
async def test_what_goes_on_is_as_long_as_it_was_counted(state: Any) -> None:
    """Neither letters beyond ASCII nor separators grow on the way."""
    resume: aws.Resume[Any] = aws.Resume(Any, force=True)
    hop = resume.open({"a": "ü\ud800"}, FakeContext(1, aws_request_id="r"), contextvars.copy_context())
    resume.bind(hop)
    await hop.read()
    resume.checkpoint(state)
    assert hop.snapshot is not None
    sent = []

    class Client:
        async def call(self, operation: str, request: dict[str, Any], outside: Any) -> None:
            sent.append(request)

    resume.invoke = Client()
    assert (await hop.carry_on(()))["status"] == "resumed"
    (request,) = sent
    assert len(request["Payload"]) == resume.limit() - hop.room + len(hop.snapshot)
    fields = json.loads(request["Payload"])["deadline_resume"]
    assert (fields["state"], fields["event"]) == (state, {"a": "ü\ud800"})
