"""Detectors compared side by side on one dataset, as the literature's tables compare them."""

from saccade.analysis.study.lists import STUDIES
from saccade.analysis.study.rows import Published, Row, Size, Study

__all__ = ["STUDIES", "Published", "Row", "Size", "Study"]
