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
import inspect
import json
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Convert = Callable[[Any], Any]

# With the runtime client's separators, so that a response is as long as it is counted.
_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False)

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
        try:
            part = _part(kind)
        except RecursionError:
            name = getattr(kind, "__qualname__", kind)
            raise TypeError(f"state: {name} contains itself; a pydantic model may do that") from None
        dump = part.dump
        self._dump: Callable[[Any], bytes] = lambda value: _ENCODER.encode(dump(value)).encode()
        self._load = part.load
        self.version = hashlib.sha256(part.shape.encode()).hexdigest()[:12]

    def dumps(self, value: Any) -> bytes:
        """The value's JSON, which is a copy of it.

        Raises:
            TypeError, ValueError: It is not of the type, or JSON cannot hold it.
        """
        written: bytes = _tried(self._dump, value)
        return written

    def loads(self, value: Any) -> Any:
        """The value that was written, from its parsed JSON.

        Raises:
            TypeError, ValueError: It is none of the type.
        """
        return _tried(self._load, value)


def _tried(convert: Convert, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError):
        raise
    except Exception as error:  # a validator's own, Decimal's, or of what is nested too deeply
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _part(kind: Any) -> Part:  # noqa: C901, PLR0911  # a table, of types
    kind = _meant(kind)
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
        return _typed_dict(kind)
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


def _meant(kind: Any) -> Any:
    """The type under the names that it was given: NewType, Annotated, `type X = ...`."""
    for name in ("__supertype__", "__value__"):
        if not isinstance(kind, type) and hasattr(kind, name):
            return _meant(getattr(kind, name))
    marked = typing.get_origin(kind) in {typing.Annotated, typing.NotRequired, typing.Required}
    return _meant(typing.get_args(kind)[0]) if marked else kind


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
    shape = "|".join(part.shape for part in parts)

    def dump(value: Any) -> Any:
        for place, part in enumerate(parts):
            try:
                written = part.dump(value)
            except Exception:  # noqa: BLE001, S112  # also a validator's own
                continue
            for earlier in parts[:place]:
                if _reads(earlier, written):
                    raise TypeError(f"{value!r:.80} would come back as {earlier.shape}, of {shape}")
            return written
        _wrong(shape, value)

    def load(value: Any) -> Any:
        for part in parts:
            try:
                return part.load(value)
            except Exception:  # noqa: BLE001, S112
                continue
        _wrong(shape, value)

    return Part(f"({shape})", dump, load)


def _reads(part: Part, written: Any) -> bool:
    try:
        part.load(written)
    except Exception:  # noqa: BLE001
        return False
    return True


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

    def paired(value: Any) -> Any:
        return zip(parts, value, strict=True) if len(value) == len(parts) else _wrong(shape, value)

    shape = f"tuple[{','.join(part.shape for part in parts)}]"
    return Part(
        shape,
        lambda value: [part.dump(one) for part, one in paired(given(value))],
        lambda value: tuple(part.load(one) for part, one in paired(written(value))),
    )


def _typed_dict(kind: Any) -> Part:
    hints = typing.get_type_hints(kind, include_extras=True)
    parts = {name: _part(hint) for name, hint in hints.items()}
    # The class itself does not see the mark in an annotation that is a text.
    marked = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
    needed = parts.keys() - kind.__optional_keys__ - marked
    fields = ",".join(f"{name}{'' if name in needed else '?'}:{parts[name].shape}" for name in sorted(parts))
    check = _a(dict)

    def each(convert: Callable[[Part], Convert]) -> Convert:
        converts = {name: convert(part) for name, part in parts.items()}

        def all_of(value: Any) -> Any:
            if not needed <= check(value).keys() <= parts.keys():
                _wrong(f"{kind.__name__}, a dict of {', '.join(parts)}", value)
            return {name: converts[name](one) for name, one in value.items()}

        return all_of

    return Part(f"dict({fields})", each(lambda part: part.dump), each(lambda part: part.load))


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
    try:
        inspect.signature(kind).bind(**dict(parts))
    except TypeError as error:
        raise TypeError(
            f"state: {kind.__qualname__} is made with more than its fields, which alone are kept: {error}"
        ) from None
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
