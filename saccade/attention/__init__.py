"""The kinds of attention, one file each, behind one interface.

Each kind is a module called with (query, references, memory): queries with their positions added,
their reference points (fraction of image, or None), and the tokens they look at.
"""

from saccade.attention.deformable import DeformableAttention, LevelwiseDeformableAttention
from saccade.attention.dense import DenseAttention, MultiheadAttention
from saccade.attention.four_term import FourTermAttention
from saccade.attention.synthesizer import SynthesizerAttention

__all__ = [
    "DeformableAttention",
    "DenseAttention",
    "FourTermAttention",
    "LevelwiseDeformableAttention",
    "MultiheadAttention",
    "SynthesizerAttention",
]
