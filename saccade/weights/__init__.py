"""Weights: our own layout, the official repositories' and transformers', read and written."""

from saccade.weights.huggingface import from_huggingface, to_huggingface
from saccade.weights.load import LoadedWeights, load_into, load_weights, own_config
from saccade.weights.official import from_official, to_official
from saccade.weights.recognise import recognise_official
from saccade.weights.report import LoadReport
from saccade.weights.save import save_huggingface, save_official, save_weights

__all__ = [
    "LoadReport",
    "LoadedWeights",
    "from_huggingface",
    "from_official",
    "load_into",
    "load_weights",
    "own_config",
    "recognise_official",
    "save_huggingface",
    "save_official",
    "save_weights",
    "to_huggingface",
    "to_official",
]
