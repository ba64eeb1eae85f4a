"""Every Python that the classifiers name: `nox`. One of them: `nox -s tests-3.12`."""

import nox

nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Install the built package and run the whole suite against it."""
    session.install("--upgrade", "pip>=25.1")
    session.install("--group", "test", "--group", "demo", ".[audit,aws,cli,testing]")
    session.run("pytest", "--numprocesses", "3", "--dist", "worksteal", "tests", *session.posargs)
    session.run("pytest", "docs", "README.md")
