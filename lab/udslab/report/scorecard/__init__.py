"""The score card of audits: subjects by probes, with what stands behind each verdict; in three forms."""

from udslab.report.scorecard.html import scorecard_html
from udslab.report.scorecard.markdown import scorecard_markdown
from udslab.report.scorecard.terminal import print_scorecard

__all__ = ["print_scorecard", "scorecard_html", "scorecard_markdown"]
