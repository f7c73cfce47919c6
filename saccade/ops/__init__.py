"""Operators that PyTorch does not have."""

from .ms_deform_attn import ms_deform_attn as ms_deform_attn
from .ms_deform_attn import ms_deform_attn_fused as ms_deform_attn_fused
from .ms_deform_attn import ms_deform_attn_fused_reference as ms_deform_attn_fused_reference
from .ms_deform_attn import ms_deform_attn_gradients as ms_deform_attn_gradients
from .ms_deform_attn import ms_deform_attn_reference as ms_deform_attn_reference
