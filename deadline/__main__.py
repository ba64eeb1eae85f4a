"""`python -m deadline`: the same as `asyncio-deadline`."""

from deadline._cli import main

main()
