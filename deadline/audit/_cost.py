"""What hung invocations cost: a pure function of numbers, and prices as data."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

MILLION: Final = 1_000_000
FORMULA: Final = "1,000,000 × (price of a request + seconds × MB / 1024 × price of a GB-second)"
DEFAULT_REGION: Final = "us-east-1"


class Price(NamedTuple):
    """Dollars in one region, for one architecture, in the first tier and without the free one."""

    request: float
    gb_second: float


class Prices(NamedTuple):
    """A table of prices: by region, and there `request`, `x86_64` and `arm64`."""

    regions: dict[str, dict[str, float]]
    source: str

    def of(self, region: str, architecture: str) -> Price | None:
        """The price there; `None` if it is not in the table."""
        row = self.regions.get(region, {})
        if "request" in row and architecture in row:
            return Price(row["request"], row[architecture])
        return None


def per_million(price: Price, memory: float, seconds: float) -> float:
    """Dollars for a million invocations of this length. Only the price list's `FORMULA`.

    Args:
        price: See `Price`.
        memory: Megabytes that the function has.
        seconds: How long each of them lasts.
    """
    return MILLION * (price.request + seconds * memory / 1024 * price.gb_second)


@cache
def load(text: str | None = None) -> Prices:
    """Our own price list, or one of the same form.

    Args:
        text: JSON: `{"source": "...", "regions": {"eu-west-1": {"request": 2e-07, "arm64": ...}}}`; dollars.

    Raises:
        ValueError: It is of another form.
    """
    if text is None:
        text = (files("deadline.audit") / "prices.json").read_text("utf-8")
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    regions = data.get("regions") if isinstance(data, dict) else None
    if not isinstance(regions, dict) or not all(
        isinstance(row, dict) and all(_is_price(price) for price in row.values()) for row in regions.values()
    ):
        raise ValueError(
            'expected {"regions": {"us-east-1": {"request": 2e-07, "x86_64": 0.00001, "arm64": ...}}}'
        )
    return Prices(regions, str(data.get("source", "")))


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
