"""The findings of recordings as text, for `validate` and `train`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kepler_core.recording.findings import Finding

_MAX_PLACES = 4
"""Maximum number of metrics, features or components that a printed line names. The JSON output names all of them."""


def print_findings(findings: Sequence[Finding], indent: str = "  ") -> None:
    """Print the heading "Findings" and a line for each kind of finding. Severe kinds come first."""
    click.echo("\nFindings")
    for line in finding_lines(findings) or ["nothing unusual"]:
        click.echo(f"{indent}- {line}")


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each kind of finding.

    The line names the first `_MAX_PLACES` metrics (or features, or components) that have this kind of finding, an
    example, and the consequence.
    """
    lines = []
    for _, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        first = of_kind[0]
        places = [f"{finding.where} {finding.count}" for finding in of_kind if finding.where][:_MAX_PLACES]
        more = f", and {len(of_kind) - _MAX_PLACES} more" if len(of_kind) > _MAX_PLACES else ""
        where = f": {', '.join(places)}{more}" if places else ""
        example = next((f"; e.g. {finding.example}" for finding in of_kind if finding.example), "")
        severity = f"{first.severity}: " if first.severity != "note" else ""
        total = sum(finding.count for finding in of_kind)
        consequence = first.consequence[:1].upper() + first.consequence[1:]
        lines.append(f"{severity}{total} {first.what}{where}{example}. {consequence}")
    return lines
