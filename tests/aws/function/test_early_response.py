"""A caller that is gone before Lambda's timeout: the answer comes in time, the undo completes after it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from events import EVENTS

from deadline.testing import Emulator
from deadline.testing._emulator.environment import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.testing import Invocation

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = str(Path(__file__).parents[2] / "lambda_functions")
LIMIT = 29.0


def rest_event(waited: float, **more: Any) -> dict[str, Any]:
    """A request to a REST API that was received so many seconds ago."""
    context = EVENTS["rest-api"]["requestContext"] | {"requestTimeEpoch": int((time.time() - waited) * 1000)}
    return EVENTS["rest-api"] | {"requestContext": context} | more


@pytest.fixture(scope="module")
def functions() -> Iterator[dict[str, Emulator]]:
    """Each with the 60 seconds that Lambda gives it; they are warm."""
    with (
        Emulator("functions.undoes", path=FUNCTIONS, timeout=60.0) as undoes,
        Emulator("functions.around", path=FUNCTIONS, timeout=60.0) as around,
    ):
        running = {"undoes": undoes, "around": around}
        for function in running.values():
            assert function.invoke({"quick": True}).status == "success"
        yield running


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the platform was given an answer, on the wall clock; refused ones do not count."""
    instants: list[float] = []
    post = Environment.post

    def timed(self: Environment, *args: Any, **options: Any) -> Any:
        status = post(self, *args, **options)
        instants.append(time.time())
        assert status == 202
        return status

    monkeypatch.setattr(Environment, "post", timed)
    return instants


def sent(event: dict[str, Any]) -> float:
    """When API Gateway received the request."""
    return float(event["requestContext"]["requestTimeEpoch"] / 1000)


def test_it_is_answered_in_time_and_undone_after(functions: dict[str, Emulator], posted: list[float]) -> None:
    """A request that waited 27.5 s is answered before second 29, though Lambda has 60; its undo completes."""
    event = rest_event(27.5, undo=2.0)
    ended = functions["undoes"].invoke(event)
    assert ended.status == "success", ended.log
    assert ended.response == {"status": "partial"}
    assert len(posted) == 1
    assert 28.0 < posted[0] - sent(event) < LIMIT
    assert ended.duration > 3.0
    assert "undone" in ended.log
    assert ended.log.index("answering") < ended.log.index("undone")
    assert "aws.answers_late" not in ended.log
    the_next_is_right(functions["undoes"])


def the_next_is_right(function: Emulator) -> None:
    """The same process serves it, whose own answer is posted as ever."""
    after = function.invoke({"quick": True})
    assert after.status == "success", after.log
    assert after.response["acted"][-1] == "undone"
    assert after.init_duration is None


def test_an_undo_that_is_quick_is_waited_for(functions: dict[str, Emulator], posted: list[float]) -> None:
    """Nothing is posted early where returning is in time."""
    event = rest_event(28.2, undo=0.01)
    ended = functions["undoes"].invoke(event)
    assert ended.response == {"status": "partial"}
    assert posted[0] - sent(event) < LIMIT
    assert ended.log.index("undone") < ended.log.index("answering")


def test_an_undo_that_blocks_is_not_cut_short_and_the_mitigation_runs_after(
    functions: dict[str, Emulator],
) -> None:
    """The caller has gone meanwhile; what was undone and what is mitigated counts more than its answer."""
    ended = functions["undoes"].invoke(rest_event(28.2, undo=0.9, block=True))
    assert ended.response == {"status": "partial"}
    assert "undone" in ended.log
    assert "aws.interrupted" not in ended.log


def test_an_answer_that_is_no_json_is_told_by_returning(functions: dict[str, Emulator]) -> None:
    """It cannot be posted; the undo completes, and Lambda is told what is wrong with it."""
    ended = functions["undoes"].invoke(rest_event(28.2, undo=0.9, json=False))
    assert ended.error is not None
    assert ended.error.type == "Runtime.MarshalError"
    assert "aws.answers_late" in ended.log
    assert "undone" in ended.log
    the_next_is_right(functions["undoes"])


def test_a_plain_function_whose_notice_takes_long_is_answered_in_time(posted: list[float]) -> None:
    """The notice is sent in a thread, and waited for after the answer."""
    with Emulator("functions.told_slowly", path=FUNCTIONS, timeout=6.0) as function:
        assert function.invoke({"quick": True}).status == "success"
        began = time.time()
        ended = function.invoke({"telling": 1.5})
        assert ended.response == {"status": "partial"}
        assert posted[1] - began < 1.0
        assert ended.duration > 1.5
        assert "aws.answers_late" not in ended.log
        assert "aws.notice_failed" not in ended.log
        assert function.invoke({"quick": True}).response == {"status": "done"}


def test_with_something_around_the_handler_nothing_is_posted_early(
    functions: dict[str, Emulator], posted: list[float]
) -> None:
    """A decorator may have a say in the answer: it comes late, and whole."""
    ended: Invocation = functions["around"].invoke(rest_event(28.2, undo=0.9))
    assert ended.response == {"around": {"status": "partial"}}
    assert len(posted) == 1
    assert "aws.answers_late function='undoes'" in ended.log
    assert "undone" in ended.log
