"""A client of botocore's own, for those without a loop: plain functions, and the helper process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deadline._core.scope import current
from deadline.aws._notices.notice import check_answer

if TYPE_CHECKING:
    from deadline.aws._notices.notice import Notice

TIMEOUTS: Final[dict[str, Any]] = {
    "connect_timeout": 2,
    "read_timeout": 5,
    "retries": {"total_max_attempts": 2},
}


class BlockingClient:
    """Sends one notice's messages.

    Args:
        notice: Where to.
    """

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._client: Any = None

    def open(self) -> None:
        """Make the client: tens of milliseconds of processor time, and hundreds if it loads the SDK."""
        import botocore.session  # noqa: PLC0415  # importing deadline.aws loads no SDK
        from botocore.config import Config  # noqa: PLC0415

        session: Any = botocore.session.get_session()
        client = session.create_client(
            self._notice.service, region_name=self._notice.region, config=Config(**TIMEOUTS)
        )
        client.meta.events.register("before-send", _check_time)
        self._client = client

    def check(self) -> None:
        """Look for mistakes in the notice.

        Raises:
            ValueError: The service has no such operation, or that takes no such parameters.
        """
        self._notice.check(self._client.meta.service_model)

    def connect(self) -> None:
        """Open a connection, so that sending takes one round trip; as `aws.warm_up` does."""
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        request = AWSRequest("HEAD", self._client.meta.endpoint_url, headers={}).prepare()
        self._client._endpoint.http_session.send(request)  # noqa: SLF001  # the SDK has no public seam

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            Exception: It was not sent, or nobody knows.
        """
        from botocore import xform_name  # noqa: PLC0415

        if self._client is None:
            self.open()
        answer = getattr(self._client, xform_name(self._notice.operation))(**self._notice.request(message))
        for part in answer.values():
            if hasattr(part, "read"):  # the body of Lambda's Invoke: unread, it holds its connection
                part.read()
        check_answer(answer)


def _check_time(**_: Any) -> None:
    """Begin no attempt, and no second one, when the time for sending is up."""
    dl = current()
    if dl is not None and dl.expired:
        raise dl.refusal("the notice was not sent")
