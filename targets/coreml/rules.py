"""What coremltools does not take as it is, or converts to something else."""

from __future__ import annotations

import math

import torch

from edgewright.pipeline.passes import decompositions as rule
from edgewright.pipeline.passes import dtype_rules as kind
from edgewright.pipeline.passes import indexing_rules as index
from edgewright.pipeline.passes import scatter_rules as scatter
from edgewright.pipeline.passes.decompose_operators import Rules
from edgewright.pipeline.passes.pooling_rules import pool_with_places

aten = torch.ops.aten

RULES: Rules = (
    *rule.EVERYWHERE,
    *kind.FLOAT_FUNCTIONS,
    *kind.ROUNDINGS,
    *kind.COMPARISONS,
    *kind.EXTREMES,
    *kind.SCATTERS,
    (aten.acosh.default, rule.acosh_by_logarithm),
    (aten.argmax.default, rule.find_in_all(torch.argmax)),
    (aten.argmin.default, rule.find_in_all(torch.argmin)),
    (aten.as_strided.default, rule.pick_strided),
    (aten.asinh.default, rule.asinh_by_logarithm),
    (aten.channel_shuffle.default, rule.shuffle_channels),
    (aten.clamp.Tensor, rule.clamp_by_tensors),
    (aten.cumsum.default, rule.sum_of_one),
    (aten.diagonal.default, rule.pick_diagonal),
    (aten.fmod.Scalar, rule.divide_positive),
    (aten.fmod.Tensor, rule.divide_positive),
    (aten.grid_sampler_2d.default, rule.sample_grid),
    (aten.hardtanh.default, kind.limit_integers),
    (aten.index_select.default, rule.select_of_scalar),
    (aten.isinf.default, rule.find_infinities),
    (aten.isnan.default, kind.compute_in_float(torch.isnan)),
    (aten.log.default, kind.keep_poles(torch.log, -math.inf, of_floats=True)),
    (aten.log10.default, kind.keep_poles(torch.log10, -math.inf, of_floats=True)),
    (aten.log2.default, kind.keep_poles(torch.log2, -math.inf, of_floats=True)),
    (aten.masked_scatter.default, rule.scatter_in_order),
    (aten.max_pool2d_with_indices.default, pool_with_places(2)),
    (aten.max_pool3d_with_indices.default, pool_with_places(3)),
    (aten.native_group_norm.default, rule.normalize_groups),
    (aten.native_layer_norm.default, rule.normalize_layer),
    (aten.pad.default, index.pad_by_places),
    (aten.reciprocal.default, rule.divide_one),
    (aten.relu.default, kind.keep_positive),
    (aten.repeat.default, rule.repeat_once),
    (aten.reshape.default, rule.drop_axes),
    (aten.rms_norm.default, rule.normalize_by_square),
    (aten.rsqrt.default, kind.keep_poles(torch.rsqrt, math.inf, of_floats=False)),
    (aten.scatter.reduce, scatter.scatter_in_part(aten.scatter.reduce)),
    (aten.scatter.src, scatter.scatter_in_part(aten.scatter.src)),
    (aten.scatter.value, scatter.scatter_in_part(aten.scatter.value)),
    (aten.scatter.value_reduce, scatter.scatter_in_part(aten.scatter.value_reduce)),
    (aten.scatter_add.default, scatter.scatter_in_part(aten.scatter_add.default)),
    (aten.scatter_reduce.two, scatter.reduce_where_found),
    (aten.sign.default, kind.find_sign),
    (aten.sort.stable, index.sort_in_order(aten.sort.default, keeps_order=False)),
    (aten.squeeze.dims, rule.squeeze_nothing),
    (aten.std.correction, rule.spread_by_definition(root=True)),
    (aten.var.correction, rule.spread_by_definition(root=False)),
    (aten.view.default, rule.drop_axes),
)
