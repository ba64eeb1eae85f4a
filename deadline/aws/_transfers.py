"""Managed transfers that leave nothing behind.

`upload_fileobj`, `copy` and the like start tasks of their own, and a multipart upload. Cancelled, the SDK's
methods leave both: the tasks go on uploading parts, and the upload stays and is billed until somebody aborts
it (terricain/aioboto3#409, #369, #153). So when a transfer under a deadline ends with an error or a cut,

1. exactly the tasks that were made during the call are cancelled, told by a context variable that they
   inherited. Sweeping by the deadline's own would hit tasks that belong to others;
2. the bodies that it reads are closed, also if one broke off: until its error is forgotten it would hold its
   connection, and a pool of one would be stuck;
3. its multipart uploads are aborted, shielded, within the share of the margin that is for unwinding.
   What could not be aborted stands in the report as `left_behind`, and so does what may have begun: an
   upload whose creation was sent and not answered, which nobody here can abort.

Multipart uploads that a handler made itself are its own business and are left alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import anyio

from deadline._events import emit, shown
from deadline._margin import shares
from deadline._record import Record
from deadline._scope import current
from deadline._sighting import context_of
from deadline._unwinding import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline._scope import Deadline

METHODS: Final = ("upload_file", "upload_fileobj", "download_file", "download_fileobj", "copy")
"""What aioboto3 injects into S3's clients (aioboto3/s3/inject.py)."""

WITHOUT_LIMIT: Final = 1.0
"""Seconds for cleaning up under a deadline without a limit, which has no margin to take them from."""

_transfer: ContextVar[Transfer | None] = ContextVar("deadline_transfer", default=None)


class Transfer:
    """One managed transfer: the multipart uploads and the bodies that it has open.

    Attributes:
        opened: Keeps account of a body.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._uploads: dict[str, dict[str, str]] = {}
        self._unanswered: set[tuple[str, str]] = set()
        self._bodies = Record()
        self.opened = self._bodies.opened

    def answered(self, operation: str, params: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep account of a multipart upload by the calls that were answered."""
        if operation == "CreateMultipartUpload":
            place = {"Bucket": params["Bucket"], "Key": params["Key"], "UploadId": answer["UploadId"]}
            self._uploads[answer["UploadId"]] = place
        elif operation in {"CompleteMultipartUpload", "AbortMultipartUpload"}:
            self._uploads.pop(params["UploadId"], None)

    def unanswered(self, operation: str, params: dict[str, Any]) -> None:
        """Keep account of an attempt that was sent and not answered."""
        if operation == "CreateMultipartUpload":
            self._unanswered.add((params["Bucket"], params["Key"]))

    async def clean_up(self, dl: Deadline) -> None:
        """Cancel the tasks, close the bodies, abort the uploads; never raises an error of its own."""
        tasks = {task for task in asyncio.all_tasks() if self._made(task)}
        await to_the_end(self._clean_up(tasks, _unwinding_seconds(dl)))

    async def _clean_up(self, tasks: set[asyncio.Task[Any]], seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while tasks:
                for task in tasks:
                    task.cancel()
                # Once more after half of the time: aioboto3 swallows a cancellation that meets a callback.
                _, tasks = await asyncio.wait(tasks, timeout=seconds / 2)
            await self._bodies.close_resources()
            for place in list(self._uploads.values()):
                await self._abort(place)

    def tell(self, dl: Deadline) -> None:
        """Have the report name what stays behind."""
        for place in self._uploads.values():
            dl.leave_behind(
                f"s3://{place['Bucket']}/{place['Key']}: multipart upload {place['UploadId']} not aborted"
            )
        for bucket, key in self._unanswered:
            dl.leave_behind(
                f"s3://{bucket}/{key}: a multipart upload may have begun, CreateMultipartUpload was sent and "
                "not answered"
            )

    def _made(self, task: asyncio.Task[Any]) -> bool:
        return task is not asyncio.current_task() and context_of(task).get(_transfer) is self

    async def _abort(self, place: dict[str, str]) -> None:
        try:
            await self._client.abort_multipart_upload(**place)
        except Exception as error:  # noqa: BLE001  # whatever it is: the upload stands in the report
            emit("aws.abort_failed", logging.WARNING, upload=place["UploadId"], error=shown(error))


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
            return await method(self, *args, **kwargs)
        except BaseException:
            await this.clean_up(dl)
            raise
        finally:
            _transfer.reset(token)
            this.tell(dl)

    transfer._deadline_managed = True  # type: ignore[attr-defined]  # noqa: SLF001
    return transfer
