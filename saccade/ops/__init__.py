"""Operators that PyTorch does not have."""

from .ms_deform_attn import ms_deform_attn as ms_deform_attn
from .ms_deform_attn import ms_deform_attn_reference as ms_deform_attn_reference
