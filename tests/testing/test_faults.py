"""Which fault a request meets, and what the log keeps: no sockets."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from deadline.testing import (
    Answer,
    AwsErrorAnswer,
    BlackHole,
    Delay,
    Drip,
    Exchange,
    Fault,
    HalfClose,
    Request,
    Reset,
    Stall,
    throttling,
)
from deadline.testing._proxy.journal import Journal
from deadline.testing._proxy.rules import Rules

GET = Request("GET", "/", {})
PUT = Request("PUT", "/key", {})


def is_get(request: Request) -> bool:
    return request.method == "GET"


@pytest.mark.parametrize(
    ("headers", "body", "operation"),
    [
        ({"x-amz-target": "DynamoDB_20120810.PutItem"}, b"{}", "PutItem"),
        ({"x-amz-target": "PutItem"}, b"{}", "PutItem"),
        (
            {"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
            b"Version=1&Action=Publish",
            "Publish",
        ),
        ({"content-type": "application/x-www-form-urlencoded"}, b"\xff=1", ""),
        ({"content-type": "text/plain"}, b"Action=Publish", ""),
        ({}, b"", ""),
    ],
)
def test_operation_comes_from_target_or_form(headers: dict[str, str], body: bytes, operation: str) -> None:
    """The operation is the target's last part or the form's action, and empty where neither is sent."""
    assert Request("POST", "/", headers, body).operation == operation


def test_no_rule_no_fault() -> None:
    """A request that no rule is meant for meets no fault."""
    rules = Rules()
    assert rules.take(GET) is None
    rules.add(Stall(), is_get, None)
    assert rules.take(PUT) is None


def test_the_first_matching_rule_is_played_alone() -> None:
    """Of two rules that match, the older one wins, as long as it is there."""
    rules = Rules()
    older = rules.add(Stall(), is_get, None)
    rules.add(Delay(1), None, None)
    assert rules.take(GET) == Stall()
    assert rules.take(PUT) == Delay(1)
    older.remove()
    assert rules.take(GET) == Delay(1)


def test_times_counts_only_requests_that_matched() -> None:
    """A rule for two times meets two matching requests and is spent."""
    rules = Rules()
    rules.add(Stall(), is_get, 2)
    taken = [rules.take(request) for request in (GET, PUT, GET, GET)]
    assert taken == [Stall(), None, Stall(), None]


def test_removing_twice_is_allowed() -> None:
    """A rule that is spent, cleared or removed already can be removed."""
    rules = Rules()
    rule = rules.add(Stall(), None, None)
    rules.clear()
    rule.remove()
    rule.remove()
    assert rules.take(GET) is None


def test_removing_one_of_two_equal_rules_leaves_the_other() -> None:
    """Rules are told apart by identity, not by what they hold."""
    rules = Rules()
    first, _second = rules.add(Stall(), None, 1), rules.add(Stall(), None, 1)
    first.remove()
    assert [rules.take(GET), rules.take(GET)] == [Stall(), None]


def test_a_rule_removed_by_its_own_where_is_not_played() -> None:
    """Removal takes effect at once, even from inside the question whether it matches."""
    rules = Rules()

    def removes_it(_request: Request) -> bool:
        rule.remove()
        return True

    rule = rules.add(Stall(), removes_it, None)
    assert rules.take(GET) is None


def test_times_holds_with_many_threads() -> None:
    """A rule for a hundred times is played a hundred times, whoever asks."""
    rules = Rules()
    rules.add(Stall(), None, 100)
    taken: list[object] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(rules.take(GET) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(Stall()) == 100
    assert taken.count(None) == 100


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("stall", None, None), TypeError, r"fault must be a fault, such as Stall\(\)"),
        ((Stall, None, None), TypeError, "fault must be a fault"),
        ((Stall(), "GET", None), TypeError, "where must take a Request"),
        ((Stall(), None, 0), ValueError, "times must be None or a whole number from one"),
        ((Stall(), None, True), ValueError, "times must be"),
        ((Stall(), None, 1.5), ValueError, "times must be"),
    ],
)
def test_bad_rules_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    """A rule that could never work is refused by the argument's name."""
    with pytest.raises(error, match=message):
        Rules().add(*arguments)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Delay(-0.1), ValueError),
        (lambda: Delay(math.nan), ValueError),
        (lambda: Delay(math.inf), ValueError),
        (lambda: Delay(seconds=True), TypeError),
        (lambda: Delay("1"), TypeError),  # type: ignore[arg-type]
    ],
)
def test_impossible_delays_are_refused(make: Callable[[], Delay], error: type[Exception]) -> None:
    """A delay that is no span of time is refused by name, with an example of a good one."""
    with pytest.raises(error, match="seconds must be"):
        make()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BlackHole(-1), ValueError, "after must be 0 or more bytes, such as after=100"),
        (lambda: BlackHole(1.0), TypeError, "after must be a whole number of bytes"),  # type: ignore[arg-type]
        (lambda: BlackHole(1, "up"), ValueError, 'direction must be "response" or "request"'),  # type: ignore[arg-type]
        (lambda: Drip(0, 1), ValueError, "chunk must be 1 or more bytes"),
        (lambda: Drip(1, -1), ValueError, "every must be zero or more finite seconds"),
        (lambda: Reset(after=True), TypeError, "after must be"),
        (lambda: HalfClose(-1), ValueError, "after must be"),
        (lambda: Answer(100), ValueError, "status must be a final HTTP status, such as status=503"),
        (lambda: Answer(600), ValueError, "status must be"),
        (lambda: Answer(200, "text"), TypeError, 'body must be bytes, such as body=b"sorry"'),  # type: ignore[arg-type]
        (lambda: Answer(204, b"x"), ValueError, "body must be empty with status 204"),
        (
            lambda: Answer(200, b"", {"Content-Length": "3"}),
            ValueError,
            "headers must leave out Content-Length",
        ),
        (lambda: Answer(200, b"", {"A": 1}), TypeError, "headers must map text to text"),  # type: ignore[dict-item]
        (lambda: Answer(200, b"", {"A": "b\r\nC: d"}), ValueError, "headers must be lines of HTTP"),
        (lambda: AwsErrorAnswer(""), ValueError, "code must be an error code, such as code="),
        (lambda: AwsErrorAnswer("Oh no"), ValueError, "code must be"),
        (lambda: AwsErrorAnswer("Fine", 200), ValueError, "status must be one of an error"),
        (lambda: throttling(""), ValueError, "code must be"),
    ],
)
def test_impossible_faults_are_refused(
    make: Callable[[], Fault], error: type[Exception], message: str
) -> None:
    """An argument that makes no fault is refused by name, with an example of a good one."""
    with pytest.raises(error, match=message):
        make()


def test_faults_are_values() -> None:
    """Equal faults compare equal and can stand in sets, so a test can look for one in the log."""
    assert {Answer(503, b"", {"A": "b"}), BlackHole(3), throttling()} == {
        throttling(),
        BlackHole(3, direction="response"),
        Answer(503, b"", {"A": "b"}),
    }


@pytest.mark.parametrize(
    ("headers", "path", "service"),
    [
        (
            {"authorization": "AWS4-HMAC-SHA256 Credential=AK/20250101/eu-west-1/states/aws4_request, Sig=x"},
            "/",
            "states",
        ),
        ({}, "/box/a?X-Amz-Credential=AK%2F20250101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=1", "s3"),
        ({"authorization": "AWS AK:signature"}, "/", ""),
        ({}, "/", ""),
    ],
)
def test_service_comes_from_the_signature(headers: dict[str, str], path: str, service: str) -> None:
    """The service is the one that header or presigned URL are signed for, and empty where none is."""
    assert Request("GET", path, headers).service == service


@pytest.mark.parametrize(
    ("facts", "effect"),
    [
        ({}, "no"),
        ({"sent_upstream": True}, "unknown"),
        ({"sent_upstream": True, "sent_whole": True}, "unknown"),
        ({"sent_upstream": True, "upstream_status": 200}, "yes"),
        ({"sent_upstream": True, "upstream_status": 204}, "yes"),
        ({"sent_upstream": True, "upstream_status": 301}, "no"),
        ({"sent_upstream": True, "upstream_status": 404}, "no"),
        ({"sent_upstream": True, "upstream_status": 503}, "no"),
    ],
)
def test_effect_follows_from_what_crossed_the_wire(facts: Any, effect: str) -> None:
    """Not sent is no effect, a success from upstream is one, and sent without an answer is unknown."""
    assert Exchange(GET, None, 0.0, **facts).effect == effect


def test_what_was_read_of_the_log_does_not_change() -> None:
    """The log is read as a snapshot: later events make new records."""
    journal = Journal()
    number = journal.open(GET)
    before = journal.read()
    journal.note(number, fault=Stall(), ended=before[0].started + 1)
    assert [(e.fault, e.ended) for e in before] == [(None, None)]
    assert [e.fault for e in journal.read()] == [Stall()]


def test_waiting_ends_with_the_event() -> None:
    """Waiting for the log returns as soon as it is so, or at once if it is so already."""
    journal = Journal()
    asked = threading.Event()

    def has_two(log: Sequence[Exchange]) -> bool:
        asked.set()
        return len(log) == 2

    waiting = threading.Thread(target=journal.wait_until, args=(has_two, 30))
    waiting.start()
    assert asked.wait(30)
    journal.open(GET)
    journal.open(PUT)
    waiting.join(30)
    assert not waiting.is_alive()
    journal.wait_until(has_two, 0)


def test_waiting_in_vain_shows_the_log() -> None:
    """When it does not become so in time, the error holds what the log held."""
    journal = Journal()
    journal.open(PUT)
    with pytest.raises(TimeoutError, match=r"not so within 0\.01 seconds.*'PUT', path='/key'"):
        journal.wait_until(lambda _log: False, 0.01)
