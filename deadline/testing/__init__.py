"""Tools for testing code that has a deadline.

`FakeContext` stands in for Lambda's context, `VirtualLoop` makes hours pass at once, `MotoServer` is
an AWS in a thread and `FaultProxy` lets it misbehave, `Emulator` runs a handler as Lambda would,
`SqsMapping` feeds it from a queue, and `InvokeApi` has functions call each other.
With pytest they are fixtures: `lambda_context`, `virtual_clock`, `moto_server`, `fault_proxy`, `emulator`,
`invoke_api`.
Install `asyncio-deadline[testing]`.
"""

from deadline.testing._clock import VirtualClock, VirtualLoop
from deadline.testing._context import FakeContext
from deadline.testing._emulator.emulator import Emulator
from deadline.testing._emulator.invocation import FunctionError, Invocation
from deadline.testing._emulator.invoke_api import InvokeApi
from deadline.testing._emulator.lambda_function import InvokeAttempt
from deadline.testing._emulator.sqs_mapping import SqsBatch, SqsDelivery, SqsMapping
from deadline.testing._moto import MotoServer
from deadline.testing._proxy.aws_errors import AwsErrorAnswer, service_unavailable, slow_down, throttling
from deadline.testing._proxy.faults import (
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
from deadline.testing._proxy.journal import Exchange
from deadline.testing._proxy.proxy import FaultProxy
from deadline.testing._proxy.request import Request
from deadline.testing._proxy.rules import Rule

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
