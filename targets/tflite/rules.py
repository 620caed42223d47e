"""What LiteRT's converter does not take as it is."""

from __future__ import annotations

import math

import torch

from edgewright.pipeline.passes import decompositions as rule
from edgewright.pipeline.passes import dtype_rules as kind
from edgewright.pipeline.passes import indexing_rules as index
from edgewright.pipeline.passes import scatter_rules as scatter
from edgewright.pipeline.passes.decompose_operators import Rules
from edgewright.pipeline.passes.pooling_rules import pool_whole_windows, pool_with_places

aten = torch.ops.aten

RULES: Rules = (
    *rule.EVERYWHERE,
    *kind.FLOAT_FUNCTIONS,
    *kind.ROUNDINGS,
    *kind.COMPARISONS,
    *kind.EXTREMES,
    (aten.abs.default, kind.take_larger),
    (aten.addmm.default, rule.add_product(kind.multiply_and_sum)),
    (aten.bitwise_xor.Tensor, kind.differ),
    (aten.bmm.default, kind.multiply_and_sum),
    (aten.div.Tensor_mode, kind.divide_down),
    (aten.conv_transpose1d.default, rule.crop_transposed(aten.conv_transpose1d.default)),
    (aten.conv_transpose2d.input, rule.crop_transposed(aten.conv_transpose2d.input)),
    (aten.flip.default, index.flip_in_turn),
    (aten.fmod.Scalar, kind.divide_toward_zero),
    (aten.fmod.Tensor, kind.divide_toward_zero),
    (aten.hardtanh.default, kind.limit_integers),
    (aten.index_put.default, scatter.put_where_found),
    (aten.index_select.default, rule.select_of_scalar),
    (aten.logical_xor.default, rule.differ_in_truth),
    (aten.masked_scatter.default, rule.scatter_in_order),
    (aten.max_pool2d.default, pool_whole_windows(torch.max_pool2d, 2)),
    (aten.max_pool2d_with_indices.default, pool_with_places(2)),
    (aten.max_pool3d_with_indices.default, pool_with_places(3)),
    (aten.mm.default, kind.multiply_and_sum),
    (aten.pad.default, index.pad_by_planes),
    (aten.reciprocal.default, kind.compute_in_float(torch.reciprocal)),
    (aten.rsqrt.default, kind.keep_poles(torch.rsqrt, math.inf, of_floats=False)),
    (aten.scatter.reduce, scatter.scatter_by_reduction(scatter.reduce_where_found)),
    (aten.scatter.value_reduce, scatter.scatter_by_reduction(scatter.reduce_where_found)),
    (aten.scatter_add.default, scatter.add_where_found),
    (aten.scatter_reduce.two, scatter.reduce_where_found),
    (aten.sign.default, kind.find_sign),
    (aten.sort.default, index.sort_by_topk),
    (aten.sort.stable, index.sort_in_order(index.sort_by_topk, keeps_order=True)),
    (aten.upsample_nearest2d.vec, index.pick_nearest),
)
