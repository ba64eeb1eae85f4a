# Both `make demo` and `make test` need Python 3.11 or newer, pip and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The SDK's newest line. aioboto3 pins an older one, so it is put there by force.
NEWEST := .venv-newest
# Most of the suite's time is spent waiting: for deadlines, faults and processes. The blocks of a document share
# their names, and are run by one process.
PARALLEL := --numprocesses 4 --dist worksteal
# What depends on the SDK's line; the rest decides on plain numbers, or is the handler's own affair.
OF_THE_SDK := tests/aws/calls tests/aws/faults tests/aws/notices tests/aws/resume/test_durable.py
SOURCES := pyproject.toml README.md $(shell find deadline -name '*.py')

.PHONY: demo test test-fast servers lint bench bench-full clean

demo: $(VENV)/.package
	$(BIN)/python examples/demo.py

test: lint servers $(NEWEST)/.package
	$(BIN)/pytest $(PARALLEL) tests
	$(BIN)/pytest docs README.md
	$(NEWEST)/bin/pytest $(PARALLEL) $(OF_THE_SDK)

# The inner loop: decisions, the core and what stands on it, on the virtual clock.
test-fast: $(VENV)/.package
	$(BIN)/pytest --numprocesses 2 -m "not slow" tests/core tests/interrupt tests/report tests/work tests/resilience tests/aws/sources

# PostgreSQL and Redis for tests/databases; says so where it cannot install them.
servers:
	sh tests/databases/install.sh

lint: $(VENV)/.package
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.package $(VENV)/.bench
	$(BIN)/python benchmarks/all.py

# The tables that take long: everything that may keep a function, ten times; batches over several rounds; every fault
# twenty times in every retry mode, on both lines of the SDK.
bench-full: $(VENV)/.package $(VENV)/.bench $(NEWEST)/.package
	$(BIN)/python benchmarks/rescue.py
	$(BIN)/python benchmarks/managed_instances.py
	$(BIN)/python benchmarks/dead_endpoint.py
	$(BIN)/python benchmarks/batches.py
	$(BIN)/python benchmarks/breakers.py
	$(BIN)/python benchmarks/goodput.py --runs 10000 --real 200
	$(BIN)/python benchmarks/aws_faults.py --shots 20 --modes legacy standard adaptive
	$(NEWEST)/bin/python -m pip install --quiet --group bench
	$(NEWEST)/bin/python benchmarks/aws_faults.py --shots 20 --modes legacy standard adaptive

clean:
	rm -rf $(VENV) $(NEWEST) .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

# The dependencies, once for each change of pyproject.toml.
$(VENV)/.dependencies: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev ".[audit,aws,cli,testing]"
	touch $@

$(VENV)/.bench: $(VENV)/.dependencies
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

# The package itself, built and installed: the tests run against what a user gets, not against this folder.
$(VENV)/.package: $(VENV)/.dependencies $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	touch $@

$(NEWEST)/.dependencies: pyproject.toml
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(NEWEST)/bin/python -m pip install --quiet --group test --group durable ".[aiobotocore,testing]" aiofiles httpx2
	$(NEWEST)/bin/python -m pip install --quiet --no-deps aioboto3
	touch $@

$(NEWEST)/.package: $(NEWEST)/.dependencies $(SOURCES)
	$(NEWEST)/bin/python -m pip install --quiet --no-deps --force-reinstall .
	touch $@
