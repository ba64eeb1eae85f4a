"""How an AWS call's time is split into attempts: decisions, as pure functions of numbers.

The whole call ends at the deadline's soft instant, because the scope cuts it. Whether an attempt that stays
silent is still worth waiting for depends on what this operation has taken so far (`Latency`) and on the time
that is left: it is given up at the instant that makes the call most likely to succeed, and early.

Every instant that might be it is tried, on the coarse scale of the estimate. What a call is worth is 1 if it
succeeds, less up to `HASTE` for the share of the remaining time that it took, because what comes after it
needs time, too; a further attempt costs `PRICE`, whatever becomes of it. So with much time left a call is
patient, and with little it takes its chances. Before anything is known, what holds is an opinion on AWS as
a whole. The last attempt has no limit of its own.

That a restart beats waiting at times, and when, is Luby, Sinclair and Zuckerman's (1993); that a second
request may run beside the first, Dean and Barroso's "The Tail at Scale" (2013).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from deadline.aws._calls.latency import BUCKETS, EDGES

if TYPE_CHECKING:
    from collections.abc import Collection

    from deadline.aws._calls.latency import Latency

MIN_ATTEMPT: Final = 0.020
"""Seconds under which an attempt is not worth sending: about S3's first byte on a warm connection. A cold
connection takes several times that; `limits(min_attempt=...)` sets your own."""

MIN_LIMIT: Final = 0.050
"""Seconds under which an attempt is not given up: so long may our own loop be busy."""

COLD_LIMIT: Final = 0.200
"""The same before this operation was ever answered: a first attempt may have to connect."""

MIN_HEDGE: Final = 0.020
"""Seconds before which no further attempt joins one in flight."""

LONG: Final = {
    "bedrock-agent-runtime.InvokeAgent": "a model answers",
    "bedrock-agent-runtime.RetrieveAndGenerate": "a model answers",
    "bedrock-runtime.Converse": "a model answers",
    "bedrock-runtime.ConverseStream": "a model answers",
    "bedrock-runtime.InvokeModel": "a model answers",
    "bedrock-runtime.InvokeModelWithResponseStream": "a model answers",
    "lambda.Invoke": "a function runs",
    "lambda.InvokeWithResponseStream": "a function runs",
    "rds-data.BatchExecuteStatement": "SQL runs",
    "rds-data.ExecuteStatement": "SQL runs",
    "s3.CompleteMultipartUpload": "large objects are put together, for minutes",
    "s3.CopyObject": "up to 5 GB are copied",
    "s3.SelectObjectContent": "an object is searched",
    "s3.UploadPartCopy": "up to 5 GB are copied",
    "sagemaker-runtime.InvokeEndpoint": "a model answers",
    "sqs.ReceiveMessage": "waits for messages, for up to 20 s; one that is given up hides what it finds",
    "stepfunctions.GetActivityTask": "waits for a task, for up to 60 s",
    "stepfunctions.StartSyncExecution": "a state machine runs",
    "textract.AnalyzeDocument": "a document is read",
    "textract.DetectDocumentText": "a document is read",
}
"""Operations that take as long as what they are asked for, and why. Their silence says nothing of the
service, and sending them again begins the work again: an attempt at one is never given up early."""

# Chosen with benchmarks/goodput.py --tuning; twice or half of each makes little difference there.
HASTE: Final = 0.15
PRICE: Final = 0.01
HEDGE_PRICE: Final = 0.003
PAUSE: Final = 1 / 16
"""How much of its time an attempt that was given up is followed by a backoff, at most."""


_PER_WIDTH: Final = tuple(1 / (edge - before) for before, edge in zip((0.0, *EDGES), EDGES, strict=False))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller says about the attempts of its calls.

    Attributes:
        attempts: How many at most, the first included; `None`: as the client is configured.
        per_attempt: Seconds that each may take, the last included; `None`: the rule above.
        min_attempt: Seconds under which none is sent.
        hedge: Whether a further attempt may join one in flight, or for which operations besides those of the
            table; `None`: as the client was installed.
    """

    attempts: int | None = None
    per_attempt: float | None = None
    min_attempt: float = MIN_ATTEMPT
    hedge: bool | Collection[str] | None = None


def attempt_limit(left: float, further: int, limits: Limits, latency: Latency) -> float:
    """How long an attempt may take.

    Args:
        left: Seconds from its start until the call is cut; `inf` without a deadline.
        further: How many attempts could follow this one.
        limits: The caller's.
        latency: What such attempts took so far.

    Returns:
        Seconds; `inf` for no limit of its own.
    """
    if limits.per_attempt is not None:
        return limits.per_attempt
    if further <= 0 or not 0.0 < left < math.inf:
        return math.inf
    return _best(left, limits, latency, beside=False)


def first_look(operation: str, further: int, limits: Limits, latency: Latency) -> float:
    """How long after an attempt's start `attempt_limit` need not be asked: most are answered by then.

    Args:
        operation: `service.Operation`; one of `LONG` is not given up early.
        further: As of `attempt_limit`, like the rest.
        limits: The caller's.
        latency: What such attempts took so far.

    Returns:
        Seconds, never more than `attempt_limit`'s; `inf` if it need not be asked at all.
    """
    if limits.per_attempt is not None:
        return limits.per_attempt
    if further <= 0 or operation in LONG:
        return math.inf
    return MIN_LIMIT if latency.answers else COLD_LIMIT


def hedge_after(left: float, further: int, limits: Limits, latency: Latency) -> float:
    """How long after an attempt's start another one joins it, if it is still silent then.

    Arguments and result as of `attempt_limit`; `inf` for never.
    """
    if further <= 0 or not 0.0 < left < math.inf:
        return math.inf
    return _best(left, limits, latency, beside=True)


def _best(left: float, limits: Limits, latency: Latency, *, beside: bool) -> float:
    """After how long the next attempt is sent: instead of a silent one, or beside it; `inf` for never."""
    within, spent, luck = latency.within, latency.spent, latency.luck
    least, pause, price = (MIN_HEDGE, 0.0, HEDGE_PRICE) if beside else (MIN_LIMIT, PAUSE, PRICE)
    if not latency.answers:
        least = COLD_LIMIT
    last = min(bisect_left(EDGES, left, 1), BUCKETS - 1)
    part = min(1.0, (left - EDGES[last - 1]) * _PER_WIDTH[last])
    most = within[last - 1] + part * (within[last] - within[last - 1])
    most_spent = spent[last - 1] + part * (spent[last] - spent[last - 1])
    cost = HASTE / left
    best, best_worth = math.inf, most - cost * most_spent
    again = last
    first = max(bisect_left(within, most / 2), bisect_left(EDGES, least))
    for at in chain(range(first, min(first + 6, last)), range(first + 6, last, 2)):  # far off, every other
        edge = EDGES[at]
        start = edge + edge * pause
        rest = left - start
        if rest <= limits.min_attempt:
            break
        while again > 1 and EDGES[again - 1] > rest:
            again -= 1
        part = (rest - EDGES[again - 1]) * _PER_WIDTH[again]
        in_rest = within[again - 1] + part * (within[again] - within[again - 1])
        wait = spent[again - 1] + part * (spent[again] - spent[again - 1])
        by_then = within[at]
        if beside:
            late = most - by_then  # what may still come of the first
            wait /= in_rest
            if late > 1e-6:
                wait = min(wait, (most_spent - spent[at]) / late - edge)
            either = 1 - (1 - in_rest * luck) * (1 - late / (1 - by_then))
            then = either * (1 - cost * (start + wait))
        else:
            then = luck * (in_rest * (1 - cost * start) - cost * wait)
            if in_rest > by_then:  # without luck the next one is as slow as this one, and begins anew
                then += (1 - luck) * (in_rest - by_then) / (1 - by_then) * (1 - HASTE)
        worth = by_then - cost * spent[at] + (1 - by_then) * (then - price)
        if worth > best_worth:
            best, best_worth = edge, worth
        elif worth + (most - by_then) * (1 - then + price) < best_worth:
            break  # not even if all that may come of this one came at once
    return best


def backoff(delay: float, left: float, given_up_after: float | None) -> float:
    """How long to wait before a retry that the SDK would wait `delay` seconds for.

    A service that answers with an error gets the pause that the SDK wants. An attempt that *we* gave up
    says nothing of the sort, and a backoff of seconds would throw away the time it was given up for: that
    one waits for a small part of what the attempt had, and a quarter of what is left at most.

    Args:
        delay: Seconds.
        left: Seconds until the call is cut; `inf` without a deadline.
        given_up_after: Seconds after which the attempt ended at our limit; `None` if it did not.
    """
    return delay if given_up_after is None else min(delay, left / 4, given_up_after * PAUSE)


def fits(left: float, limits: Limits, delay: float = 0.0) -> bool:
    """Whether an attempt is worth sending `delay` seconds from now.

    Args:
        left: Seconds until the call is cut; `inf` without a deadline.
        limits: The caller's.
        delay: Seconds of backoff before it.
    """
    return delay + limits.min_attempt <= left


def polls(left: float, delay: float, limits: Limits) -> float:
    """How many polls `delay` seconds apart fit, the first one at once; `inf` without a deadline."""
    if left == math.inf or delay <= 0:
        return math.inf
    return 1 + max(0.0, (left - limits.min_attempt) // delay)


def attempts_left(attempt: int, configured: int, limits: Limits) -> int:
    """How many attempts could follow number `attempt` (from 1), as the client and the caller have it."""
    most = configured if limits.attempts is None else min(configured, limits.attempts)
    return max(0, most - attempt)
