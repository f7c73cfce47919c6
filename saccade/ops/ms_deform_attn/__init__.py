"""Multi-scale deformable attention: the operator, its reference and its kernels."""

from .dispatch import Backend as Backend
from .dispatch import ms_deform_attn as ms_deform_attn
from .dispatch import ms_deform_attn_fused as ms_deform_attn_fused
from .dispatch import ms_deform_attn_gradients as ms_deform_attn_gradients
from .reference import ms_deform_attn_fused_reference as ms_deform_attn_fused_reference
from .reference import ms_deform_attn_reference as ms_deform_attn_reference
