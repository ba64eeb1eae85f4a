"""The pytest plugin: fixtures around the tools of `deadline.testing`.

pytest loads it wherever the distribution is installed, so it leaves every test alone that asks for
none of its fixtures, and imports moto and h11 only for tests that need them.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from deadline.testing._extras import missing

try:
    import pytest
except ImportError:
    raise missing("pytest") from None

from deadline.testing import (
    Emulator,
    FakeContext,
    FaultProxy,
    InvokeApi,
    MotoServer,
    VirtualClock,
    VirtualLoop,
)

_LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.fixture
def lambda_context() -> type[FakeContext]:
    """Make Lambda contexts: `lambda_context(timeout=3.0)`; takes what `FakeContext` takes."""
    return FakeContext


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> VirtualClock:
    """Run this async test in virtual time, which starts at 0.0 and leaps over every wait.

    `virtual_clock.time()` is the virtual now; to let time pass, sleep. Threads and sockets are
    leapt over: use the real clock for those. Needs pytest-asyncio 1.5.
    """
    # Our own implementation of the hook is there in any case; its specification is pytest-asyncio's.
    hook = getattr(request.config.hook, "pytest_asyncio_loop_factories", None)
    if hook is None or not hook.has_spec():
        pytest.fail(
            'virtual_clock needs pytest-asyncio 1.5 or newer: pip install "asyncio-deadline[testing]"',
            pytrace=False,
        )
    if request.node.get_closest_marker("asyncio") is None:
        pytest.fail(
            "virtual_clock is for async tests that pytest-asyncio runs: make this an `async def` test, "
            "marked with pytest.mark.asyncio unless asyncio_mode is auto",
            pytrace=False,
        )
    return VirtualClock()


@pytest.fixture(scope="session")
def _running_moto_server() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture
def moto_server(_running_moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    """Give this test an empty AWS: a plain `aioboto3.Session()` talks to moto's server.

    One server, at `moto_server.url`, serves the whole run and is reset before each test. For the
    length of the test the environment holds its address, a region and dummy credentials, and no
    setting of this machine: no profile, no configuration file, no instance metadata.
    """
    _running_moto_server.reset()
    _isolate_environment(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _running_moto_server.url)
    return _running_moto_server


@pytest.fixture
def fault_proxy(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Put a `FaultProxy` before moto's server: a plain `aioboto3.Session()` goes through it."""
    with FaultProxy(moto_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def emulator() -> Iterator[Callable[..., Emulator]]:
    """Run a Lambda function until the end of the test: `emulator("module.function", timeout=3.0)`.

    Takes what `Emulator` takes, and returns it running. The function inherits the environment, so that
    with `moto_server` or `fault_proxy` it talks to them: ask for those first.
    """
    with contextlib.ExitStack() as running:

        def run(handler: str, **options: Any) -> Emulator:
            return running.enter_context(Emulator(handler, **options))

        yield run


@pytest.fixture
def invoke_api(
    moto_server: MotoServer,  # noqa: ARG001  # it sets the environment
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[InvokeApi]:
    """Run Lambda functions behind Lambda's Invoke API: `invoke_api.add("module.function", timeout=3.0)`.

    A plain `aioboto3.Session()` invokes them, and so do they each other; all else is moto's.
    """
    with InvokeApi() as api:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", api.url)
        yield api


def _isolate_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        # Whoever emulates Lambda owns the AWS_LAMBDA_ ones.
        if name.startswith("AWS_") and not name.startswith("AWS_LAMBDA_"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


class _VirtualLoops:
    """Answers pytest-asyncio's question which loops a test runs on.

    Once anybody answers it, pytest-asyncio takes no default any more, for any test. So this is
    registered while the question is about a test that asks for `virtual_clock`, and again for the
    run if there are such tests: only then does pytest-asyncio look early enough whether a shared
    async fixture belongs to the loop of the test before.
    """

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_asyncio_loop_factories(
        self, item: pytest.Item
    ) -> Generator[None, _LoopFactories | None, _LoopFactories]:
        factories = yield
        if _wants_virtual_clock(item):
            return {"virtual": VirtualLoop}
        return factories or {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None]:
    """Let a test that asks for `virtual_clock` run on a virtual loop."""
    if "virtual_clock" not in metafunc.fixturenames:
        return (yield)
    plugins, loops = metafunc.config.pluginmanager, _VirtualLoops()
    plugins.register(loops)
    try:
        return (yield)
    finally:
        plugins.unregister(loops)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let pytest-asyncio know that this run changes between loops."""
    if any(map(_wants_virtual_clock, session.items)):
        session.config.pluginmanager.register(_VirtualLoops())


def _wants_virtual_clock(item: pytest.Item) -> bool:
    return "virtual_clock" in getattr(item, "fixturenames", ())
