"""The listener that adds the page report.html to each published pipeline.

With the setting KEPLER_REPORT=false, the listener does not add the page. The setting can be an environment variable or
a file in the configuration folder. The command `train --report none` has the same effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kepler_core.configuration import Configuration
from kepler_core.plugins.hooks import hookimpl
from kepler_core.store.layout import REPORT_FILE, REPORT_SETTING

if TYPE_CHECKING:
    from kepler_core.comparison.comparison import Comparison
    from kepler_core.pipeline.evidence import Evidence
    from kepler_core.recording.observations import Observations


@hookimpl
def kepler_publishing(
    pipeline: str,
    files: dict[str, bytes],
    observations: Observations,
    evidence: Sequence[Evidence],
    report: Mapping[str, Any],
    document: Mapping[str, Any],
) -> None:
    """Add report.html to the files that are published, unless the setting KEPLER_REPORT is false."""
    if Configuration().flag(REPORT_SETTING) is not False:
        # Import the module only here: many processes register the listener, but never draw pictures.
        from kepler_plugins.report.page import page

        files[REPORT_FILE] = page(pipeline, observations, evidence, report, document).encode()


@hookimpl
def kepler_retraining_decided(retraining: Mapping[str, Any], files: dict[str, bytes]) -> None:
    """Add the page of a decision of the online trainer, unless the setting KEPLER_REPORT is false."""
    if Configuration().flag(REPORT_SETTING) is not False:
        from kepler_plugins.report.decision import decision_page

        files[REPORT_FILE] = decision_page(retraining).encode()


@hookimpl
def kepler_pipelines_compared(comparison: Comparison, files: dict[str, bytes]) -> None:
    """Add the page of a comparison, whatever the setting KEPLER_REPORT is: a user has asked for the page."""
    from kepler_plugins.report.comparison import comparison_page

    files[REPORT_FILE] = comparison_page(comparison).encode()
