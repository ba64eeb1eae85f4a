"""The same rules for cfn-lint: `cfn-lint --append-rules deadline.audit.cfn_lint template.yaml`.

cfn-lint has a class for each rule and looks for them in this module. It parses and transforms the template
itself, and silences in its own way. What could not be told is not told here: for that there is
`asyncio-deadline audit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cfnlint.rules import CloudFormationLintRule, RuleMatch

# Importing the package lists every rule.
from deadline.audit import RULES, Rule
from deadline.audit._rules.rule import play
from deadline.audit._template.template import from_body

if TYPE_CHECKING:
    from cfnlint.template import Template


def _class(rule: Rule) -> type[CloudFormationLintRule]:
    def match(self: Any, cfn: Template) -> list[RuleMatch]:  # noqa: ARG001  # a method of the class below
        if not isinstance(cfn.template.get("Resources"), dict):
            return []
        findings, _ = play(rule, from_body(cfn.template, cfn.filename or "template"))
        return [
            RuleMatch(
                ["Resources", one.resource, *one.path], ", ".join(filter(None, (one.message, one.condition)))
            )
            for one in findings
        ]

    return type(
        f"Deadline{rule.id}",
        (CloudFormationLintRule,),
        {
            "__doc__": rule.title,
            "id": rule.id,
            "shortdesc": rule.title,
            "description": f"{rule.why} {rule.fix}",
            "source_url": rule.source,
            "tags": ["deadline", "lambda", "timeout"],
            "match": match,
        },
    )


globals().update({f"Deadline{rule.id}": _class(rule) for rule in RULES.values()})
