"""Tools for testing code that has a deadline.

`FakeContext` stands in for Lambda's context, `VirtualLoop` makes hours pass at once, `MotoServer` is
an AWS in a thread and `FaultProxy` lets it misbehave, `Emulator` runs a handler as Lambda would,
`SqsMapping` feeds it from a queue, and `InvokeApi` has functions call each other.
With pytest they are fixtures: `lambda_context`, `virtual_clock`, `moto_server`, `fault_proxy`, `emulator`,
`invoke_api`.
Install `asyncio-deadline[testing]`.
"""

from ._aws_errors import AwsErrorAnswer, service_unavailable, slow_down, throttling
from ._clock import VirtualClock, VirtualLoop
from ._context import FakeContext
from ._emulator import Emulator
from ._faults import (
    Answer,
    BlackHole,
    Delay,
    Drip,
    Fault,
    HalfClose,
    LostAnswer,
    Refuse,
    Reset,
    Stall,
    Wire,
)
from ._invocation import FunctionError, Invocation
from ._invoke_api import InvokeApi
from ._journal import Exchange
from ._lambda_function import InvokeAttempt
from ._moto import MotoServer
from ._proxy import FaultProxy
from ._request import Request
from ._rules import Rule
from ._sqs_mapping import SqsBatch, SqsDelivery, SqsMapping

__all__ = [
    "Answer",
    "AwsErrorAnswer",
    "BlackHole",
    "Delay",
    "Drip",
    "Emulator",
    "Exchange",
    "FakeContext",
    "Fault",
    "FaultProxy",
    "FunctionError",
    "HalfClose",
    "Invocation",
    "InvokeApi",
    "InvokeAttempt",
    "LostAnswer",
    "MotoServer",
    "Refuse",
    "Request",
    "Reset",
    "Rule",
    "SqsBatch",
    "SqsDelivery",
    "SqsMapping",
    "Stall",
    "VirtualClock",
    "VirtualLoop",
    "Wire",
    "service_unavailable",
    "slow_down",
    "throttling",
]
