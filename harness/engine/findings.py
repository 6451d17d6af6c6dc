"""What was looked for on this machine, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line. needed: what it lacks that a run needs, "" when all is well."""

    name: str
    text: str
    needed: str = ""


def findings_text(sections: Mapping[str, Sequence[Finding]]) -> str:
    """A section after the other, names aligned."""
    width = max((len(finding.name) for findings in sections.values() for finding in findings), default=0)
    lines: list[str] = []
    for title, findings in sections.items():
        lines += [title, *(f"  {finding.name:{width}}  {finding.text}" for finding in findings), ""]
    return "\n".join(lines)
