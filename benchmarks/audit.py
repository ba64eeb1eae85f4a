"""How long an audit takes: templates of 100 to 2,000 resources, half of them functions, half their queues.

Every function has an API before it and a timeout that turns on a condition, so rules are played in two ways.
CPU seconds of one process, median of five runs. CloudFormation takes 500 resources at most.
"""

from __future__ import annotations

import platform
import statistics
import time
from importlib import metadata
from typing import TYPE_CHECKING

from deadline.audit import audit, read

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 5
LIMIT = 10.0
"""Seconds for 2,000 resources."""

PAIR = """
  F{0}:
    Type: AWS::Serverless::Function
    Properties:
      Timeout: !If [IsProd, 60, 10]
      Policies: [SQSPollerPolicy: {{QueueName: !GetAtt Q{0}.QueueName}}]
      Events:
        Jobs: {{Type: SQS, Properties: {{Queue: !GetAtt Q{0}.Arn, BatchSize: 5}}}}
        Get: {{Type: Api, Properties: {{Path: /{0}, Method: get}}}}
  Q{0}: {{Type: AWS::SQS::Queue, Properties: {{VisibilityTimeout: 60}}}}"""

TOP = """
Transform: AWS::Serverless-2016-10-31
Parameters: {Stage: {Type: String, Default: dev}}
Conditions: {IsProd: !Equals [!Ref Stage, prod]}
Globals: {Function: {Runtime: python3.13}}
Resources:"""


def template(count: int) -> str:
    """One of so many resources."""
    return TOP + "".join(PAIR.format(number) for number in range(count // 2)) + "\n"


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """The median of its CPU seconds, and the longest."""
    times = []
    for _ in range(RUNS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return statistics.median(times), max(times)


def main() -> None:
    """Print a table."""
    print(f"Python {platform.python_version()}, cfn-lint {metadata.version('cfn-lint')}")
    print(f"{'resources':>9}  {'read, s':>8}  {'worst':>6}  {'audit, s':>8}  {'worst':>6}  {'findings':>8}")
    for count in (100, 500, 2_000):
        text = template(count)
        reading, slowest = timed(lambda text=text: read(text))  # type: ignore[misc]
        parsed = read(text)
        auditing, worst = timed(lambda parsed=parsed: audit(parsed))  # type: ignore[misc]
        found = len(audit(parsed).findings)
        print(f"{count:>9}  {reading:>8.2f}  {slowest:>6.2f}  {auditing:>8.2f}  {worst:>6.2f}  {found:>8}")
    print(f"{'PASS' if reading + auditing < LIMIT else 'FALLS SHORT'}: limit {LIMIT:g} s for 2,000 resources")


if __name__ == "__main__":
    main()
