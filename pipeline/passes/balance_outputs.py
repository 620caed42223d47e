"""Give the outlier channels of a linear layer's output the same range as the rest, and take it back behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.encoded_values import is_encoded_again
from edgewright.pipeline.passes.graph import add_constant, aten, insert_call
from edgewright.pipeline.passes.module_patterns import ModulePatterns
from edgewright.pipeline.program import Program

LINEAR = aten.linear.default


@dataclass(frozen=True)
class BalanceOutputs:
    """Given: y = linear(x, W, b) where few channels of y are far larger than the rest.
    Result: y = linear(x, W / s, b / s) * s, with s_j = max|Y_j| / median(max|Y|).

    An integer layer writes its output with one scale. In language encoders one channel of some feed-forward layers
    reaches 200 where the others stay below 1 (the "massive activations"), and takes the whole range. Weights have a
    scale for every output channel, so the division costs them nothing. The multiplication stays in float. Layers before
    a hard swish are left alone: OpenVINO 2026.4 was seen to compute other numbers where the multiplication is between.

    Args:
        outlier_ratio: an output is balanced when its largest channel exceeds its median one by this factor.
        modules: patterns over module paths; other layers stay as they are.
    """

    name: ClassVar[str] = "balance-outputs"
    runs_after: ClassVar[tuple[str, ...]] = (
        "fold-batchnorm",
        "fold-constants",
        "drop-identities",
        "smooth-activations",
    )
    outlier_ratio: float = 3.0
    modules: str = "*"

    def run(self, program: Program, context: Context) -> PassReport:
        patterns = ModulePatterns.of(self.modules, program)
        layers = [
            node
            for node in program.graph.find_nodes(op="call_function", target=LINEAR)
            if isinstance(node.args[1], Node) and node.args[1].op == "get_attr" and patterns.match(node)
        ]
        outputs = set(program.graph.output_node().all_input_nodes)
        maxima = context.maxima.of(program, layers)
        rewrites, skips = 0, []
        for layer in layers:
            if layer in outputs or is_encoded_again(layer):
                skips.append(Skip(layer.name, "another layer or the user reads it, and not an operation in float"))
                continue
            if any(user.target is aten.hardswish.default for user in layer.users):
                skips.append(Skip(layer.name, "a hard swish reads it, which OpenVINO fuses wrongly with a scale"))
                continue
            highest = maxima[layer].clamp(min=1e-5)
            ratio = float(highest.max() / highest.median())
            if ratio < self.outlier_ratio:
                skips.append(Skip(layer.name, f"no outliers: largest channel {ratio:.1f} times the median"))
                continue
            _balance(program, layer, highest / highest.median())
            rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _balance(program: Program, layer: Node, factor: Tensor) -> None:
    weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(weight, Node), "chosen by run"
    layer.update_arg(1, add_constant(program, str(weight.target), program.tensor(weight) / factor[:, None], layer))
    if isinstance(bias, Node):
        layer.update_arg(2, add_constant(program, str(bias.target), program.tensor(bias) / factor, layer))
    scale = add_constant(program, f"{layer.name}_balance", factor, layer.next)
    restored = insert_call(
        program, layer.next.next if layer.next is scale else layer.next, aten.mul.Tensor, layer, scale
    )
    layer.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)
