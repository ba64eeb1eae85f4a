"""What a state may be, and that what is kept is what was given."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from dataclasses import InitVar, dataclass, field, replace
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadline import aws
from deadline.aws._resume.state_codec import Codec


class Colour(enum.Enum):
    RED = "red"


class Row(TypedDict):
    key: str


@dataclass(frozen=True)
class Inner:
    name: str
    when: dt.datetime | None = None


@dataclass(frozen=True)
class Twin:
    name: str
    when: dt.datetime | None = None


ROUND: list[Any] = []
ROUND.append(ROUND)

Number = NewType("Number", int)


class Choice(TypedDict):
    key: str
    more: NotRequired[Inner]


@dataclass(frozen=True)
class Rich:
    inner: Inner
    many: tuple[Inner, ...]
    pair: tuple[int, str]
    lists: list[float]
    table: dict[str, int | None]
    colour: Colour
    mode: Literal["fast", "slow"]
    amount: decimal.Decimal
    day: dt.date
    id: uuid.UUID
    blob: bytes
    anything: Any
    flag: bool = False
    made: int = field(init=False, default=7)


RICH = Rich(
    Inner(
        "ä\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
        dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    ),
    (Inner("a"), Inner("b")),
    (1, "x"),
    [1.5, 2.0],
    {"a": 1, "b": None},
    Colour.RED,
    "slow",
    decimal.Decimal("1.10"),
    dt.date(2026, 1, 2),
    uuid.UUID(int=5),
    b"\x00\xff",
    {"deep": [1, None, True]},
)


@dataclass(frozen=True)
class Guarded:
    name: str

    def __post_init__(self) -> None:
        raise LookupError(self.name)


class Model(pydantic.BaseModel):
    """Words that are no shape."""

    name: str
    when: dt.datetime | None = None
    parts: list[Inner] = []


class SameModel(pydantic.BaseModel):
    """Other words."""

    name: str
    when: dt.datetime | None = None
    parts: list[Inner] = []


def there_and_back(kind: Any, value: Any) -> Any:
    import json

    codec = Codec(kind)
    return codec.loads(json.loads(codec.dumps(value)))


def test_a_dataclass_comes_back_as_it_was() -> None:
    """Every kind of field, nested ones included."""
    assert there_and_back(Rich, RICH) == RICH


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3),
        (str, "x"),
        (None, None),
        (float, 3),
        (dict, {"a": [1]}),
        (list, [1, {"b": None}]),
        (dict[str, Inner], {"a": Inner("b")}),
        (tuple[int, ...], (1, 2)),
        (int | None, None),
        (Row, {"key": "a"}),
        (Choice, {"key": "a"}),
        (Choice, {"key": "a", "more": Inner("b")}),
        (Number, Number(3)),
        (Annotated[int, "a note"], 3),
        (decimal.Decimal | str, "abc"),
        (Inner | Row, {"key": "a"}),
        (dt.date | dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (Model, Model(name="a", when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), parts=[Inner("b")])),
    ],
)
def test_what_json_can_hold_comes_back(kind: Any, value: Any) -> None:
    """Types of their own, and models."""
    back = there_and_back(kind, value)
    assert back == value
    assert back is not value or not isinstance(value, dict | list | Model)


TEXTS = st.text(st.characters(codec="utf-8"))
LEAVES = st.none() | st.booleans() | st.integers() | TEXTS


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10))
def test_what_is_plain_comes_back(value: Any) -> None:
    """Whatever JSON has a name for."""
    assert there_and_back(Any, value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, "3"),
        (float, float("nan")),
        (float, float("inf")),
        (str, "\ud800"),
        (dict, {1: "a"}),
        (dict, {"a": (1, 2)}),
        (Any, {1, 2}),
        (list, (1,)),
        (tuple[int, str], (1, "a", 2)),
        (dict[str, int], {"a": "b"}),
        (dict[str, int], {1: 1}),
        (Literal["a"], "b"),
        (int | None, "x"),
        (Inner, {"name": "a", "when": None}),
        (Rich, replace(RICH, many=[Inner("a")])),  # type: ignore[arg-type]
        (Colour, "red"),
        (Model, SameModel(name="a")),
        (dt.date, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (str | dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (dt.datetime | str, "2026-01-02"),
        (bytes | str, "abcd"),
        (list[int] | tuple[int, ...], (1,)),
        (Inner | Twin, Twin("a")),
        (Row, {"key": 1}),
        (Row, {}),
        (float, 10**400),
        (list, ROUND),
    ],
)
def test_what_would_come_back_as_another_is_refused(kind: Any, value: Any) -> None:
    """Now, and not by the next invocation."""
    with pytest.raises((TypeError, ValueError)):
        Codec(kind).dumps(value)


@pytest.mark.parametrize(
    ("kind", "parsed"),
    [
        (Inner, {"name": "a"}),
        (Inner, {"name": "a", "when": None, "more": 1}),
        (Inner, {"name": 1, "when": None}),
        (Inner, {"name": "a", "when": "yesterday"}),
        (Inner, []),
        (Colour, "blue"),
        (Model, {"name": 1}),
        (tuple[int, ...], {"0": 1}),
        (uuid.UUID, 5),
        (dict, 1),
        (float, 10**400),
        (decimal.Decimal, "abc"),
        (Row, {"key": "a", "more": 1}),
        (Guarded, {"name": "a"}),
    ],
)
def test_what_is_no_state_is_not_read(kind: Any, parsed: Any) -> None:
    """Whoever wrote it."""
    with pytest.raises((TypeError, ValueError)):
        Codec(kind).loads(parsed)


def test_the_version_is_the_shape() -> None:
    """Fields, their types and order count; what is said of a model does not."""

    @dataclass(frozen=True)
    class Other:
        name: str
        when: dt.datetime | None = None
        more: int = 0

    Other.__name__ = "Inner"
    assert Codec(Inner).version == Codec(Inner).version
    assert Codec(Inner).version != Codec(Other).version
    assert Codec(Model).version == Codec(SameModel).version
    assert Codec(dict[str, int]).version != Codec(dict[str, str]).version
    assert aws.Resume(Inner, to="return", version="2").version == "2"


@dataclass
class Changes:
    count: int


@dataclass(frozen=True)
class Holds:
    inner: Changes


@dataclass(frozen=True)
class Strange:
    thread: object | set[int]


@dataclass(frozen=True)
class Tree:
    left: Tree | None = None


@dataclass(frozen=True)
class Given:
    size: InitVar[int]
    name: str


class Plain:
    pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Changes, r"objects of Changes can be changed.*@dataclass\(frozen=True\)"),
        (Holds, r"objects of Changes can be changed"),
        (Strange, r"set\[int\] is nothing that JSON can hold.*@dataclass\(frozen=True\)"),
        (Tree, "Tree contains itself.*pydantic"),
        (Given, "Given is made with more than its fields.*size"),
        (Plain, "Plain is nothing that JSON can hold"),
        (dict[int, str], r"dict\[str, ...\]"),
        (bytes, "describe it by a frozen dataclass"),
        ("text", "nothing that JSON can hold"),
    ],
)
def test_a_type_that_will_not_do_is_refused(kind: Any, message: str) -> None:
    """When the module is imported, with what to write."""
    with pytest.raises(TypeError, match=f"^state: .*{message}"):
        aws.Resume(kind)
