"""Transfers and streams that are cut leave nothing behind. Real clients, a real server, real sockets."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.config import AioConfig

from deadline import DeadlineExceeded, aws, deadline
from deadline.testing import Answer, BlackHole, Delay, FaultProxy, LostAnswer, MotoServer, Reset, Stall

if TYPE_CHECKING:
    import pathlib
    from collections.abc import AsyncIterator

    from deadline.testing import Request

aioboto3 = pytest.importorskip("aioboto3", reason="managed transfers are aioboto3's")

pytestmark = [
    pytest.mark.slow,
    # aioboto3 hands parts of 5 MB to aiohttp as bytes, which aiohttp warns of.
    pytest.mark.filterwarnings("ignore:Sending a large body directly"),
]

PART = 5 * 1024 * 1024
BIG = bytes(3 * PART)


@pytest.fixture
async def s3(fault_proxy: FaultProxy) -> AsyncIterator[Any]:
    """An installed client with a single connection, a bucket and a big object in it."""
    config = AioConfig(max_pool_connections=1, retries={"max_attempts": 0}, read_timeout=30)
    async with aws.install(aioboto3.Session()).client("s3", config=config) as client:
        await client.create_bucket(Bucket="bucket")
        await client.put_object(Bucket="bucket", Key="big", Body=io.BytesIO(BIG))
        yield client


@pytest.fixture
async def retrying(s3: Any) -> AsyncIterator[Any]:
    """A client for the same bucket that tries a second time."""
    config = AioConfig(retries={"max_attempts": 1})
    async with aws.install(aioboto3.Session()).client("s3", config=config) as client:
        await aws.warm_up(client)
        yield client


def creates(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("?uploads")


def completes(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


def is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber=" in request.path


async def open_uploads(client: Any) -> list[str]:
    answer = await client.list_multipart_uploads(Bucket="bucket")
    return [upload["UploadId"] for upload in answer.get("Uploads", [])]


def dated(client: Any) -> None:
    """Have a list of uploads say when they began: moto says 2010 of all. Those in `old` began an hour ago."""

    def date(parsed: dict[str, Any], **_: Any) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        for upload in parsed.get("Uploads", ()):
            upload["Initiated"] = now - timedelta(hours=upload["UploadId"] in old)

    client.meta.events.register("after-call.s3.ListMultipartUploads", date)


old: set[str] = set()
"""Uploads that were initiated long ago."""


async def tasks_settle() -> set[asyncio.Task[Any]]:
    await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("read", ["unread", "begun"])
async def test_a_streaming_body_is_closed_when_its_block_is_cut(s3: Any, read: str) -> None:
    """A body opened in the block gives its connection back at the cut, not after the read timeout."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.3):
            answer = await s3.get_object(Bucket="bucket", Key="big")
            if read == "begun":
                await answer["Body"].read(10)
            await asyncio.sleep(9)
    async with asyncio.timeout(1):
        await s3.head_object(Bucket="bucket", Key="big")


async def test_a_body_that_outlives_its_block_is_the_outer_ones(s3: Any) -> None:
    """A body returned from a block that ended in time is open, and is closed when the outer block is cut."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.4):
            async with deadline(0.3):
                answer = await s3.get_object(Bucket="bucket", Key="big")
            assert await answer["Body"].read(10) == bytes(10)
            await asyncio.sleep(9)
    async with asyncio.timeout(1):
        await s3.head_object(Bucket="bucket", Key="big")


async def test_a_body_stays_open_when_nothing_is_cut(s3: Any) -> None:
    """Leaving the block in time leaves the body as it is."""
    async with deadline(5):
        answer = await s3.get_object(Bucket="bucket", Key="big")
    assert await answer["Body"].read() == BIG


async def test_an_event_stream_is_closed_when_its_block_is_cut(s3: Any, fault_proxy: FaultProxy) -> None:
    """What S3 Select streams gives its connection back like any other body."""
    await s3.put_object(Bucket="bucket", Key="lines", Body=b'{"a": 1}\n' * 2000)
    fault_proxy.add(BlackHole(2000), where=lambda request: "select" in request.path)
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0):
            answer = await s3.select_object_content(
                Bucket="bucket",
                Key="lines",
                ExpressionType="SQL",
                Expression="SELECT * FROM S3Object",
                InputSerialization={"JSON": {"Type": "LINES"}},
                OutputSerialization={"JSON": {}},
            )
            await asyncio.sleep(9)
    async with asyncio.timeout(5):
        await s3.head_object(Bucket="bucket", Key="big")
    assert answer["Payload"]


async def test_a_cut_upload_stops_and_is_aborted(s3: Any, fault_proxy: FaultProxy) -> None:
    """A cut `upload_fileobj` has no task left, puts no more parts, and leaves no multipart upload."""
    fault_proxy.add(Stall(), where=is_part)
    before = await tasks_settle()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.5, margin=1.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert await tasks_settle() <= before
    assert caught.value.report.left_behind == ()
    fault_proxy.clear()
    parts = [exchange for exchange in fault_proxy.log if is_part(exchange.request)]
    assert await open_uploads(s3) == []
    assert [exchange for exchange in fault_proxy.log if is_part(exchange.request)] == parts


async def test_a_cut_copy_stops_and_is_aborted(s3: Any, fault_proxy: FaultProxy) -> None:
    """A cut `copy` leaves no multipart upload either."""
    fault_proxy.add(Stall(), where=is_part)
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.5, margin=1.0):
            await s3.copy({"Bucket": "bucket", "Key": "big"}, "bucket", "copied")
    fault_proxy.clear()
    assert await open_uploads(s3) == []


async def test_uploads_in_tasks_of_the_block_are_aborted(retrying: Any, fault_proxy: FaultProxy) -> None:
    """Tasks that the block gathers are cut again and again; their aborts go out all the same."""
    fault_proxy.add(Stall(), where=is_part)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(6.0, margin=4.0):
            await asyncio.gather(
                *(retrying.upload_fileobj(io.BytesIO(BIG), "bucket", key) for key in ("one", "two")),
                asyncio.create_task(retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "three")),
            )
    fault_proxy.clear()
    assert await open_uploads(retrying) == []
    assert caught.value.report.left_behind == ()


async def test_a_callback_that_swallows_its_cut_does_not_keep_the_upload(
    s3: Any, fault_proxy: FaultProxy
) -> None:
    """aioboto3 swallows whatever comes while it calls back; its tasks are cancelled until they end."""

    async def progress(_: int) -> None:
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(6.0, margin=4.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new", Callback=progress)
    assert caught.value.report.left_behind == ()
    assert await open_uploads(s3) == []


async def test_the_abort_waits_for_the_parts_to_end(s3: Any) -> None:
    """An upload is aborted, and its block left, when its tasks have ended: a part put later would stay."""
    ended: list[str] = []

    async def slow(**_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)
            ended.append("a part")

    def aborted(**_: Any) -> None:
        ended.append("the upload")

    s3.meta.events.register("before-call.s3.UploadPart", slow)
    s3.meta.events.register("before-call.s3.AbortMultipartUpload", aborted)
    with pytest.raises(DeadlineExceeded):
        async with deadline(10.0, margin=8.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert ended == ["a part"] * 2 + ["the upload"]


async def test_every_transfer_of_a_block_is_cleaned_up(s3: Any, fault_proxy: FaultProxy) -> None:
    """After a transfer that ended well the next one is cut as the first would have been."""
    fault_proxy.add(Stall(), where=is_part)
    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=2.0):
            await s3.upload_fileobj(io.BytesIO(b"small"), "bucket", "small")
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    fault_proxy.clear()
    assert await open_uploads(s3) == []


@pytest.mark.parametrize("budget", [30.0, None])
async def test_a_transfer_that_fails_is_cleaned_up(
    retrying: Any, fault_proxy: FaultProxy, budget: float | None
) -> None:
    """A transfer that ends with an error is cleaned up, too, where aioboto3's own abort was refused."""
    fault_proxy.add(Answer(400), where=is_part)
    fault_proxy.add(Answer(400), where=lambda request: request.method == "DELETE", times=1)
    before = await tasks_settle()
    async with deadline(budget):
        with pytest.raises(retrying.exceptions.ClientError):
            async with deadline(budget, margin=8.0 if budget else 0.0):
                await retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
        assert await tasks_settle() <= before
        fault_proxy.clear()
        assert await open_uploads(retrying) == []


async def test_a_failed_upload_of_a_file_is_cleaned_up(
    retrying: Any, fault_proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """`upload_file` is a transfer of its own to aioboto3, and leaves as little."""
    (tmp_path / "big").write_bytes(BIG)
    fault_proxy.add(Answer(400), where=is_part)
    fault_proxy.add(Answer(400), where=lambda request: request.method == "DELETE", times=1)
    before = await tasks_settle()
    async with deadline(30.0, margin=8.0):
        with pytest.raises(retrying.exceptions.ClientError):
            await retrying.upload_file(str(tmp_path / "big"), "bucket", "new")
        assert await tasks_settle() <= before
        fault_proxy.clear()
        assert await open_uploads(retrying) == []


async def test_a_transfer_that_fails_leaves_the_others_alone(retrying: Any, fault_proxy: FaultProxy) -> None:
    """Only the tasks of the transfer that failed are cancelled; one at the same time does its work."""
    fault_proxy.add(Answer(400), where=lambda request: is_part(request) and "/bad" in request.path)
    fault_proxy.add(Delay(0.5), where=lambda request: is_part(request) and "/good" in request.path)
    async with deadline(60.0, margin=10.0):
        ended: tuple[Any, ...] = await asyncio.gather(
            retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "bad"),
            retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "good"),
            return_exceptions=True,
        )
    assert isinstance(ended[0], retrying.exceptions.ClientError)
    assert ended[1] is None
    assert (await retrying.head_object(Bucket="bucket", Key="good"))["ContentLength"] == len(BIG)


async def test_an_upload_that_cannot_be_aborted_stands_in_the_report(
    s3: Any, fault_proxy: FaultProxy
) -> None:
    """If the abort does not get through within its share, the report names the upload."""
    fault_proxy.add(Stall(), where=lambda request: is_part(request) or request.method == "DELETE")
    loop = asyncio.get_running_loop()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0, margin=0.4) as dl:
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert dl.soft + 0.1 <= loop.time() <= dl.hard
    fault_proxy.clear()
    (upload,) = await open_uploads(s3)
    assert caught.value.report.left_behind == (f"s3://bucket/new: multipart upload {upload} not aborted",)
    assert "left behind: s3://bucket/new: multipart upload" in caught.value.report.render()


async def test_an_abort_takes_its_share_of_the_margin_and_no_more(s3: Any, fault_proxy: FaultProxy) -> None:
    """An abort that does not get through leaves three quarters of the margin to those it is for."""
    fault_proxy.add(Stall(), where=lambda request: is_part(request) or request.method == "DELETE")
    loop = asyncio.get_running_loop()
    with pytest.raises(DeadlineExceeded):
        async with deadline(6.0, margin=5.0) as dl:
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert dl.soft + 1.25 <= loop.time() < dl.soft + 4.0


async def test_without_a_margin_the_report_names_the_upload(s3: Any, fault_proxy: FaultProxy) -> None:
    """Without a margin there is no time to abort: the block ends at soft, and the report names the upload."""
    fault_proxy.add(Stall(), where=is_part)
    loop = asyncio.get_running_loop()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0) as dl:
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert loop.time() - dl.soft < 0.5
    assert len(caught.value.report.left_behind) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_an_upload_that_may_have_begun_stands_in_the_report(
    s3: Any, retrying: Any, fault_proxy: FaultProxy, times: int
) -> None:
    """Creates that were sent and not answered may have begun uploads; the report says where and how many."""
    client = s3 if times == 1 else retrying
    fault_proxy.add(LostAnswer(), where=creates)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0):
            await client.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    fault_proxy.clear()
    assert len(await open_uploads(s3)) == times
    begun = "a multipart upload" if times == 1 else "up to 2 multipart uploads"
    assert caught.value.report.left_behind == (
        f"s3://bucket/new: {begun} may have begun, CreateMultipartUpload was sent and not answered",
    )


@pytest.mark.parametrize("ends", ["cut", "well"])
async def test_uploads_whose_creation_was_not_answered_are_found_and_aborted(
    retrying: Any, fault_proxy: FaultProxy, ends: str
) -> None:
    """Those of the key that are as young as the call are aborted; older ones and other keys' are left."""
    dated(retrying)
    for key in ("new", "newer"):
        made = await retrying.create_multipart_upload(Bucket="bucket", Key=key)
        if key == "new":
            old.add(made["UploadId"])
    before = await open_uploads(retrying)
    fault_proxy.add(LostAnswer(), where=creates, times=2 if ends == "cut" else 1)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(8.0, margin=4.0):
            await retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
            assert ends == "well"
            await asyncio.sleep(60)
    assert await open_uploads(retrying) == before
    assert caught.value.report.left_behind == ()


async def test_of_more_uploads_than_answers_were_lost_none_is_aborted(
    s3: Any, retrying: Any, fault_proxy: FaultProxy
) -> None:
    """Some of them are somebody else's; the report says that one may have begun."""
    dated(s3)
    await retrying.create_multipart_upload(Bucket="bucket", Key="new")
    fault_proxy.add(LostAnswer(), where=creates, times=1)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(4.0, margin=3.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert len(await open_uploads(s3)) == 2
    (left,) = caught.value.report.left_behind
    assert left.startswith("s3://bucket/new: a multipart upload may have begun")


async def test_a_completion_that_was_not_answered_and_done_is_told(s3: Any, fault_proxy: FaultProxy) -> None:
    """The object is there, and the report says so; it names no upload that is not aborted."""
    fault_proxy.add(LostAnswer(), where=completes)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(6.0, margin=4.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    fault_proxy.clear()
    assert (await s3.head_object(Bucket="bucket", Key="new"))["ContentLength"] == len(BIG)
    assert caught.value.report.left_behind == (
        "s3://bucket/new: CompleteMultipartUpload was sent and not answered, and the object is there",
    )


async def test_a_completion_that_was_not_done_leaves_nothing(s3: Any, fault_proxy: FaultProxy) -> None:
    """If its upload can still be aborted it was not complete, whatever object was there before."""
    await s3.put_object(Bucket="bucket", Key="new", Body=b"before")
    fault_proxy.add(Stall(), where=completes)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(6.0, margin=4.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    fault_proxy.clear()
    assert caught.value.report.left_behind == ()
    assert await open_uploads(s3) == []


@pytest.mark.parametrize("silent", ["HEAD", "DELETE"])
async def test_what_is_not_known_of_a_completion_is_said(
    s3: Any, fault_proxy: FaultProxy, silent: str
) -> None:
    """Where nobody answers the look, or the abort, the report says that the object may be there."""
    fault_proxy.add(LostAnswer(), where=completes)
    fault_proxy.add(Stall(), where=lambda request: request.method == silent)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(4.0, margin=2.0):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    (left,) = caught.value.report.left_behind
    said = {"HEAD": "whether the object is there is not known", "DELETE": "the object may be there"}
    assert left.endswith(said[silent])
    assert "CompleteMultipartUpload was sent and not answered" in left


async def test_an_upload_that_cannot_have_begun_is_not_named(s3: Any) -> None:
    """A create that was cut while it waited for a connection was not sent, and began nothing."""
    body = (await s3.get_object(Bucket="bucket", Key="big"))["Body"]  # the only connection
    with pytest.raises(DeadlineExceeded, match="CreateMultipartUpload") as caught:
        async with deadline(1.0, margin=0.5):
            await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
    assert caught.value.report.left_behind == ()
    body.close()
    assert await open_uploads(s3) == []


async def test_a_transfer_that_ends_well_names_what_an_earlier_attempt_began(
    retrying: Any, fault_proxy: FaultProxy
) -> None:
    """The second attempt began the upload that was completed; what the first one began is named."""
    fault_proxy.add(LostAnswer(), where=creates, times=1)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(4.0, margin=1.0):
            await retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
            await asyncio.sleep(9)
    fault_proxy.clear()
    assert len(await open_uploads(retrying)) == 1
    (left,) = caught.value.report.left_behind
    assert left.startswith("s3://bucket/new: a multipart upload may have begun")


async def test_a_body_that_broke_off_is_closed_with_its_transfer(s3: Any, fault_proxy: FaultProxy) -> None:
    """A download whose body breaks off gives its connection back, while its error is still held."""
    fault_proxy.add(Reset(2000), where=lambda request: "range" in request.headers)
    async with deadline(5.0, margin=1.0):
        with pytest.raises(Exception, match="payload is not completed|Couldn't download") as caught:
            await s3.download_fileobj("bucket", "big", io.BytesIO())
        async with asyncio.timeout(2):
            await s3.head_object(Bucket="bucket", Key="big")
    assert caught.value


async def test_a_deliberate_multipart_upload_survives(s3: Any) -> None:
    """A multipart upload that the handler made itself is its own business."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5, margin=0.2):
            made = await s3.create_multipart_upload(Bucket="bucket", Key="mine")
            await asyncio.sleep(9)
    assert await open_uploads(s3) == [made["UploadId"]]
    assert caught.value.report.left_behind == ()


async def test_a_deliberate_multipart_upload_survives_a_managed_one(
    retrying: Any, fault_proxy: FaultProxy
) -> None:
    """Made while a managed transfer is under way in the same block, it is not taken for one of its own."""
    fault_proxy.add(Stall(), where=is_part)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(6.0, margin=4.0), asyncio.TaskGroup() as group:
            group.create_task(retrying.upload_fileobj(io.BytesIO(BIG), "bucket", "managed"))
            while not any(is_part(exchange.request) for exchange in fault_proxy.log):
                await asyncio.sleep(0.01)
            made = await retrying.create_multipart_upload(Bucket="bucket", Key="mine")
    fault_proxy.clear()
    assert await open_uploads(retrying) == [made["UploadId"]]
    assert caught.value.report.left_behind == ()


async def test_an_abort_is_never_refused(s3: Any) -> None:
    """`AbortMultipartUpload` goes out however little is left."""
    made = await s3.create_multipart_upload(Bucket="bucket", Key="mine")
    async with deadline(0.5):
        with aws.limits(min_attempt=10):
            await s3.abort_multipart_upload(Bucket="bucket", Key="mine", UploadId=made["UploadId"])
    assert await open_uploads(s3) == []


async def test_a_cut_download_leaves_no_tasks(s3: Any, fault_proxy: FaultProxy) -> None:
    """A cut `download_fileobj` has no task left, and its connections are free."""
    fault_proxy.add(Stall(), where=lambda request: "range" in request.headers)
    before = await tasks_settle()
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.5, margin=0.2):
            await s3.download_fileobj("bucket", "big", io.BytesIO())
    assert await tasks_settle() <= before
    async with asyncio.timeout(1):
        await s3.head_object(Bucket="bucket", Key="big")


async def test_a_cut_download_into_a_stream_leaves_no_tasks(s3: Any, fault_proxy: FaultProxy) -> None:
    """aioboto3 writes into what cannot seek from a task of its own, which would wait for ever."""

    class Stream:
        def write(self, data: bytes) -> None: ...

    fault_proxy.add(Stall(), where=lambda request: "range" in request.headers)
    before = await tasks_settle()
    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=2.0):
            await s3.download_fileobj("bucket", "big", Stream())
    assert await tasks_settle() <= before


async def test_a_failed_download_of_a_file_leaves_no_tasks(
    s3: Any, fault_proxy: FaultProxy, tmp_path: pathlib.Path
) -> None:
    """When one part of a `download_file` fails, the others stop."""
    fault_proxy.add(
        Answer(400), where=lambda request: request.headers.get("range", "").startswith("bytes=0-")
    )
    fault_proxy.add(Stall(), where=lambda request: "range" in request.headers)
    before = await tasks_settle()
    async with deadline(30.0, margin=8.0):
        with pytest.raises(Exception, match="Couldn't download"):
            await s3.download_file("bucket", "big", str(tmp_path / "big"))
        assert await tasks_settle() <= before


async def test_transfers_that_fit_are_as_before(s3: Any) -> None:
    """Transfers that fit do their work."""
    async with deadline(20, margin=1):
        await s3.upload_fileobj(io.BytesIO(BIG), "bucket", "new")
        await s3.copy({"Bucket": "bucket", "Key": "new"}, "bucket", "copied")
        target = io.BytesIO()
        await s3.download_fileobj("bucket", "copied", target)
    assert target.getvalue() == BIG


async def test_a_client_that_existed_is_covered(moto_server: MotoServer) -> None:
    """The transfers of a client that existed before it was installed are cut whole, too."""
    async with aioboto3.Session().client("s3") as client:
        await client.create_bucket(Bucket="bucket")
        aws.install(client)
        with pytest.raises(DeadlineExceeded):
            async with deadline(3.0, margin=2.0):

                class Slow(io.BytesIO):
                    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
                        await asyncio.sleep(0.2)
                        return super().read(size)

                await client.upload_fileobj(Slow(BIG), "bucket", "new", Config=_small_reads())
        assert await open_uploads(client) == []


def _small_reads() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(io_chunksize=PART // 4, multipart_threshold=PART, multipart_chunksize=PART)


async def test_a_body_that_cannot_be_closed_does_not_hide_the_cut(caplog: pytest.LogCaptureFixture) -> None:
    """If closing something raises, that is logged, and the block still ends with its own error."""

    class Stuck:
        def close(self) -> None:
            raise OSError("stuck")

    stuck = Stuck()
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.05) as dl:
            dl.close_on_cut(stuck)
            await asyncio.sleep(9)
    assert "closing <" in caplog.text
