"""What PyTorch's ONNX exporter does not take as it is."""

from __future__ import annotations

import torch

from edgewright.pipeline.passes import decompositions as rule
from edgewright.pipeline.passes import dtype_rules as kind
from edgewright.pipeline.passes import indexing_rules as index
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
    (aten.squeeze.dims, rule.squeeze_nothing),
    (aten.where.self, kind.choose_truths),
)
