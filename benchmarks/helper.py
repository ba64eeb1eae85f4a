"""What the helper process costs: how long it takes to be there, and the memory that it adds.

Forked, as it is, and as a spawned interpreter that imports what it needs; from a function that has loaded
aioboto3, and from one that has not. "Blocks" is the time that the main process waits. "Ready" ends when the
helper has made its client and tried to open a connection. Memory is what the helper has for itself: private
pages, measured then, which is what a function's memory has to hold in addition.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from _harness import Criterion, Result, Table, quantile

TURNS = 5
COST = """
import os, sys, time
os.environ.update(AWS_ACCESS_KEY_ID="b", AWS_SECRET_ACCESS_KEY="b", AWS_DEFAULT_REGION="eu-west-1")
os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
{imports}
from deadline import aws
from deadline.aws._runtime import process_record as _armed
from deadline.aws._notices import helper_process as _helper

def private(pid):
    with open(f"/proc/{{pid}}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024

notice = aws.Notice.to("http://127.0.0.1:9/123456789012/nobody")
started = time.perf_counter()
{start}
blocked = time.perf_counter()
while looked_at() == 0:
    time.sleep(0.001)
print((blocked - started) * 1e3, (time.perf_counter() - started) * 1e3, private(pid))
{end}
"""
FORKED = """
helper = _helper.Helper(notice, None)
_armed.armed().arm(("r", "f", "1"))
helper.arm({}, 60.0)
pid = helper._pid
def looked_at():
    return helper._shared[_helper._LOOKS_AT]
"""
SPAWNED = """
import subprocess
code = (
    "import mmap, sys; from deadline.aws import Notice, _helper;"
    "notice = Notice.to('http://127.0.0.1:9/123456789012/nobody');"
    "_helper._Child(0, (None, 0), (None, mmap.mmap(-1, 4096)), notice, None).warm_up();"
    "print('ready', flush=True); sys.stdin.read()"
)
process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
pid = process.pid
def looked_at():
    return len(process.stdout.readline())
"""
WAYS = {
    "forked": (FORKED, "helper.kill()"),
    "spawned": (SPAWNED, "process.kill(); process.wait(); process.stdin.close(); process.stdout.close()"),
}
LOADED = {"aioboto3 loaded": "import aioboto3, botocore.session", "nothing loaded": ""}


def _measured(way: str, loaded: str) -> list[list[float]]:
    """Milliseconds blocked, milliseconds until it is ready, MB, of each turn."""
    start, end = WAYS[way]
    code = COST.format(imports=LOADED[loaded], start=start, end=end)
    figures = []
    for _ in range(TURNS):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        figures.append([float(figure) for figure in done.stdout.split()])
    return figures


def main() -> None:
    """Measure all four."""
    result = Result("helper", "ms, MB", ("aioboto3", "botocore"))
    rows, forked = [], []
    for loaded in LOADED:
        for way in WAYS:
            figures = _measured(way, loaded)
            middles = [f"{quantile([turn[at] for turn in figures], 0.5):.1f}" for at in range(3)]
            rows.append([f"{way}, {loaded}", *middles])
            if (way, loaded) == ("forked", "aioboto3 loaded"):
                forked = [turn[0] for turn in figures]
    result.tables = [Table("the helper process", ("", "blocks, ms", "ready, ms", "memory, MB"), rows)]
    result.criteria = [Criterion("ms that forking blocks the function with aioboto3 loaded", forked, 5.0)]

    def draw(axes: Any) -> None:
        names = [row[0] for row in reversed(rows)]
        axes[0].barh(names, [float(row[2]) for row in reversed(rows)], color="#c2410c")
        axes[0].set(xlabel="ms until it is ready")
        axes[1].barh(names, [float(row[3]) for row in reversed(rows)], color="#c2410c")
        axes[1].set(xlabel="MB of its own")

    result.publish(draw, panels=2)


if __name__ == "__main__":
    main()
