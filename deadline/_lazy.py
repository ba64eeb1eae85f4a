"""Names that a package loads when somebody first asks for them: a cold start pays for what it uses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def later(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Make a package's `__getattr__`, which Python asks for a name that is not there (PEP 562).

    Args:
        package: Its `__name__`.
        modules: The module of each name, as in a relative import: `{"each": "._each"}`.
    """

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # see above

        value: object = getattr(import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
