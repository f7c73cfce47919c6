"""Training: the set loss and its matching, the optimiser, and the loop that uses them."""

from saccade.training.losses import SetCriterion
from saccade.training.matcher import HungarianMatcher

__all__ = ["HungarianMatcher", "SetCriterion"]
