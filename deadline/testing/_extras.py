"""What to tell somebody who lacks an optional dependency."""


def missing(module: str) -> ImportError:
    """Return the error that says which extra brings `module`."""
    return ImportError(
        f'this needs {module}, which is not installed: pip install "asyncio-deadline[testing]"', name=module
    )
