"""The package's table of contents and its optional parts."""

import sys

import pytest

import deadline.testing
from deadline.testing import FaultProxy, MotoServer


def test_all_is_sorted_and_complete() -> None:
    """Every public name is listed once, and every listed name is there."""
    listed = deadline.testing.__all__
    assert listed == sorted(set(listed))
    public = {
        name
        for name, value in vars(deadline.testing).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("deadline.testing")
    }
    assert public == set(listed)


def test_a_proxy_without_h11_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where h11 is missing, making a proxy names the extra that brings it."""
    monkeypatch.delitem(sys.modules, "deadline.testing._proxy.http", raising=False)
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(ImportError, match=r'needs h11.*pip install "asyncio-deadline\[testing\]"'):
        FaultProxy("http://127.0.0.1:9")


def test_a_moto_server_without_moto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where moto's server is missing, making one names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(ImportError, match=r'needs moto\[server\].*pip install "asyncio-deadline\[testing\]"'):
        MotoServer()
