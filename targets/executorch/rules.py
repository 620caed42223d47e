"""What ExecuTorch's kernels do not take as it is, or compute otherwise."""

from __future__ import annotations

import torch

from edgewright.pipeline.passes import decompositions as rule
from edgewright.pipeline.passes import dtype_rules as kind
from edgewright.pipeline.passes import scatter_rules as scatter
from edgewright.pipeline.passes.decompose_operators import Rules

aten = torch.ops.aten

RULES: Rules = (
    (aten._to_copy.default, kind.copy_at_once),
    (aten.cumsum.default, rule.sum_of_one),
    (aten.remainder.Scalar, kind.subtract_multiples),
    (aten.remainder.Scalar_Tensor, kind.subtract_multiples),
    (aten.remainder.Tensor, kind.subtract_multiples),
    (aten.scatter.reduce, scatter.scatter_by_reduction(scatter.reduce_where_found)),
    (aten.scatter.value_reduce, scatter.scatter_by_reduction(scatter.reduce_where_found)),
    (aten.scatter.src, scatter.scatter_by_wide_index(aten.scatter.src)),
    (aten.scatter.value, scatter.scatter_by_wide_index(aten.scatter.value)),
    (aten.scatter_add.default, scatter.scatter_by_wide_index(aten.scatter_add.default)),
    (aten.scatter_reduce.two, scatter.reduce_where_found),
)
