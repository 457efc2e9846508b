"""The atlas: behaviours by places, with what stands behind each cell; in three forms."""

from udslab.report.atlas.html import atlas_html
from udslab.report.atlas.markdown import atlas_markdown
from udslab.report.atlas.terminal import print_behaviour, print_survey

__all__ = ["atlas_html", "atlas_markdown", "print_behaviour", "print_survey"]
