"""Deadlines that travel: the header, and what is made of what came."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import deadline, deadline_header, subscribe
from deadline._propagation import HEADER, decode, encode, received

if TYPE_CHECKING:
    from deadline import Event
    from deadline.testing import VirtualClock


async def test_the_header_tells_what_is_left_to_soft(virtual_clock: VirtualClock) -> None:
    """In whole milliseconds, rounded down; of the deadline that ends first."""
    assert deadline_header() == {}
    async with deadline(5.0, margin=1.0):
        assert deadline_header() == {HEADER: "4000"}
        async with deadline(0.8129):
            assert deadline_header() == {HEADER: "812"}
        async with deadline(60.0):
            assert deadline_header() == {HEADER: "4000"}
    async with deadline(None):
        assert deadline_header() == {}
    async with deadline(0.0009):
        assert deadline_header() == {HEADER: "1"}


@settings(deadline=None, derandomize=True, max_examples=300)
@given(left=st.floats(min_value=0.001, max_value=900_000))
def test_what_is_told_is_understood_and_never_more(left: float) -> None:
    """The way loses less than a millisecond, and adds nothing."""
    assert left - 0.0011 <= decode(encode(left)) <= left


@pytest.mark.parametrize("left", [math.inf, 1e9, 1e300], ids=repr)
def test_what_cannot_be_told_is_not(left: float) -> None:
    """No limit, or more than anybody means."""
    assert encode(left) is None


@pytest.mark.parametrize("left", [0.0, -1.0, 0.0009], ids=repr)
def test_that_nothing_is_left_is_told_as_one_millisecond(left: float) -> None:
    """With no header at all, whoever is called would take all the time it has."""
    assert encode(left) == "1"


@settings(deadline=None, derandomize=True, max_examples=100)
@given(value=st.text() | st.binary() | st.none() | st.integers() | st.lists(st.text()))
def test_whatever_came_is_a_time_or_nothing(value: Any) -> None:
    """More than nothing, and never an error."""
    assert decode(value) > 0.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [("500, 200", 0.2), (b"900,1500", 0.9), ("soon, 300", 0.3), (",", math.inf), ("", math.inf)],
)
def test_of_several_the_smallest_counts(value: Any, expected: float) -> None:
    """A proxy may join a header that came twice, as HTTP allows it; what is no time in it is ignored."""
    assert decode(value) == expected


def test_what_is_ignored_is_told_at_debug_level() -> None:
    """With the beginning of what came."""
    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    assert received({HEADER: "x" * 5000}) == math.inf
    assert received({}) == received(None) == math.inf
    unsubscribe()
    (event,) = events
    assert event.name == "deadline.travel_ignored"
    assert event.level == 10
    assert len(event.fields["value"]) == 60


@pytest.mark.slow
async def test_http_clients_send_it() -> None:
    """As the docs have it: a hook of httpx, a middleware of aiohttp."""
    aiohttp = pytest.importorskip("aiohttp")
    httpx = pytest.importorskip("httpx")
    from aiohttp import web

    async def tell_httpx(request: Any) -> None:
        request.headers.update(deadline_header())

    async def tell_aiohttp(request: Any, handler: Any) -> Any:
        request.headers.update(deadline_header())
        return await handler(request)

    async def answer(request: Any) -> Any:
        return web.Response(text=request.headers.get(HEADER, "nothing"))

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with (
            httpx.AsyncClient(event_hooks={"request": [tell_httpx]}, trust_env=False) as by_httpx,
            aiohttp.ClientSession(middlewares=(tell_aiohttp,)) as by_aiohttp,
        ):
            assert (await by_httpx.get(url)).text == "nothing"
            async with deadline(9.0):
                assert 8000 < int((await by_httpx.get(url)).text) < 9000
                async with by_aiohttp.get(url) as got:
                    assert 8000 < int(await got.text()) < 9000
    finally:
        await runner.cleanup()
