"""What PyTorch's ONNX exporter does not take as it is."""

from __future__ import annotations

import torch

from edgewright.pipeline.passes import decompositions as rule
from edgewright.pipeline.passes import dtype_rules as kind
from edgewright.pipeline.passes import indexing_rules as index
from edgewright.pipeline.passes import scatter_rules as scatter
from edgewright.pipeline.passes.decompose_operators import Rules

aten = torch.ops.aten

RULES: Rules = (
    *rule.EVERYWHERE,
    *kind.ROUNDINGS,
    (aten.addmm.default, rule.add_product(torch.mm)),
    (aten.amax.default, rule.reduce_named_axes(torch.amax)),
    (aten.amin.default, rule.reduce_named_axes(torch.amin)),
    (aten.isnan.default, kind.compute_in_float(torch.isnan)),
    (aten.max.dim, kind.find_among_numbers(aten.max.dim)),
    (aten.min.dim, kind.find_among_numbers(aten.min.dim)),
    (aten.pad.default, index.pad_by_places),
    (aten.relu.default, kind.keep_positive),
    (aten.scatter.reduce, scatter.scatter_by_reduction(aten.scatter_reduce.two)),
    (aten.scatter.value_reduce, scatter.scatter_by_reduction(aten.scatter_reduce.two)),
    (aten.scatter.src, scatter.scatter_fitted(aten.scatter.src)),
    (aten.scatter_add.default, scatter.scatter_fitted(aten.scatter_add.default)),
    (aten.scatter_reduce.two, scatter.divide_by_count(aten.scatter_reduce.two)),
    (aten.sort.stable, index.sort_in_order(aten.sort.default, keeps_order=True)),
    (aten.squeeze.dims, rule.squeeze_nothing),
    (aten.where.self, kind.choose_truths),
)
