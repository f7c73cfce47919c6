"""The extension under the name by which repositories import it."""

from saccade.compat.official_extension import ms_deform_attn_backward as ms_deform_attn_backward
from saccade.compat.official_extension import ms_deform_attn_forward as ms_deform_attn_forward
