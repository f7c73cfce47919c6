"""What the Triton kernels share: which queries a program takes, what each of their samples reads.

Shape legend:
    b image, s token, q query, m head, l level, p point of a level, k sample of a query (all
    points, level by level), d channel, c corner of a cell.

In pixels, token centres lie at whole numbers; a *cell* is the square between four of them, named
by its upper left one. The cells around a map, with corners outside, are cells as well.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Columns of the table of levels, see triton_launch.level_table.
HEIGHT = tl.constexpr(0)
WIDTH = tl.constexpr(1)
FIRST_TOKEN = tl.constexpr(2)
NUM_POINTS = tl.constexpr(3)
FIRST_SAMPLE = tl.constexpr(4)
FIRST_CELL = tl.constexpr(5)
FIRST_PATCH = tl.constexpr(6)
NUM_FIELDS = tl.constexpr(7)

# Bits of the corners inside the map.
TOP_LEFT = tl.constexpr(1)
TOP_RIGHT = tl.constexpr(2)
BOTTOM_LEFT = tl.constexpr(4)
BOTTOM_RIGHT = tl.constexpr(8)


@triton.jit
@no_type_check
def level_field(levels, level, FIELD: tl.constexpr):
    """One number of one level, or of each of several."""
    return tl.load(levels + level * NUM_FIELDS + FIELD)


@triton.jit
@no_type_check
def read_level(levels, level):
    """Height, width, first token, number of points and first sample of a level."""
    return (
        level_field(levels, level, HEIGHT),
        level_field(levels, level, WIDTH),
        level_field(levels, level, FIRST_TOKEN),
        level_field(levels, level, NUM_POINTS),
        level_field(levels, level, FIRST_SAMPLE),
    )


@triton.jit
@no_type_check
def level_of(levels, number, FIELD: tl.constexpr, NUM_LEVELS: tl.constexpr):
    """The level in which a token or patch lies, ``FIELD`` being the first of each level."""
    level = number * 0
    for later in tl.static_range(1, NUM_LEVELS):
        level += (number >= tl.load(levels + later * NUM_FIELDS + FIELD)).to(tl.int32)
    return level


@triton.jit
@no_type_check
def program_place(num_tiles, NUM_HEADS: tl.constexpr):
    """Tile, head and image of this program.

    Head-major: what the programs of one head read fits into the second-level cache, an image not.
    """
    program = tl.program_id(0)
    plane = program // num_tiles
    return program % num_tiles, plane % NUM_HEADS, (plane // NUM_HEADS).to(tl.int64)


@triton.jit
@no_type_check
def tile_queries(
    levels,
    tile,
    num_queries,
    NUM_LEVELS: tl.constexpr,
    QUERIES: tl.constexpr,
    PATCH_WIDTH: tl.constexpr,
):
    """The queries [q] of a tile, and which of them exist.

    Queries that are the tokens themselves are taken in rectangular patches, since neighbours in
    both directions read the same rows; others (``PATCH_WIDTH`` 0) in order.
    """
    lane = tl.arange(0, QUERIES)
    if PATCH_WIDTH == 0:
        query = tile * QUERIES + lane
        exists = query < num_queries
    else:
        level = level_of(levels, tile, FIRST_PATCH, NUM_LEVELS)
        width = level_field(levels, level, WIDTH)
        patch = tile - level_field(levels, level, FIRST_PATCH)
        patches_per_row = tl.cdiv(width, PATCH_WIDTH)
        y = patch // patches_per_row * (QUERIES // PATCH_WIDTH) + lane // PATCH_WIDTH
        x = patch % patches_per_row * PATCH_WIDTH + lane % PATCH_WIDTH
        query = level_field(levels, level, FIRST_TOKEN) + y * width + x
        exists = (y < level_field(levels, level, HEIGHT)) & (x < width)
    return query, exists


@triton.jit
@no_type_check
def softmax_terms(
    logits, row, exists, K: tl.constexpr, PADDED_K: tl.constexpr, COMPUTE: tl.constexpr
):
    """Of each row [q] of K logits: the largest, and 1 / the sum of the exponentials."""
    k = tl.arange(0, PADDED_K)
    x = tl.load(
        logits + row[:, None] * K + k[None, :],
        mask=exists[:, None] & (k < K)[None, :],
        other=-float("inf"),
    ).to(COMPUTE)
    # Queries that do not exist: any number, but none that warns.
    peak = tl.where(exists, tl.max(x, 1), 0)
    total = tl.where(exists, tl.sum(tl.exp(x - peak[:, None]), 1), 1)
    return peak, 1 / total


@triton.jit
@no_type_check
def level_frame(
    references,
    row,
    exists,
    height,
    width,
    num_points,
    REFERENCE: tl.constexpr,
    BOX_SCALE: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Origin and scale by which places become pixels: ``pixel = origin + scale * place``.

    Places are locations (``REFERENCE`` 0) or offsets from 2-d or 4-d references, of which
    ``row`` [q] counts those of this level.
    """
    wide = width.to(COMPUTE) + tl.zeros(row.shape, COMPUTE)
    high = height.to(COMPUTE) + tl.zeros(row.shape, COMPUTE)
    origin_x = tl.full(row.shape, -0.5, COMPUTE)
    origin_y = origin_x
    scale_x = wide
    scale_y = high
    if REFERENCE > 0:
        at = references + row * REFERENCE
        origin_x = tl.load(at, mask=exists, other=0).to(COMPUTE) * wide - 0.5
        origin_y = tl.load(at + 1, mask=exists, other=0).to(COMPUTE) * high - 0.5
        if REFERENCE == 4:
            share = BOX_SCALE / num_points.to(COMPUTE)
            scale_x = tl.load(at + 2, mask=exists, other=0).to(COMPUTE) * (wide * share)
            scale_y = tl.load(at + 3, mask=exists, other=0).to(COMPUTE) * (high * share)
        else:
            scale_x = tl.full(row.shape, 1, COMPUTE)
            scale_y = scale_x
    return origin_x[:, None], origin_y[:, None], scale_x[:, None], scale_y[:, None]


@triton.jit
@no_type_check
def read_samples(
    places, weights, at, live, peak, scale, FUSED: tl.constexpr, COMPUTE: tl.constexpr
):
    """Places x, y and attention of samples, which is zero for those that are not ``live``."""
    x = tl.load(places + 2 * at, mask=live, other=float("nan")).to(COMPUTE)
    y = tl.load(places + 2 * at + 1, mask=live, other=float("nan")).to(COMPUTE)
    if FUSED:
        logit = tl.load(weights + at, mask=live, other=-float("inf")).to(COMPUTE)
        attention = tl.exp(logit - peak[:, None]) * scale[:, None]
    else:
        attention = tl.load(weights + at, mask=live, other=0).to(COMPUTE)
    return x, y, attention


@triton.jit
@no_type_check
def corners(x, y, height, width):
    """The cell of each pixel (x, y): left, top, shares of right and bottom, corners inside the map.

    Whatever touches no token, NaN and infinity included, ends in a cell that has no corner
    inside: the conversion to integers never sees it.
    """
    wide = width.to(x.dtype)
    high = height.to(x.dtype)
    # False for NaN, which a maximum may or may not keep.
    x = tl.where(x > -2, tl.minimum(x, wide), -2)
    y = tl.where(y > -2, tl.minimum(y, high), -2)
    left = tl.floor(x).to(tl.int32)
    top = tl.floor(y).to(tl.int32)
    # As unsigned numbers, so that one comparison also sees the negative.
    columns = width.to(tl.uint32)
    rows = height.to(tl.uint32)
    has_left = (left.to(tl.uint32) < columns).to(tl.int32)
    has_right = ((left + 1).to(tl.uint32) < columns).to(tl.int32)
    has_top = (top.to(tl.uint32) < rows).to(tl.int32)
    has_bottom = ((top + 1).to(tl.uint32) < rows).to(tl.int32)
    # One number, since each that changes hands between threads costs two barriers.
    inside = (has_left * TOP_LEFT + has_right * TOP_RIGHT) * (has_top + has_bottom * BOTTOM_LEFT)
    return left, top, x - left.to(x.dtype), y - top.to(x.dtype), inside


@triton.jit
@no_type_check
def corner_weights(share_x, share_y, attention):
    """Weights of the four corners, row by row."""
    bottom = share_y * attention
    top = attention - bottom
    top_right = top * share_x
    bottom_right = bottom * share_x
    return top - top_right, top_right, bottom - bottom_right, bottom_right


@triton.jit
@no_type_check
def channel_corners(channel, D: tl.constexpr):
    """The bits of all corners for channels that exist, else none."""
    return tl.where(channel < D, TOP_LEFT | TOP_RIGHT | BOTTOM_LEFT | BOTTOM_RIGHT, 0)
