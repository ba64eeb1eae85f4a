"""What a type checker makes of handlers whose clients have the SDK's stubs: checked by mypy, never run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_type

from aiobotocore.session import AioSession, get_session
from types_aiobotocore_dynamodb import DynamoDBClient
from types_aiobotocore_s3 import S3Client
from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef

from deadline import DeadlineExceeded, aws
from deadline.testing import FakeContext

Event = dict[str, str]


class Clients(NamedTuple):
    """More than one client."""

    s3: S3Client
    dynamodb: DynamoDBClient


@asynccontextmanager
async def s3_client() -> AsyncIterator[S3Client]:
    """An installed session gives the clients that the stubs tell of."""
    session = aws.install(get_session())
    assert_type(session, AioSession)
    async with session.create_client("s3") as s3:
        assert_type(s3, S3Client)
        assert_type(aws.install(s3), S3Client)
        yield s3


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Several clients in one lifespan."""
    session = aws.install(get_session())
    async with session.create_client("s3") as s3, session.create_client("dynamodb") as dynamodb:
        await aws.warm_up(s3, dynamodb)
        yield Clients(s3, dynamodb)


@aws.handler(lifespan=s3_client, margin=0.5)
async def size(event: Event, context: FakeContext, s3: S3Client) -> int:
    """Take what the lifespan yields as the third argument."""
    answer = await s3.get_object(Bucket="box", Key=event["key"])
    assert_type(answer, GetObjectOutputTypeDef)
    await s3.get_object(Bucket="box", Name="key")  # type: ignore[call-arg]
    return answer["ContentLength"]


@size.on_exceeded
async def not_sized(
    exceeded: DeadlineExceeded, event: Event, context: FakeContext, s3: S3Client | None
) -> int:
    """The clients may not be open yet."""
    return 0 if s3 is None else -1


@aws.handler(lifespan=clients)
async def move(event: Event, context: Any, opened: Clients) -> None:
    """A handler whose context is anything."""
    answer = await opened.dynamodb.get_item(TableName="orders", Key={"id": event["key"]})
    await opened.s3.delete_object(Bucket="box", Key=str(answer["Item"]["key"]))


@aws.handler(lifespan=s3_client)  # type: ignore[arg-type]
async def wrong_client(event: Event, context: FakeContext, dynamodb: DynamoDBClient) -> None:
    """A resource that the lifespan does not yield is an error."""


@aws.handler(lifespan=s3_client)  # type: ignore[arg-type]
async def no_resources(event: Event, context: FakeContext) -> None:
    """And so is a handler that does not take it."""


@aws.handler  # type: ignore[arg-type]
async def no_lifespan(event: Event, context: FakeContext, s3: S3Client) -> None:
    """And one that takes what nobody gives."""


async def answers(context: FakeContext, s3: S3Client) -> None:
    """What calls and `invoke` give."""
    assert_type(size({"key": "a"}, context), int)
    assert_type(await size.invoke({"key": "a"}, context, resources=s3), int)
    size({"key": 1}, context)  # type: ignore[dict-item]


@dataclass(frozen=True)
class Progress:
    """What goes on."""

    done: int


resume = aws.Resume(Progress, hops=5)
assert_type(resume, aws.Resume[Progress])
aws.Resume(Progress, to="elsewhere")  # type: ignore[arg-type]
assert_type(aws.Resume(dict[str, int]), aws.Resume[dict[str, int]])


@aws.handler(resume=resume)
async def carries_on(event: Event, context: FakeContext) -> int:
    """The state has the type that the Resume was made for."""
    assert_type(resume.state, Progress | None)
    progress = resume.state or Progress(0)
    resume.checkpoint(progress)
    resume.checkpoint(b"{}")
    resume.checkpoint("done")  # type: ignore[arg-type]
    return progress.done


@aws.handler
def plain(event: Event, context: FakeContext) -> int:
    """A plain function stays one."""
    return len(event)


@aws.handler(margin=0.5, notice=print)
def plain_with_options(event: Event, context: Any) -> str:
    """With options, too."""
    return event["key"]


@plain.on_exceeded
def too_late(exceeded: DeadlineExceeded, event: Event, context: FakeContext) -> int:
    """Its mitigation is one as well."""
    assert_type(plain(event, context), int)
    assert_type(plain_with_options(event, None), str)
    plain({"key": 1}, context)  # type: ignore[dict-item]
    plain.invoke(event, context)  # type: ignore[attr-defined]
    return 0


@aws.handler(lifespan=s3_client)  # type: ignore[arg-type]
def plain_with_clients(event: Event, context: FakeContext, s3: S3Client) -> None:
    """A plain function has no loop to open them on."""
