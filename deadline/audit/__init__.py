"""Time limits that do not fit together, found in SAM and CloudFormation templates before they are deployed.

    from deadline.audit import audit, read

    for finding in audit(read(text)).findings:
        print(finding.line, finding.rule, finding.message)

Needs the extra `audit`. `asyncio-deadline audit` does the same from the command line.
"""

try:
    import cfnlint as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        'this needs cfn-lint, which is not installed: pip install "asyncio-deadline[audit]"', name=error.name
    ) from None

from deadline.audit._audit import Audit, Bar, Cost, audit
from deadline.audit._cost import Price, Prices, load, per_million
from deadline.audit._rules.rule import RULES, Finding, Rule
from deadline.audit._template.template import Skip, Template, Unreadable, read

__all__ = [
    "RULES",
    "Audit",
    "Bar",
    "Cost",
    "Finding",
    "Price",
    "Prices",
    "Rule",
    "Skip",
    "Template",
    "Unreadable",
    "audit",
    "load",
    "per_million",
    "read",
]
