"""Evaluation: COCO average precision, and how it is shown."""

from saccade.evaluation.coco_ap import CocoEvaluator, CocoResult
from saccade.evaluation.evaluate import evaluate
from saccade.evaluation.report import print_table, write_json

__all__ = ["CocoEvaluator", "CocoResult", "evaluate", "print_table", "write_json"]
