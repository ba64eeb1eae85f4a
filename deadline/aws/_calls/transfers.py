"""Managed transfers that leave nothing behind.

`upload_fileobj`, `copy` and the like start tasks of their own, and a multipart upload. Cancelled, the SDK's
methods leave both: the tasks go on uploading parts, and the upload stays and is billed until somebody aborts
it (terricain/aioboto3#409, #369, #153). So when a transfer under a deadline ends with an error or a cut,

1. exactly the tasks that were made during the call are cancelled, told by a context variable that they
   inherited. Sweeping by the deadline's own would hit tasks that belong to others;
2. the bodies that it reads are closed, also if one broke off: until its error is forgotten it would hold its
   connection, and a pool of one would be stuck;
3. its multipart uploads are aborted, shielded, within the share of the margin that is for unwinding.
   What could not be aborted stands in the report as `left_behind`.
4. what was asked for and not answered is looked for, in the same time. A lost answer to
   `CompleteMultipartUpload`: the object is there if it has the ETag that the parts make. Lost answers to
   `CreateMultipartUpload`: the uploads of that key that are as young as the call are aborted, unless there
   are more of them than answers were lost: then some are somebody else's. The report says what is not known.

Multipart uploads that a handler made itself are its own business and are left alone.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import math
from contextvars import ContextVar
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from deadline._core.margin import shares
from deadline._core.scope import current
from deadline._events import emit, shown
from deadline._report.record import Record
from deadline._report.tasks import context_of
from deadline._work.shielded import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline._core.scope import Deadline

METHODS: Final = ("upload_file", "upload_fileobj", "download_file", "download_fileobj", "copy")
"""What aioboto3 injects into S3's clients (aioboto3/s3/inject.py)."""

WITHOUT_LIMIT: Final = 1.0
"""Seconds for cleaning up under a deadline without a limit, which has no margin to take them from."""

WHOLE_SECOND: Final = 1.0
"""Seconds by which the instants that S3 tells may be off: it leaves fractions out."""

_LOST: Final = "CompleteMultipartUpload was sent and not answered"

_known: Final[set[str]] = set()
"""The uploads of this process's transfers whose ids are known, while they are open."""

_transfer: ContextVar[Transfer | None] = ContextVar("deadline_transfer", default=None)


class Transfer:
    """One managed transfer: the multipart uploads and the bodies that it has open.

    Attributes:
        opened: Keeps account of a body.
        cleaning: Whether it is cleaning up, for which no call is refused.
    """

    cleaning = False

    def __init__(self, client: Any) -> None:
        self._client = client
        self._uploads: dict[str, dict[str, str]] = {}
        self._completing: dict[str, _Completing] = {}
        self._creating: dict[tuple[str, str], _Creating] = {}
        self._found: list[str] = []
        self._bodies = Record()
        self.opened = self._bodies.opened

    def answered(self, operation: str, params: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep account of a multipart upload by the calls that were answered."""
        if operation == "CreateMultipartUpload":
            place = {"Bucket": params["Bucket"], "Key": params["Key"], "UploadId": answer["UploadId"]}
            self._uploads[answer["UploadId"]] = place
            _known.add(answer["UploadId"])
        elif operation in {"CompleteMultipartUpload", "AbortMultipartUpload"}:
            self._closed(params["UploadId"])
            if operation == "CompleteMultipartUpload":
                self._completing.pop(params["UploadId"], None)

    def _closed(self, upload: str) -> None:
        self._uploads.pop(upload, None)
        _known.discard(upload)

    def unanswered(self, operation: str, params: dict[str, Any], started: float) -> None:
        """Keep account of an attempt that was sent and not answered, of a call that began at `started`."""
        if operation == "CreateMultipartUpload":
            at = params["Bucket"], params["Key"]
            before = self._creating.get(at, _Creating(0, started))
            self._creating[at] = before._replace(lost=before.lost + 1)
        elif operation == "CompleteMultipartUpload":
            place = {name: params[name] for name in ("Bucket", "Key", "UploadId")}
            self._completing[params["UploadId"]] = _Completing(place, params["MultipartUpload"]["Parts"])

    def lost_creations(self) -> bool:
        """Whether it may have begun uploads whose ids are not known."""
        return bool(self._creating)

    async def clean_up(self, dl: Deadline) -> None:
        """Cancel the tasks, close the bodies, abort the uploads; never raises an error of its own."""
        tasks = {task for task in asyncio.all_tasks() if self._made(task)}
        await to_the_end(self._clean_up(tasks, _unwinding_seconds(dl), dl.now))

    async def _clean_up(
        self, tasks: set[asyncio.Task[Any]], seconds: float, now: Callable[[], float]
    ) -> None:
        with anyio.move_on_after(seconds):
            while tasks:
                for task in tasks:
                    task.cancel()
                # Once more after half of the time: aioboto3 swallows a cancellation that meets a callback.
                _, tasks = await asyncio.wait(tasks, timeout=seconds / 2)
            self.cleaning = True
            await self._bodies.close_resources()
            for upload in list(self._uploads):
                await self._abort(upload)
            for upload in list(self._completing):
                await self._look(upload)
            for bucket, key in list(self._creating):
                await self._find(bucket, key, now)

    def tell(self, dl: Deadline) -> None:
        """Have the report name what stays behind."""
        _known.difference_update(self._uploads)
        for words in self._words():
            dl.leave_behind(words)

    def _words(self) -> Iterator[str]:
        yield from self._found
        for upload, place in self._uploads.items():
            completing = f", and {_LOST}: the object may be there" if upload in self._completing else ""
            yield f"{_url(place)}: multipart upload {upload} not aborted{completing}"
        for upload, completion in self._completing.items():
            if upload not in self._uploads:
                yield f"{_url(completion.place)}: {_LOST}, and whether the object is there is not known"
        for (bucket, key), (count, _) in self._creating.items():
            begun = "a multipart upload" if count == 1 else f"up to {count} multipart uploads"
            yield (
                f"s3://{bucket}/{key}: {begun} may have begun, CreateMultipartUpload was sent and not "
                "answered"
            )

    def _made(self, task: asyncio.Task[Any]) -> bool:
        return task is not asyncio.current_task() and context_of(task).get(_transfer) is self

    async def _abort(self, upload: str) -> None:
        try:
            await self._client.abort_multipart_upload(**self._uploads[upload])
        except Exception as error:  # noqa: BLE001  # whatever it is: the upload stands in the report
            if _code(error) == "NoSuchUpload":
                self._closed(upload)  # it is aborted already, or complete
            else:
                emit("aws.abort_failed", logging.WARNING, upload=upload, error=shown(error))
        else:
            if upload in self._completing:
                self._completing[upload] = self._completing[upload]._replace(aborted=True)

    async def _look(self, upload: str) -> None:
        """Look whether a completion that was not answered was done."""
        if upload in self._uploads:
            return  # it could not be aborted, and may be complete at any time
        place, parts, aborted = self._completing[upload]
        try:
            head = await self._client.head_object(Bucket=place["Bucket"], Key=place["Key"])
            there = head["ETag"].strip('"') == etag_of(parts)
        except Exception:  # noqa: BLE001  # not found, not allowed: it is not known to be there
            there = False
        if there:
            self._found.append(f"{_url(place)}: {_LOST}, and the object is there")
        if there or aborted:
            del self._completing[upload]

    async def _find(self, bucket: str, key: str, now: Callable[[], float]) -> None:
        """Find the uploads that creations began whose answers were lost, and abort them."""
        creating = self._creating[bucket, key]
        try:
            answer = await self._client.list_multipart_uploads(Bucket=bucket, Prefix=key)
            at_service = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            since = at_service - timedelta(seconds=now() - creating.started + WHOLE_SECOND)
            found = [
                one["UploadId"]
                for one in answer.get("Uploads", ())
                if one["Key"] == key and one["Initiated"] >= since and one["UploadId"] not in _known
            ]
        except Exception as error:  # noqa: BLE001  # not allowed, for example: the report tells what may have begun
            emit("aws.abort_failed", logging.WARNING, upload=f"s3://{bucket}/{key}", error=shown(error))
            return
        if len(found) > creating.lost:
            return
        self._uploads.update((one, {"Bucket": bucket, "Key": key, "UploadId": one}) for one in found)
        del self._creating[bucket, key]
        if len(found) < creating.lost:  # the rest may still be on its way
            self._creating[bucket, key] = creating._replace(lost=creating.lost - len(found))
        for upload in found:
            await self._abort(upload)


class _Completing(NamedTuple):
    """A completion that was sent and not answered, and whether its upload was aborted after that."""

    place: dict[str, str]
    parts: list[dict[str, Any]]
    aborted: bool = False


class _Creating(NamedTuple):
    """How many creations of a key were sent and not answered, and when the first of their calls began."""

    lost: int
    started: float


def etag_of(parts: list[dict[str, Any]]) -> str:
    """The ETag that S3 gives an object of these parts, unless its key is KMS' or the customer's.

    docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    try:
        digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _code(error: Exception) -> str:
    """The code of a service's error."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _url(place: dict[str, str]) -> str:
    return f"s3://{place['Bucket']}/{place['Key']}"


def _unwinding_seconds(dl: Deadline) -> float:
    """How long cleaning up may take: the unwinding share, counted from now if the end came before soft."""
    if dl.hard == math.inf:
        return WITHOUT_LIMIT
    share = shares(dl.soft, dl.answer_by).unwinding - dl.soft
    return max(0.0, share - max(0.0, dl.now() - dl.soft))


def current_transfer() -> Transfer | None:
    """The managed transfer that the running task works for."""
    return _transfer.get()


def managed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a transfer method of an S3 client."""

    @functools.wraps(method)
    async def transfer(self: Any, *args: Any, **kwargs: Any) -> Any:
        dl = current()
        if dl is None or _transfer.get() is not None:  # one transfer may be made of another
            return await method(self, *args, **kwargs)
        this = Transfer(self)
        token = _transfer.set(this)
        try:
            answer = await method(self, *args, **kwargs)
        except BaseException:
            await this.clean_up(dl)
            raise
        else:
            if this.lost_creations():
                await this.clean_up(dl)
            return answer
        finally:
            _transfer.reset(token)
            this.tell(dl)

    transfer._deadline_managed = True  # type: ignore[attr-defined]  # noqa: SLF001
    return transfer
