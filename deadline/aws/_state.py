"""What a chain of invocations hands on, as JSON: a codec for a type, made once from its shape.

Values are checked in both directions. What is not of its declared type would be refused by the next
invocation, when nobody is left who could do better; and what was handed in may be anybody's.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import json
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Convert = Callable[[Any], Any]

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)

_TEXTS: Final[dict[Any, tuple[Convert, Convert]]] = {
    dt.datetime: (dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    decimal.Decimal: (str, decimal.Decimal),
    uuid.UUID: (str, uuid.UUID),
    bytes: (lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
"""What JSON has no name for and a text can hold."""

_PLAIN: Final = (str, int, float, bool, type(None))
_UNKNOWN: Final = ("title", "description", "examples")
"""What a schema says that is no shape."""


def said(prefix: str, error: Exception) -> Exception:
    """The error with a prefix: a TypeError or, of whatever subclass it was, a ValueError."""
    return (TypeError if isinstance(error, TypeError) else ValueError)(f"{prefix}: {error}")


class Part(NamedTuple):
    """How the values of a type become what JSON can hold, and come back.

    Attributes:
        shape: The type in words: of two with one shape, each reads what the other wrote.
        dump, load: Raise TypeError or ValueError for what is no such value.
    """

    shape: str
    dump: Convert
    load: Convert


class Codec:
    """Texts of a type: `dumps` and `loads`.

    Attributes:
        version: A short name of the type's shape.

    Raises:
        TypeError: The type's values can be changed, or are nothing for JSON; the message says what to write.
    """

    def __init__(self, kind: Any) -> None:
        if kind is bytes:
            raise TypeError("state: bytes are what a state becomes; describe it by a frozen dataclass")
        part = _part(kind)
        self._dump, self._load = part.dump, part.load
        self.version = hashlib.sha256(part.shape.encode()).hexdigest()[:12]

    def dumps(self, value: Any) -> bytes:
        """The value's JSON, which is a copy of it.

        Raises:
            TypeError, ValueError: It is not of the type, or JSON cannot hold it.
        """
        return _ENCODER.encode(self._dump(value)).encode()

    def loads(self, value: Any) -> Any:
        """The value that was written, from its parsed JSON.

        Raises:
            TypeError, ValueError: It is none of the type.
        """
        return self._load(value)


def _part(kind: Any) -> Part:  # noqa: C901, PLR0911  # a table, of types
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return Part("any", _plain, _same)
    if kind in _TEXTS:
        return _text(kind)
    if kind in _PLAIN or kind is None:
        return _scalar(type(None) if kind is None else kind)
    if origin in {typing.Union, types.UnionType}:
        return _union([_part(one) for one in arguments])
    if origin is typing.Literal:
        return _literal(arguments)
    if (origin or kind) in {list, tuple, dict}:
        return _container(kind, origin or kind, arguments)
    if typing.is_typeddict(kind):
        return Part(f"dict{sorted(typing.get_type_hints(kind).items(), key=str)}", _plain_dict, _a(dict))
    if isinstance(kind, type):
        if dataclasses.is_dataclass(kind):
            return _dataclass(kind)
        if issubclass(kind, enum.Enum):
            return Part(f"{kind.__name__}{[one.value for one in kind]}", _value_of(kind), kind)
        if hasattr(kind, "model_validate_json") and hasattr(kind, "model_json_schema"):
            return _model(kind)
    named = kind if origin else getattr(kind, "__qualname__", kind)
    raise TypeError(
        f"state: {named} is nothing that JSON can hold; write a @dataclass(frozen=True) "
        "or a pydantic model, of str, int, float, bool, None, bytes, datetime, date, Decimal, UUID, "
        "enums, tuple[...], list[...], dict[str, ...]"
    )


def _wrong(kind: str, value: Any) -> NoReturn:
    raise TypeError(f"expected {kind}, got {value!r:.80}")


def _same(value: Any) -> Any:
    return value


def _a(kind: type) -> Convert:
    """Check for this very type: a subclass would come back as another one."""

    def check(value: Any) -> Any:
        return value if type(value) is kind else _wrong(kind.__name__, value)

    return check


def _plain(value: Any) -> Any:
    """Let through what comes back as it is: no tuple, no key that is no text."""
    if type(value) in _PLAIN:
        return value
    if type(value) is list:
        return [_plain(one) for one in value]
    return _plain_dict(value)


def _plain_dict(value: Any) -> Any:
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _plain(one) for key, one in value.items()}
    _wrong("what JSON gives back as it was", value)


def _scalar(kind: type) -> Part:
    if kind is not float:
        return Part(kind.__name__, _a(kind), _a(kind))

    def number(value: Any) -> float:
        return float(value) if type(value) in (float, int) else _wrong("float", value)

    return Part("float", number, number)


def _text(kind: Any) -> Part:
    write, read = _TEXTS[kind]
    checked = _a(kind)
    return Part(kind.__name__, lambda value: write(checked(value)), lambda value: read(_a(str)(value)))


def _union(parts: list[Part]) -> Part:
    def first(convert: Callable[[Part], Convert]) -> Convert:
        converts = [convert(part) for part in parts]

        def try_each(value: Any) -> Any:
            for one in converts:
                try:
                    return one(value)
                except (TypeError, ValueError):
                    continue
            _wrong(" | ".join(part.shape for part in parts), value)

        return try_each

    return Part(
        f"({'|'.join(part.shape for part in parts)})",
        first(lambda part: part.dump),
        first(lambda part: part.load),
    )


def _literal(values: tuple[Any, ...]) -> Part:
    def check(value: Any) -> Any:
        return value if value in values else _wrong(f"one of {values}", value)

    return Part(f"literal{values}", check, check)


def _container(kind: Any, origin: Any, arguments: tuple[Any, ...]) -> Part:
    if origin is dict:
        if arguments and arguments[0] is not str:
            raise TypeError(f"state: the keys of {kind} come back as texts; write dict[str, ...]")
        inner = _part(arguments[1]) if arguments else _part(Any)
        check = _a(dict)
        return Part(
            f"dict[{inner.shape}]",
            lambda value: {_a(str)(key): inner.dump(one) for key, one in check(value).items()},
            lambda value: {key: inner.load(one) for key, one in check(value).items()},
        )
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return _pair(tuple(_part(one) for one in arguments))
    inner = _part(arguments[0]) if arguments else _part(Any)
    given, written = _a(origin), _a(list)
    return Part(
        f"list[{inner.shape}]",
        lambda value: [inner.dump(one) for one in given(value)],
        lambda value: origin(inner.load(one) for one in written(value)),
    )


def _pair(parts: tuple[Part, ...]) -> Part:
    """A tuple with a type for each place."""
    given, written = _a(tuple), _a(list)
    return Part(
        f"tuple[{','.join(part.shape for part in parts)}]",
        lambda value: [part.dump(one) for part, one in zip(parts, given(value), strict=True)],
        lambda value: tuple(part.load(one) for part, one in zip(parts, written(value), strict=True)),
    )


def _dataclass(kind: Any) -> Part:
    if not kind.__dataclass_params__.frozen:
        raise TypeError(
            f"state: objects of {kind.__qualname__} can be changed, and a change after the checkpoint would "
            f"not be kept; write @dataclass(frozen=True) above it, and checkpoint a new one each time"
        )
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise TypeError(f"state: a type that {kind.__qualname__} names is not there: {error}") from None
    parts = [(field.name, _part(hints[field.name])) for field in dataclasses.fields(kind) if field.init]
    dumps = [(name, part.dump) for name, part in parts]
    loads = {name: part.load for name, part in parts}

    def dump(value: Any) -> dict[str, Any]:
        if type(value) is not kind:
            _wrong(kind.__qualname__, value)
        return {name: convert(getattr(value, name)) for name, convert in dumps}

    def load(value: Any) -> Any:
        if type(value) is not dict or value.keys() != loads.keys():
            _wrong(f"{kind.__qualname__}, an object of {', '.join(loads)}", value)
        return kind(**{name: convert(value[name]) for name, convert in loads.items()})

    fields = ",".join(f"{name}:{part.shape}" for name, part in parts)
    return Part(f"{kind.__name__}({fields})", dump, load)


def _value_of(kind: type[enum.Enum]) -> Convert:
    return lambda value: _plain(value.value) if type(value) is kind else _wrong(kind.__name__, value)


def _model(kind: Any) -> Part:
    """A pydantic model, which is not imported here."""

    def dump(value: Any) -> Any:
        if type(value) is not kind:
            _wrong(kind.__qualname__, value)
        return value.model_dump(mode="json")

    shape = json.dumps(_bare(kind.model_json_schema()), sort_keys=True)
    return Part(shape, dump, lambda value: kind.model_validate_json(json.dumps(value)))


def _bare(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key not in _UNKNOWN}
    return [_bare(one) for one in schema] if isinstance(schema, list) else schema
