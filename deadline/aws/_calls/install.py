"""`install`: the SDK's clients obey the deadline in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deadline.aws._calls.hedging import checked_hedge

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from deadline._resilience.breaker import Breaker

Target = TypeVar("Target")


def install(
    session_or_client: Target,
    *,
    breaker: Callable[[str], Breaker] | None = None,
    hedge: bool | Collection[str] = False,
) -> Target:
    """Make AWS calls obey the current deadline.

    Inside of a deadline, every call ends at its soft instant, retries and backoff included; each attempt but
    the last is given up when another one is more likely to make it, by what the operation has taken so
    far; a retry that cannot fit is refused at once, so that the service's own error reaches the caller with
    time to spare; and a call that cannot fit is not sent.
    Without a deadline an installed client behaves as before.

    Args:
        session_or_client: An aioboto3 or aiobotocore session: every client and resource made from it
            *from now on* is covered. Or one client or resource that exists already. Twice does no harm;
            the last `breaker` and `hedge` hold.
        breaker: Makes a breaker from its name, for each endpoint and operation that is called: `Breaker`, or
            `functools.partial(Breaker, failures=3)`. A call whose breaker is open is not sent, with a
            deadline or without: `BreakerOpen`. One call counts once, its attempts included; a call that is
            cut is judged by its last attempt that came to an end. Default: no breakers.
        hedge: Whether a second request may be sent beside one that stays silent, in a deadline, for reads
            that are known to be safe; the first answer wins and the other is cancelled. Names like
            `{"dynamodb.ExecuteStatement"}` add operations of which you know that they may be sent twice. One
            call in five may have such a request, and none after the service has throttled.

    Returns:
        What it was given.

    Raises:
        ImportError: Neither aioboto3 nor aiobotocore is installed.
        TypeError, ValueError: It is something else, or `breaker` makes none; the message says what to pass.
    """
    hedge = checked_hedge(hedge)
    try:
        from deadline.aws._calls.breakers import Breakers  # noqa: PLC0415  # loaded by the next one anyway
        from deadline.aws._calls.client_hook import cover  # noqa: PLC0415  # a handler without clients needs no SDK
    except ImportError as error:
        raise ImportError(
            'aws.install() needs the SDK: pip install "asyncio-deadline[aws]" for aioboto3, or '
            '"asyncio-deadline[aiobotocore]" for aiobotocore alone'
        ) from error
    cover(session_or_client, None if breaker is None else Breakers(breaker), hedge)
    return session_or_client
