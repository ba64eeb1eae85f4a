"""The matrix: every fault of the network and of the services on every kind of AWS operation.

A *shot* is one cell played once: an operation whose telling requests all meet one fault, under a deadline,
and then the next call on the same client without the fault. `test_matrix.py` fires all faults at once, the
benchmark `aws_faults.py` one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, HTTPClientError, WaiterError
from botocore.exceptions import ConnectionError as BotocoreConnectionError

from deadline import DeadlineExceeded, InsufficientTime, aws, deadline
from deadline.testing import (
    BlackHole,
    Delay,
    Drip,
    FaultProxy,
    HalfClose,
    LostAnswer,
    Refuse,
    Reset,
    Stall,
    service_unavailable,
    slow_down,
    throttling,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from deadline.testing import Fault, Request

MODES: Final = ("legacy", "standard", "adaptive")
BUCKET: Final = "matrix"
TABLE: Final = "orders"

# Parts far below S3's minimum: nothing here completes an upload, and nothing should keep the processor busy.
SIZE: Final = 64 * 1024
PARTS: Final = TransferConfig(
    multipart_threshold=SIZE // 2, multipart_chunksize=SIZE // 2, io_chunksize=SIZE // 2
)
UNWINDING: Final = 1 / 4
"""The share of the margin that an abort may take."""


def faults(passes: int) -> dict[str, Fault]:
    """The faults; `passes` bytes of an answer come through where a fault lets some through."""
    return {
        "delay": Delay(60),
        "stall": Stall(),
        "black hole, request": BlackHole(20, direction="request"),
        "black hole, answer": BlackHole(passes),
        "drip": Drip(passes, 0.2),
        "lost answer": LostAnswer(),
        "refuse": Refuse(),
        "reset": Reset(passes),
        "half close": HalfClose(passes),
        "service unavailable": service_unavailable(),
        "throttling": throttling(),
        "slow down": slow_down(),
    }


FAULTS: Final = tuple(faults(1))
BROKEN: Final = frozenset({"refuse", "reset", "half close"})
CODES: Final = {
    "service unavailable": {"ServiceUnavailable"},
    "throttling": {"ProvisionedThroughputExceededException", "SlowDown"},
    "slow down": {"SlowDown"},
}


@dataclass(frozen=True)
class Operation:
    """Something that is done to AWS.

    Attributes:
        service: Whose.
        meets: Whether a request of it meets the fault.
        run: Does it, with a client or a table, under a key of its own.
        passes: Bytes of an answer that come through: into its head, or into a streamed body.
        aborts: Whether a multipart upload has to be aborted when it ends.
    """

    service: str
    meets: Callable[[Request], bool]
    run: Callable[[Any, str], Awaitable[Any]]
    passes: int = 20
    aborts: bool = False


async def _get_item(table: Any, key: str) -> None:
    await table.meta.client.get_item(TableName=TABLE, Key={"id": key})


async def _read(s3: Any, key: str) -> None:
    answer = await s3.get_object(Bucket=BUCKET, Key="big")
    await answer["Body"].read()


async def _upload(s3: Any, key: str) -> None:
    await s3.upload_fileobj(io.BytesIO(bytes(SIZE)), BUCKET, key, Config=PARTS)


async def _download(s3: Any, key: str) -> None:
    await s3.download_fileobj(BUCKET, "big", io.BytesIO(), Config=PARTS)


async def _copy(s3: Any, key: str) -> None:
    await s3.copy({"Bucket": BUCKET, "Key": "big"}, BUCKET, key, Config=PARTS)


async def _paginate(s3: Any, key: str) -> None:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 1})
    async for _ in pages:
        pass


async def _wait(table: Any, key: str) -> None:
    await table.meta.client.get_waiter("table_not_exists").wait(TableName=TABLE, WaiterConfig={"Delay": 0.1})


async def _write_batch(table: Any, key: str) -> None:
    async with table.batch_writer() as batch:
        for number in range(3):
            await batch.put_item(Item={"id": str(number)})


def _calls(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


def _is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


def _is_read(request: Request) -> bool:
    return request.method == "GET" and request.path.split("?")[0].endswith("/big")


OPERATIONS: Final = {
    "small call": Operation("dynamodb", _calls("GetItem"), _get_item),
    "stream": Operation("s3", _is_read, _read, passes=2000),
    "upload": Operation("s3", _is_part, _upload, aborts=True),
    "download": Operation("s3", _is_read, _download, passes=2000),
    "copy": Operation("s3", _is_part, _copy, aborts=True),
    "paginator": Operation("s3", lambda request: "continuation-token=" in request.path, _paginate),
    "waiter": Operation("dynamodb", _calls("DescribeTable"), _wait),
    "batch writer": Operation("dynamodb", _calls("BatchWriteItem"), _write_batch),
}


_numbers: Final = itertools.count()


@dataclass
class Shot:
    """One cell, played once.

    Attributes:
        late: Seconds from the soft instant to the line after the block; negative if it ended before.
        ending: How it ended, in words, or `wrong: ...`.
        met: Whether a request met the fault.
        left_behind: What the report says was left.
        found: What is found afterwards that should not be there.
        next_call: Seconds that the next call took, or infinite if it failed.
        key: What it writes to; no other shot does.
    """

    fault: str
    operation: str
    mode: str
    late: float = float("inf")
    ending: str = "wrong: never"
    met: bool = False
    left_behind: tuple[str, ...] = ()
    found: list[str] = field(default_factory=list)
    next_call: float = float("inf")
    key: str = field(default_factory=lambda: f"shot-{next(_numbers)}-")

    @property
    def share(self) -> float:
        """The part of the margin that may be taken: to abort multipart uploads, and for nothing else."""
        return UNWINDING if OPERATIONS[self.operation].aborts else 0.0

    @property
    def paced(self) -> bool:
        """Whether the SDK itself holds back the next call: the adaptive mode does, of a client throttled."""
        return self.mode == "adaptive" and self.fault in {"throttling", "slow down"}


def ending(fault: str, error: BaseException | None) -> str:
    """How a block that met this fault on every telling request ended, or `wrong: ...`.

    Nothing else is right: silence ends in the cut, a broken connection or a service's error may end before
    it, and nothing succeeds.
    """
    if isinstance(error, InsufficientTime):
        return "insufficient time"
    if isinstance(error, DeadlineExceeded):
        return "cut"
    if fault in CODES and _code(error) in CODES[fault]:
        return "the service's error"
    # aiobotocore does not wrap the last one: a body that breaks off.
    broken = (BotocoreConnectionError, HTTPClientError, aiohttp.ClientPayloadError)
    if fault in BROKEN and isinstance(error, broken):
        return "connection error"
    return f"wrong: {error!r}"


def _code(error: BaseException | None) -> str:
    if isinstance(error, WaiterError):
        return str(error.last_response["Error"]["Code"])
    if type(error) is Exception and str(error).startswith("Couldn't download file"):
        error = error.__cause__  # that is how aioboto3's downloads fail
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


class Range:
    """Where the shots are fired: a session whose models are read once, and a moto server.

    Make one for a moto server that was just reset, and call `set_up` on it.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream

    async def set_up(self) -> None:
        """Make a bucket with two objects in it, and a table."""
        async with _session().client("s3", endpoint_url=self._upstream) as s3:
            await s3.create_bucket(Bucket=BUCKET)
            await s3.put_object(Bucket=BUCKET, Key="big", Body=bytes(SIZE))
            await s3.put_object(Bucket=BUCKET, Key="small", Body=b"")
        async with _session().client("dynamodb", endpoint_url=self._upstream) as dynamodb:
            await dynamodb.create_table(
                TableName=TABLE,
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )

    async def fire(
        self, mode: str, operation: str, names: Iterable[str], budget: float, margin: float
    ) -> list[Shot]:
        """Fire at one operation in one retry mode, with all these faults at once.

        Each has a proxy and a warm client of its own. Tasks that are left are found in the first shot.
        """
        async with contextlib.AsyncExitStack() as stack:
            guns = [await stack.enter_async_context(self._gun(Shot(name, operation, mode))) for name in names]
            before = asyncio.all_tasks()
            await asyncio.gather(*(gun.fire(budget, margin) for gun in guns))
            for _ in range(3):  # what was cancelled or closed gets its turns
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - before
            guns[0].shot.found += [f"a task: {task!r}" for task in left]
            # A body that broke off holds its slot for as long as the error holds the body, with or without a
            # deadline: aiobotocore does not close it. The errors are forgotten by now.
            if any(gun.slots() for gun in guns if gun.shot.fault in BROKEN):
                for _ in range(3):
                    await asyncio.sleep(0.01)
                    gc.collect()
            for gun in guns:
                gun.shot.found += [f"a pool slot: {slot!r}" for slot in gun.slots()]
            await asyncio.gather(*(gun.look_again() for gun in guns))
        return [gun.shot for gun in guns]

    @contextlib.asynccontextmanager
    async def _gun(self, shot: Shot) -> AsyncIterator[_Gun]:
        # Not to verify what is not TLS saves each client an SSL context.
        config = AioConfig(retries={"mode": shot.mode})
        what = OPERATIONS[shot.operation]
        with FaultProxy(self._upstream) as proxy:
            if what.service == "s3":
                async with _session().client("s3", endpoint_url=proxy.url, config=config, verify=False) as s3:
                    await s3.head_bucket(Bucket=BUCKET)
                    yield _Gun(shot, proxy, s3, s3)
            else:
                async with _session().resource(
                    "dynamodb", endpoint_url=proxy.url, config=config, verify=False
                ) as dynamodb:
                    table = await dynamodb.Table(TABLE)
                    await table.meta.client.list_tables()
                    yield _Gun(shot, proxy, table.meta.client, table)


@dataclass
class _Gun:
    """A shot with what it takes: a proxy, a client behind it, and the client or table that is used."""

    shot: Shot
    proxy: FaultProxy
    client: Any
    target: Any

    async def fire(self, budget: float, margin: float) -> None:
        """Do it under a deadline, with the fault."""
        shot, what = self.shot, OPERATIONS[self.shot.operation]
        self.proxy.add(faults(what.passes)[shot.fault], where=what.meets)
        loop = asyncio.get_running_loop()
        try:
            async with deadline(budget, margin=margin) as dl:
                await what.run(self.target, shot.key)
        except BaseException as error:  # a CancelledError is a finding, like any other
            shot.late = loop.time() - dl.soft
            shot.ending = ending(shot.fault, error)
            if isinstance(error, DeadlineExceeded):
                shot.left_behind = error.report.left_behind
        else:
            shot.ending = ending(shot.fault, None)
        shot.met = any(exchange.fault for exchange in self.proxy.log)

    def slots(self) -> list[Any]:
        """The slots of the client's connection pool that are taken."""
        sessions = self.client._endpoint.http_session._sessions.values()
        return [slot for session in sessions for slot in session.connector._acquired]

    async def look_again(self) -> None:
        """Make the next call, and find multipart uploads that nobody named.

        Not on a client that the SDK holds back for seconds: there is nothing to learn from waiting.
        """
        self.proxy.clear()
        if self.shot.paced:
            self.shot.next_call = 0.0
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            if OPERATIONS[self.shot.operation].service == "s3":
                answer = await self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.shot.key)
                self.shot.next_call = loop.time() - started
                named = " ".join(self.shot.left_behind)
                begun = re.compile(r": (a|up to \d+) multipart uploads? may have begun")
                self.shot.found += [
                    f"a multipart upload: {upload}"
                    for upload in answer.get("Uploads", [])
                    if upload["UploadId"] not in named
                    and not (upload["Key"] in named and begun.search(named))
                ]
            else:
                await self.client.get_item(TableName=TABLE, Key={"id": "1"})
                self.shot.next_call = loop.time() - started
        except Exception as error:  # it is a finding, whatever it is
            self.shot.found.append(f"the next call failed: {error!r}")


_sessions: list[Any] = []


def _session() -> Any:
    """An installed session, one for all: each would read the SDK's models of services again."""
    if not _sessions:
        session = aioboto3.Session("testing", "testing", region_name="us-east-1")
        _sessions.append(aws.install(session))
    return _sessions[0]
