"""Warming clients up before the clock runs. Real clients, real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore import httpsession

from deadline import aws, deadline

if TYPE_CHECKING:
    from deadline import Event
    from deadline.testing import FaultProxy
    from tests.aws.conftest import Connect

pytestmark = pytest.mark.slow


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The TLS contexts that clients build: what makes a first call dear."""
    built: list[object] = []
    build = httpsession.create_urllib3_context  # type: ignore[attr-defined]  # it has no stub

    def counted(*args: Any, **kwargs: Any) -> Any:
        built.append(build(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(httpsession, "create_urllib3_context", counted)
    return built


async def test_a_warm_client_builds_nothing_under_the_deadline(
    fault_proxy: FaultProxy, connect: Connect, contexts: list[object]
) -> None:
    """The TLS context is made and a connection is open; the next call is the only request."""
    s3 = await connect("s3", warm=False)
    dynamodb = await connect("dynamodb", warm=False)
    await aws.warm_up(s3, dynamodb)
    assert len(contexts) == 2
    assert [exchange.request.method for exchange in fault_proxy.log] == ["HEAD", "HEAD"]
    sessions = s3._endpoint.http_session._sessions.values()
    assert [
        len(connections) for session in sessions for connections in session.connector._conns.values()
    ] == [1]
    async with deadline(30):
        await s3.list_buckets()
        await dynamodb.list_tables()
    assert len(contexts) == 2
    assert len(fault_proxy.log) == 4


async def test_a_service_that_is_not_there_is_told_not_raised(
    fault_proxy: FaultProxy, connect: Connect, told: list[Event]
) -> None:
    """A cold start goes on without what could not be warmed; the other clients are warm."""
    away = await connect("s3", url="http://127.0.0.1:9", warm=False)
    there = await connect("s3", warm=False)
    await aws.warm_up(away, there)
    assert [exchange.request.method for exchange in fault_proxy.log] == ["HEAD"]
    (event,) = told
    assert event.name == "aws.warm_up_failed"
    assert event.fields["endpoint"] == "http://127.0.0.1:9"
    assert "127.0.0.1:9" in event.fields["error"]


async def test_what_is_no_client_is_refused_by_name() -> None:
    """The message names the argument and shows the call."""
    with pytest.raises(
        TypeError, match=r"clients\[1\]: expected a client .* await aws.warm_up\(s3, dynamodb\)"
    ):
        await aws.warm_up(*([await _client()]), "s3")


async def _client() -> Any:
    from aiobotocore.session import get_session

    async with get_session().create_client("s3", region_name="us-east-1") as client:
        return client


async def test_a_resource_is_warmed_through_its_client(fault_proxy: FaultProxy) -> None:
    """A resource is taken for its client, as `install` does."""
    aioboto3 = pytest.importorskip("aioboto3")
    async with aioboto3.Session().resource("dynamodb") as dynamodb:
        await aws.warm_up(dynamodb)
    assert [exchange.request.method for exchange in fault_proxy.log] == ["HEAD"]
