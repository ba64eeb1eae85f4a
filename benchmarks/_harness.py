"""What the benchmarks share: interleaving, quantiles, ratios, and three forms of the result.

Measurements are arranged in blocks. Within a block the entrants take turns in small batches and in a
shuffled order, so that whatever else the machine does hits all of them alike. A ratio is taken within
each block, where both sides met the same conditions, and the median over the blocks is what counts.
"""

from __future__ import annotations

import asyncio
import json
import platform
import random
import statistics
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

BLOCKS: Final = 5
RESULTS: Final = Path(__file__).parent / "results"
OURS: Final = "deadline"

Blocks = list[list[float]]
"""Samples of one entrant, block by block."""


@dataclass(frozen=True)
class Criterion:
    """What was asked for, and what came out as the median of the blocks' ratios."""

    claim: str
    values: Sequence[float]
    limit: float

    @property
    def median(self) -> float:
        """The value that counts."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """In two words."""
        return "PASS" if self.median <= self.limit else "FALLS SHORT"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: {self.claim}: {self.median:.3f}, limit {self.limit:g} "
            f"(blocks {min(self.values):.3f} to {max(self.values):.3f})"
        )


@dataclass(frozen=True)
class Table:
    """Plain text in columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        text = [
            "  ".join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *(f"  {line}" for line in text)])


@dataclass
class Result:
    """All that a benchmark found."""

    name: str
    unit: str
    distributions: Sequence[str]
    """The installed packages whose versions matter."""
    tables: list[Table] = field(default_factory=list)
    criteria: list[Criterion] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """What the tables were made of, for a benchmark that is run in parts."""

    def publish(self, draw: Callable[[Any], None], *, panels: int = 1, height: float = 3.2) -> None:
        """Print the tables and the verdicts; write them as JSON, and a picture as SVG.

        Args:
            draw: Gets the axes, as a list.
            panels: How many axes, side by side up to three.
            height: Of one row of them, in inches.
        """
        versions = self._versions()
        print(f"{self.name} ({', '.join(f'{name} {version}' for name, version in versions.items())})\n")
        for table in self.tables:
            print(f"{table}\n")
        for criterion in self.criteria:
            print(criterion)
        RESULTS.mkdir(exist_ok=True)
        answer = {
            "benchmark": self.name,
            "unit": self.unit,
            "versions": versions,
            "tables": [asdict(table) for table in self.tables],
            "criteria": [
                {
                    **asdict(criterion),
                    "values": [round(value, 4) for value in criterion.values],
                    "median": round(criterion.median, 4),
                    "verdict": criterion.verdict,
                }
                for criterion in self.criteria
            ],
            **({"data": self.data} if self.data else {}),
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps(answer, indent=1) + "\n")
        _picture(self.name, draw, panels, height)

    def _versions(self) -> dict[str, str]:
        return {
            platform.python_implementation(): platform.python_version(),
            platform.system(): platform.release(),
            "deadline": deadline.__version__,
            **{name: metadata.version(name) for name in self.distributions},
        }


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, int, str]]:
    """Whose turn it is: (block, round, name), shuffled within each round, the same on each run."""
    chance = random.Random(1)
    for block in range(BLOCKS):
        for turn in range(rounds):
            for name in chance.sample(names, len(names)):
                yield block, turn, name


def empty(names: Sequence[str]) -> dict[str, Blocks]:
    """Room for the samples of each."""
    return {name: [[] for _ in range(BLOCKS)] for name in names}


def measured(
    cost: Callable[[str], Coroutine[Any, Any, float]], names: Sequence[str], rounds: int
) -> dict[str, Blocks]:
    """What each costs, in turns on one loop."""
    samples = empty(names)
    with asyncio.Runner() as runner:
        for block, _, name in turns(names, rounds):
            samples[name][block].append(runner.run(cost(name)))
    return samples


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def joined(blocks: Blocks) -> list[float]:
    """All samples."""
    return [value for block in blocks for value in block]


def spread(blocks: Blocks, share: float = 0.5) -> str:
    """The lowest and the highest block's quantile."""
    values = [quantile(block, share) for block in blocks]
    return f"{min(values):.4g} to {max(values):.4g}"


def ratios(ours: Blocks, theirs: Blocks, share: float = 0.5, *, allowance: float = 0.0) -> list[float]:
    """Our quantile, less an absolute allowance, as a multiple of theirs, block by block."""
    return [
        (quantile(one, share) - allowance) / quantile(other, share)
        for one, other in zip(ours, theirs, strict=True)
    ]


def added(ours: Blocks, bare: Blocks) -> list[float]:
    """Of each block, how much more the median of one is than the other's."""
    return [quantile(one, 0.5) - quantile(other, 0.5) for one, other in zip(ours, bare, strict=True)]


def costs(title: str, samples: Mapping[str, Blocks]) -> Table:
    """A table of what each costs, in microseconds."""
    rows = [
        [name, f"{quantile(joined(blocks), 0.5):.2f}", spread(blocks)] for name, blocks in samples.items()
    ]
    return Table(title, ("", "µs", "blocks"), rows)


def bars(samples: Mapping[str, Blocks]) -> Callable[[Any], None]:
    """Draws the same."""

    def draw(axes: Any) -> None:
        names = list(samples)[::-1]
        middles = [quantile(joined(samples[name]), 0.5) for name in names]
        axes[0].barh(names, middles, color=[colour(name) for name in names])
        axes[0].set(xlabel="CPU, µs")

    return draw


def best_peer(samples: Mapping[str, Blocks], share: float = 0.5) -> str:
    """The peer whose blocks' quantiles have the lowest median.

    It is chosen once: the best of every single block would be the luckiest.
    """
    return min(
        (name for name in samples if name != OURS),
        key=lambda name: statistics.median(quantile(block, share) for block in samples[name]),
    )


def colour(name: str) -> str:
    """Ours stands out."""
    return "#c2410c" if name.startswith(OURS) else "#64748b"


def _picture(name: str, draw: Callable[[Any], None], panels: int, height: float) -> None:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    mpl.use("svg")
    # Text stays text and ids are stable, so that a new picture differs where the numbers do.
    mpl.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    across = min(panels, 3)
    down = -(-panels // across)
    figure, axes = plt.subplots(
        down, across, figsize=(max(7.0, 4.2 * across), height * down), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for unused in flat[panels:]:
        unused.set_axis_off()
    draw(flat[:panels])
    for axis in flat[:panels]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
