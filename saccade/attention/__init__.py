"""The kinds of attention, one file each, behind one interface.

Each kind is a module called with (query, references, memory): queries with their positions added,
their reference points (fraction of image, or None), and the tokens they look at.
"""

from saccade.attention.deformable import DeformableAttention
from saccade.attention.dense import DenseAttention, MultiheadAttention

__all__ = ["DeformableAttention", "DenseAttention", "MultiheadAttention"]
