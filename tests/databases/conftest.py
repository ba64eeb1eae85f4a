"""A PostgreSQL and a Redis of the tests' own, each on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from deadline.aws._runtime import event_loop as _environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
TRIES = 3  # another process may take the free port first


def installed(command: str, package: str) -> str:
    """Where a server's command is, or the test is skipped."""
    places = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    path = shutil.which(command, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(
            f"there is no {command}: make servers, or apt-get install --no-install-recommends {package}"
        )
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder that another user can own: pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="deadline-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Server:
    """A server as it is seen from outside."""

    def __init__(self, look: Callable[[], Any]) -> None:
        look()
        taken = [self._takes(look) for _ in range(20)]
        self.round_trip = statistics.median(taken)
        self.patience = max(1.0, 1000 * self.round_trip)
        """Seconds until what was cut has ended: one, and more where the machine is slow."""

    @staticmethod
    def _takes(look: Callable[[], Any]) -> float:
        began = time.perf_counter()
        look()
        return time.perf_counter() - began

    def becomes(self, look: Callable[[], int], wanted: int) -> int:
        """Look until it is as wanted, or the patience is over; what was seen last."""
        ends = time.monotonic() + self.patience
        while (seen := look()) != wanted and time.monotonic() < ends:
            time.sleep(0.005)  # between two looks
        return seen


class Database(Server):
    """A new, empty database, and a look at it from outside."""

    def __init__(self, name: str, port: int, observer: psycopg.Connection) -> None:
        self.url = f"postgresql://postgres@{HOST}:{port}/{name}"
        self.observer = observer
        super().__init__(lambda: self.ask("SELECT 1"))

    def ask(self, sql: Any) -> list[tuple[Any, ...]]:
        return self.observer.execute(sql).fetchall()

    def active(self) -> int:
        """How many queries of others are being executed."""
        return self._others("state = 'active'")

    def in_transaction(self) -> int:
        """How many connections of others were left inside a transaction."""
        return self._others("state LIKE 'idle in transaction%'")

    def connections(self) -> int:
        return self._others("true")

    def _others(self, condition: str) -> int:
        where = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        return int(self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE {where} AND {condition}")[0][0])  # noqa: S608


class Cache(Server):
    """An empty Redis, and a look at it from outside."""

    def __init__(self, url: str, observer: redis.Redis) -> None:
        self.url = url
        self.observer = observer
        super().__init__(observer.ping)

    def blocked(self) -> int:
        """How many connections wait for a list to be filled."""
        return int(self.observer.info("clients")["blocked_clients"])

    def connections(self) -> int:
        """How many connections others have."""
        return len(self.observer.client_list()) - 1


@pytest.fixture(scope="session")
def postgres() -> Iterator[int]:
    """The port of a PostgreSQL that runs for these tests. It does not run as root."""
    initdb = installed("initdb", "postgresql")
    user = {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
    with folder() as home:
        if user:
            shutil.chown(home, "postgres", "postgres")

        def run(*command: str | Path) -> bool:
            with (home / "output").open("ab") as output:
                ended = subprocess.run(command, check=False, cwd=home, stdout=output, stderr=output, **user)  # type: ignore[call-overload]
            return bool(ended.returncode == 0)

        control = [str(Path(initdb).resolve().parent / "pg_ctl"), "--pgdata", str(home / "data"), "--wait"]
        init = [initdb, "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        assert run(*init, "--pgdata", home / "data"), (home / "output").read_text()
        for _ in range(TRIES):
            port = free_port()
            options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories= -c fsync=off"
            if run(*control, "--log", home / "log", "-o", options, "start"):
                break
        else:
            pytest.fail((home / "output").read_text() + (home / "log").read_text())
        try:
            yield port
        finally:
            run(*control, "--mode=immediate", "stop")


@pytest.fixture
def database(postgres: int) -> Iterator[Database]:
    """A new database of the tests' PostgreSQL."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(f"postgresql://postgres@{HOST}:{postgres}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            with psycopg.connect(
                f"postgresql://postgres@{HOST}:{postgres}/{name}", autocommit=True
            ) as observer:
                yield Database(name, postgres, observer)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Where a Redis runs for these tests."""
    command = installed("redis-server", "redis-server")
    with folder() as home:
        for _ in range(TRIES):
            port = free_port()
            arguments = f"--bind {HOST} --port {port} --dir {home} --appendonly no --save".split()
            with subprocess.Popen([command, *arguments, ""], stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                if any("Ready to accept connections" in line for line in process.stdout):
                    try:
                        yield f"redis://{HOST}:{port}"
                    finally:
                        process.kill()
                    return
        pytest.fail("redis-server did not start")


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    """The tests' Redis, emptied."""
    with redis.Redis.from_url(redis_url, single_connection_client=True) as observer:
        observer.flushall()
        yield Cache(redis_url, observer)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A handler's loop and lifespan for each test."""
    _environment.replace_environment()
    yield
    _environment.close_environment()
