"""`python -m deadline`: the same as `asyncio-deadline`."""

from ._cli import main

main()
