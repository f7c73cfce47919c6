"""Modules that call the extension as repositories do, and one that takes its place."""

OFFICIAL_CALLER = """
import MultiScaleDeformableAttention as extension
from torch.autograd import Function
from torch.autograd.function import once_differentiable

class Attention(Function):
    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        ctx.step = step
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return extension.ms_deform_attn_forward(value, shapes, starts, locations, weights, step)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        by_value, by_locations, by_weights = extension.ms_deform_attn_backward(
            *ctx.saved_tensors, grad, ctx.step
        )
        return by_value, None, None, by_locations, by_weights, None
"""
MMCV_CALLER = """
import torch
from mmcv.utils import load_ext
from torch.autograd import Function
from torch.autograd.function import once_differentiable

extension = load_ext("_ext", ["ms_deform_attn_forward", "ms_deform_attn_backward"])

class Attention(Function):
    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        ctx.step = step
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        return extension.ms_deform_attn_forward(
            value, shapes, starts, locations, weights, im2col_step=step
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        value, _, _, locations, weights = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in (value, locations, weights)]
        extension.ms_deform_attn_backward(
            *ctx.saved_tensors, grad.contiguous(), *grads, im2col_step=ctx.step
        )
        return grads[0], None, None, grads[1], grads[2], None
"""
MMCV_UTILS = """
import importlib

def load_ext(name, functions):
    extension = importlib.import_module("mmcv." + name)
    for function in functions:
        assert hasattr(extension, function), function
    return extension
"""
COMPILED = """
def ms_deform_attn_forward(*args, **kwargs):
    return "compiled forward"

def ms_deform_attn_backward(*args, **kwargs):
    return "compiled backward"

def nms(*args):
    return "compiled nms"
"""
