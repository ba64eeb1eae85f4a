"""The pytest plugin, in pytest runs of its own."""

import importlib
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

import deadline

RunPytest = Callable[..., str]

PYTEST_INI = """\
[pytest]
filterwarnings =
    error
    ignore:The configuration option "asyncio_default_fixture_loop_scope" is unset
"""
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "deadline.testing.plugin")


@pytest.fixture
def run_pytest(tmp_path: pathlib.Path) -> RunPytest:
    """Run pytest over a file of its own, with these plugins alone, and return what it prints."""

    def run(source: str, *options: str, conftest: str = "", **environment: str) -> str:
        (tmp_path / "pytest.ini").write_text(PYTEST_INI)
        (tmp_path / "conftest.py").write_text(textwrap.dedent(conftest))
        (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
        finished = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTHONPATH": str(pathlib.Path(deadline.__file__).parent.parent),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return finished.stdout + finished.stderr

    return run


ANY_TESTS = """
    import asyncio
    import pytest

    @pytest.fixture(params=[1, 2])
    def number(request):
        return request.param

    async def test_real(): ...

    async def test_numbers(number): ...

    def test_sync(): ...
"""


@pytest.mark.slow
def test_names_of_tests_do_not_change(run_pytest: RunPytest) -> None:
    """Neither the plugin nor a virtual clock puts anything into a test's name."""
    source = ANY_TESTS + "\n    async def test_virtual(virtual_clock, number): ...\n"
    printed = run_pytest(source, *PLUGINS, "--asyncio-mode=auto", "--collect-only", "-q")
    assert printed.split("\n\n")[0].splitlines() == [
        "test_it.py::test_real",
        "test_it.py::test_numbers[1]",
        "test_it.py::test_numbers[2]",
        "test_it.py::test_sync",
        "test_it.py::test_virtual[1]",
        "test_it.py::test_virtual[2]",
    ]


@pytest.mark.slow
def test_only_tests_that_ask_run_in_virtual_time(run_pytest: RunPytest) -> None:
    """Virtual and real tests mix, and a shared async fixture belongs to the loop of its test."""
    source = """
        import asyncio
        import time

        import pytest
        import pytest_asyncio
        from hypothesis import HealthCheck, given, settings, strategies as st

        from deadline.testing import VirtualLoop

        pytestmark = pytest.mark.asyncio

        @pytest_asyncio.fixture
        async def indirect(virtual_clock):
            await asyncio.sleep(1)
            return virtual_clock

        @pytest_asyncio.fixture(scope="module")
        async def shared():
            return asyncio.get_running_loop()

        def is_virtual():
            return isinstance(asyncio.get_running_loop(), VirtualLoop)

        async def test_real_first():
            assert not is_virtual()

        async def test_virtual(virtual_clock):
            assert is_virtual() and virtual_clock.time() == 0.0
            await asyncio.sleep(1000)
            assert virtual_clock.time() == 1000.0

        async def test_through_a_fixture(indirect):
            assert is_virtual() and indirect.time() == 1.0

        @pytest.mark.asyncio(loop_scope="module")
        async def test_shared_virtual(shared, virtual_clock):
            assert asyncio.get_running_loop() is shared and is_virtual()

        @pytest.mark.asyncio(loop_scope="module")
        async def test_shared_real(shared):
            assert asyncio.get_running_loop() is shared and not is_virtual()

        @settings(max_examples=5, database=None, suppress_health_check=list(HealthCheck))
        @given(seconds=st.integers(1, 10**6))
        async def test_hypothesis(virtual_clock, seconds):
            before = virtual_clock.time()
            await asyncio.sleep(seconds)
            assert virtual_clock.time() == before + seconds

        async def test_context(lambda_context, virtual_clock):
            context = lambda_context(timeout=10)
            await asyncio.sleep(9)
            assert context.get_remaining_time_in_millis() == 1000

        async def test_real_last():
            assert not is_virtual()
    """
    printed = run_pytest(source, *PLUGINS, "-p", "_hypothesis_pytestplugin")
    assert "8 passed" in printed, printed


@pytest.mark.slow
def test_a_users_own_loops_stay(run_pytest: RunPytest) -> None:
    """A project that chooses its loops by pytest-asyncio's hook keeps them for its other tests."""
    conftest = """
        import asyncio

        class OwnLoop(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories(config, item):
            return {"own": OwnLoop, "plain": asyncio.SelectorEventLoop}
    """
    source = """
        import asyncio

        async def test_own():
            print("on", type(asyncio.get_running_loop()).__name__)

        async def test_virtual(virtual_clock):
            print("on", type(asyncio.get_running_loop()).__name__)
    """
    printed = run_pytest(source, *PLUGINS, "--asyncio-mode=auto", "-v", "-s", conftest=conftest)
    assert "test_own[own] on OwnLoop\nPASSED" in printed, printed
    assert "test_own[plain] on _UnixSelectorEventLoop\nPASSED" in printed, printed
    assert "test_virtual on VirtualLoop\nPASSED" in printed, printed


@pytest.mark.slow
def test_anyios_plugin_takes_the_loop(run_pytest: RunPytest) -> None:
    """Tests that anyio's plugin runs are virtual if its backend is given the loop."""
    source = """
        import anyio
        import pytest

        from deadline.testing import VirtualClock, VirtualLoop

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualLoop}

        @pytest.mark.anyio
        async def test_virtual():
            await anyio.sleep(500)
            assert VirtualClock().time() == 500
    """
    printed = run_pytest(source, "-p", "anyio.pytest_plugin", "-p", "deadline.testing.plugin")
    assert "1 passed" in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ((*PLUGINS, "--asyncio-mode=auto"), "make this an `async def` test"),
        (("-p", "deadline.testing.plugin"), 'pip install "asyncio-deadline[testing]"'),
    ],
    ids=["sync-test", "no-pytest-asyncio"],
)
def test_a_virtual_clock_that_cannot_be_says_why(
    run_pytest: RunPytest, options: tuple[str, ...], advice: str
) -> None:
    """A sync test, or a run without pytest-asyncio, is told what virtual time needs."""
    printed = run_pytest("def test_it(virtual_clock): ...", *options)
    assert "1 error" in printed, printed
    assert advice in printed, printed


@pytest.mark.slow
def test_loading_it_loads_no_optional_dependency() -> None:
    """The plugin is loaded in every pytest run, so it imports neither an SDK, nor moto, nor h11."""
    program = """
import sys
import deadline.testing.plugin
heavy = {"moto", "boto3", "botocore", "aiobotocore", "aioboto3", "aiohttp", "h11", "werkzeug"}
print(sorted(heavy & set(sys.modules)))
"""
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert printed == "[]\n"


def test_the_package_needs_no_pytest() -> None:
    """Outside pytest the tools come without it: only the plugin's module imports it."""
    testing = pathlib.Path(deadline.__file__).parent / "testing"
    importers = [path.name for path in testing.glob("*.py") if "import pytest" in path.read_text()]
    assert importers == ["plugin.py"]


def test_the_plugin_without_pytest_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports it outside of pytest is told which extra brings pytest."""
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "deadline.testing.plugin", raising=False)
    with pytest.raises(ImportError, match=r'^this needs pytest.*"asyncio-deadline\[testing\]"') as caught:
        importlib.import_module("deadline.testing.plugin")
    assert caught.value.__suppress_context__


@pytest.mark.slow
def test_the_machines_aws_settings_stay_out(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A developer's profile, endpoints and proxies have no say in a test on moto's server."""
    import aioboto3

    for name, value in {
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_S3": "http://192.0.2.1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_CONFIG_FILE": "/absent",
        "AWS_LAMBDA_FUNCTION_NAME": "kept",
        "HTTP_PROXY": "http://192.0.2.1:3128",
    }.items():
        monkeypatch.setenv(name, value)
    server = request.getfixturevalue("moto_server")
    session = aioboto3.Session()
    assert session.profile_name == "default"
    assert session.region_name == "us-east-1"
    assert os.environ["AWS_ENDPOINT_URL"] == server.url
    assert os.environ["AWS_LAMBDA_FUNCTION_NAME"] == "kept"
    assert {name for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")} == set()
    assert "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" not in os.environ


EMULATED = """
    import os
    import pytest

    pids = []

    def test_runs_functions(emulator, tmp_path):
        (tmp_path / "function.py").write_text("import os\\ndef pid(event, context): return os.getpid()")
        for _ in range(2):
            pids.append(emulator("function.pid", path=tmp_path, timeout=30).invoke().response)
        assert len(set(pids)) == 2
        for pid in pids:
            os.kill(pid, 0)
        assert emulator("function.pid", path=tmp_path, env={"A": "B"}).log == ""

    def test_they_are_gone_afterwards():
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
"""


@pytest.mark.slow
def test_the_emulator_fixture_runs_functions_until_the_end_of_the_test(run_pytest: RunPytest) -> None:
    """It makes as many as are asked for, with options, and ends them with the test."""
    pytest.importorskip("awslambdaric")
    output = run_pytest(EMULATED, *PLUGINS)
    assert "2 passed" in output, output
