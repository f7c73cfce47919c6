"""Multi-scale deformable attention: the operator, its reference and its kernels."""

from .dispatch import Backend as Backend
from .dispatch import ms_deform_attn as ms_deform_attn
from .reference import ms_deform_attn_reference as ms_deform_attn_reference
