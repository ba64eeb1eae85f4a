"""The examples do what they say, as their users run them."""

from __future__ import annotations

import importlib
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

import deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.testing import MotoServer

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def run(example: str, *arguments: str) -> str:
    pytest.importorskip("aioboto3")
    pytest.importorskip("awslambdaric")
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_demo_shows_both_fates() -> None:
    """Plainly the function is killed and nobody is told; under a deadline it answers and tells."""
    pytest.importorskip("rich")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, timeout=60, check=True
    )
    plain, _, ours = done.stdout.partition("under aws.handler")
    assert "KILLED at its timeout" in plain
    assert "draft.txt, final.txt  <- copied, not deleted" in plain
    assert "nobody was told" in plain
    assert "Sandbox.Timedout: Task timed out after 3.00 seconds" in plain
    assert "KILLED" not in ours
    assert '{"status": "partial", "done": ["copy"], "pending": ["delete"]}' in ours
    assert "s3.DeleteObject attempt" in ours
    assert "three_steps.py" in ours
    assert "done ['copy'], pending ['delete']" in ours
    assert "\x1b[" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_batch_that_stops_in_time_works_nothing_off_twice() -> None:
    """The loop is killed again and again and deletes nothing; the other one is never killed and ends."""
    said = run("batch.py")
    table = {line[:24].strip(): line[24:].split() for line in said.splitlines()[2:10]}
    assert table["killed"] == ["3", "0"]
    assert table["deleted"] == ["0", "30"]
    assert table["still in the queue"] == ["30", "0"]
    assert table["worked off"][1] == "30"
    assert table["worked off again"][1] == "0"
    assert int(table["worked off again"][0]) > 0
    assert "returned, because the function timed out" in said
    assert "deleted, because the function succeeded" in said


@pytest.mark.parametrize(
    ("function", "code", "last"),
    [
        ("plain", 3, "timeout: Sandbox.Timedout: Task timed out after 3.00 seconds"),
        ("handler", 0, 'response: {"hello": "whoever you are", "pending": ["look up"]}'),
    ],
)
def test_hello_is_killed_or_answers(function: str, code: int, last: str) -> None:
    """Under the local Lambda the plain handler dies silently, and the other says what it waited for."""
    pytest.importorskip("awslambdaric")
    pytest.importorskip("click")
    done = subprocess.run(
        [sys.executable, "-m", "deadline", "run", f"hello.{function}", "--event", "-"],
        cwd=EXAMPLES,
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        input='{"seconds": 60}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines()[-1] == last
    assert ("aws.exceeded" in done.stdout and "hello.py:" in done.stdout) == (function == "handler")


def test_the_last_words_are_told_by_the_next() -> None:
    """Under the local Lambda one is killed without a word, and the next one tells of it."""
    said = run("last_words.py")
    first, second = said.strip().split("\n\n")
    (request_id,) = re.findall(r"START RequestId: (\S+)", first)
    assert "signal: killed" in first
    assert f"aws.died function='last_words' request_id='{request_id}' step='resize'" in second
    assert "at_timeout=False" in second


class Mailbox(socketserver.StreamRequestHandler):
    """As much of a mail server as smtplib needs."""

    mails: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 bye\r\n")
                break
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.mails.append(mail.decode())
            self.wfile.write(b"250 fine\r\n")


@pytest.fixture
def mail_port() -> Iterator[int]:
    Mailbox.mails.clear()
    with socketserver.TCPServer(("127.0.0.1", 0), Mailbox) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


async def test_notices_are_recorded_retried_and_mailed(
    moto_server: MotoServer, mail_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, by whichever way it comes; what ran out of time is tried again twice, then mailed."""
    import aioboto3
    from moto.core.config import default_user_config

    from deadline.aws._notices.message import message
    from deadline.testing import FakeContext

    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("TABLE", "notices")
    monkeypatch.setenv("MAIL_HOST", "127.0.0.1")
    monkeypatch.setenv("MAIL_PORT", str(mail_port))
    monkeypatch.setenv("MAIL_TO", "us@example.com")
    monkeypatch.setitem(default_user_config, "lambda", {"use_docker": False})
    notices = importlib.import_module("notices")
    async with aioboto3.Session().client("dynamodb") as dynamodb:
        await dynamodb.create_table(
            TableName="notices",
            KeySchema=[{"AttributeName": "request_id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "request_id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        slow = message("r-1", "orders", "7", {"order": 1})
        tired = message("r-2", "orders", "7", {"order": 1, "noticed": 2})
        cut = message("r-3", "orders", "7", '{"order": 1, "items": [') | {"cut": ["event"]}
        error = {"type": "KeyError", "message": "'price'", "traceback": "Traceback: ..."}
        wrong = message("r-4", "orders", "7", {"order": 2}) | {"reason": "error", "error": error}
        for event, expected in [
            (slow, {"known": 0, "retried": 1, "mailed": 0}),
            ({"detail": slow}, {"known": 1, "retried": 0, "mailed": 0}),
            (
                {"Records": [{"body": json.dumps(tired)}, {"Sns": {"Message": json.dumps(cut)}}]},
                {"known": 0, "retried": 0, "mailed": 2},
            ),
            (wrong, {"known": 0, "retried": 0, "mailed": 1}),
        ]:
            assert await notices.handler.invoke(event, FakeContext(20.0)) == expected
        items = (await dynamodb.scan(TableName="notices"))["Items"]
    assert {item["request_id"]["S"] for item in items} == {"r-1", "r-2", "r-3", "r-4"}
    assert "Subject: orders: error" in Mailbox.mails[-1]
    assert "Traceback: ..." in Mailbox.mails[-1]


def test_a_cut_move_is_undone() -> None:
    """Plainly it is left half done and nobody is told; as a critical section it is undone, and says so."""
    plain, _, ours = run("undo.py").partition("\nmove\n")
    assert "Task timed out after 2.00 seconds" in plain
    assert "after:    the bucket holds final.txt, the table says draft.txt  <- half done" in plain
    steps = '{"copy": "undone", "delete": "undone", "note": "undone"}'
    assert f'answer:   {{"status": "undone", "steps": {steps}, "may land": ["note"]}}' in ours
    assert "after:    the bucket holds draft.txt, the table says draft.txt\n" in ours


def test_a_partial_loop_loads_every_row() -> None:
    """Each call stops before its cushion, says where to go on, and the last one is done."""
    *calls, last, count = run("partial.py").splitlines()
    assert calls
    assert all("{'status': 'partial', 'next': " in call for call in calls)
    assert "{'status': 'done'}" in last
    assert count == "the table has 50 rows of 50"


def test_a_start_that_hangs_is_named() -> None:
    """An import before it is killed; a lifespan, which the first invocation enters anew."""
    importing, _, opening = run("start.py").partition("--- the lifespan hangs\n")
    assert "importing='start.py:" in importing
    assert "slow_rates (slow_rates.py:11)" in importing
    assert "Status: timeout" in importing
    assert "opening='database'" in opening
    assert "database                                 start.py:" in opening
    assert opening.endswith("\nconnected\n")


def test_a_plain_function_answers_and_its_client_goes_on() -> None:
    """Before it is killed; the next invocation uses the client whose call was interrupted."""
    cut, noted = run("plain.py").splitlines()
    assert cut.startswith("success after 1.5 s: ")
    assert cut.endswith("{'status': 'partial', 'done': ['orders'], 'pending': ['invoices']}")
    assert noted.startswith("success after 0.")
    assert noted.endswith("{'status': 'noted'}")


def test_a_caller_is_answered_and_the_undo_completes() -> None:
    """Before second 29 the one, after it the other."""
    answering, released, response = run("gateway.py").splitlines()
    assert 28.2 < float(answering.removeprefix("second ").removesuffix(": answering")) < 29.0
    assert float(released.removeprefix("second ").removesuffix(": released")) > 29.0
    assert response == "response: {'statusCode': 504, 'body': 'Try again; nothing was ordered.'}"


def test_a_prime_is_found_over_several_invocations() -> None:
    """By a function that invokes itself, and by one that is called again: the same one, and the right one."""
    itself, _, loop = run("primes.py", "4000", "1.0").partition("a loop calls it again\n")
    *hops, last = itself.splitlines()[1:]
    assert hops
    assert all("success" in hop and "'status': 'resumed'" in hop for hop in hops)
    assert last.endswith("{'position': 4000, 'prime': 37813}")
    *partial, done = loop.splitlines()
    assert partial
    assert done.strip() == "{'status': 'done', 'position': 4000, 'prime': 37813}"


def test_a_dead_table_costs_nothing_once_its_breaker_is_open() -> None:
    """Without one every invocation waits; with one three do, and a probe finds it when it is back."""
    _, answers, *dead, back = run("breaker.py").splitlines()
    before, after = zip(*[(line[40:56].split(), line[56:].split()) for line in dead], strict=True)
    assert [(source, float(seconds) >= 0.4) for seconds, source in before] == [("default", True)] * 6
    assert [float(seconds) >= 0.4 for seconds, _ in after] == [True] * 3 + [False] * 3
    assert [line.split()[-1] for line in (answers, back)] == ["call", "call"]


def test_hanging_requests_cost_plain_runs_and_not_planned_ones() -> None:
    """Where one request in ten hangs, plain runs often end for nothing; planned and hedged ones are done."""
    plain, planned, hedged = [line.split() for line in run("odds.py").splitlines()[1:]]
    assert [plain[0], planned[0], hedged[0]] == ["plain", "planned", "hedged"]
    assert int(plain[1]) <= 14
    assert int(planned[1]) >= 19
    assert int(hedged[1]) >= 19


def test_a_home_page_with_dead_parts_is_there_in_time() -> None:
    """All fifty parts are answered, whoever is dead; on the second visit the dead are not asked."""
    first, second, third = [line[28:].split() for line in run("home_page.py").splitlines()[1:]]
    assert " ".join(first[2:6]) == "49 call, 1 default"
    for visit in (second, third):
        assert " ".join(visit[2:8]) == "4 cache, 45 call, 1 default"
    assert (second[-1], third[-1]) == ("4", "0")


def test_workers_that_hang_come_back() -> None:
    """Under `asyncio.timeout` three of four are gone; under a handler they answer, and all serve on."""
    pytest.importorskip("awslambdaric")
    plain, _, ours = run("managed.py").partition("handler\n")
    assert [line.split()[-1] for line in plain.splitlines()[1:4]] == ["timeout"] * 3
    assert "1 of 4 workers left" in plain
    assert ours.count("'status': 'partial'") == 3
    assert "4 of 4 workers left" in ours


def test_a_library_obeys_the_deadline_of_its_caller() -> None:
    """Its own limit alone, less within a deadline, and a refusal at the end."""
    assert run("library.py").splitlines() == [
        "alone: at most 5.0 s",
        "within: at most 2.0 s",
        "late: refused",
        "the time is up",
    ]
