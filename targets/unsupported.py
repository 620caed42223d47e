"""Refusals by operation and argument: what a converter fails on, or silently computes otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewright.targets.base import Refusal

if TYPE_CHECKING:
    from torch.fx import Node

    from edgewright.pipeline.program import Program


@dataclass(frozen=True)
class Unsupported:
    """One entry of a target's table: nodes for which `applies` holds are refused."""

    applies: Callable[[Node], bool]
    reason: str
    way_out: str


def refuse_nodes(program: Program, target: str, table: Sequence[Unsupported]) -> tuple[Refusal, ...]:
    """One refusal a node, with the user's source line: the first entry that applies."""
    from edgewright.pipeline.passes.graph import source_line

    found = []
    for node in program.graph.nodes:
        entry = next((entry for entry in table if node.op == "call_function" and entry.applies(node)), None)
        if entry is not None:
            found.append(Refusal(target, node.name, str(node.target), entry.reason, entry.way_out, source_line(node)))
    return tuple(found)


def is_complex(node: Node) -> bool:
    """Whether an operation gives complex numbers, or is a Fourier transform, which computes with them."""
    from torch import Tensor

    value = node.meta.get("val")
    return "fft" in str(node.target) or (isinstance(value, Tensor) and value.is_complex())


def gives_complex(node: Node) -> bool:
    """Whether a result of the model is complex."""
    from torch import Tensor

    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex() and any(user.op == "output" for user in node.users)


def pools_integers(node: Node) -> bool:
    return "_pool" in str(node.target) and not node.all_input_nodes[0].meta["val"].is_floating_point()


def of_dtypes(operations: str, dtypes: str) -> Callable[[Node], bool]:
    """Whether a node is one of these operations (with overload or without), its first tensor of such a dtype."""

    def applies(node: Node) -> bool:
        from edgewright.pipeline.program import dtype_name

        name = str(node.target).removeprefix("aten.")
        if not {name, name.partition(".")[0]} & set(operations.split()):
            return False
        return dtype_name(node.all_input_nodes[0].meta["val"].dtype) in dtypes.split()

    return applies


def pads_output_volume(node: Node) -> bool:
    padding = node.args[5] if len(node.args) > 5 else ()
    return str(node.target).startswith("aten.conv_transpose3d") and any(padding)  # type: ignore[arg-type]


def adds_truths(node: Node) -> bool:
    from edgewright.pipeline.program import dtype_name

    return str(node.target) == "aten.add.Tensor" and dtype_name(node.meta["val"].dtype) == "bool"


def computes_by_scatter(node: Node) -> bool:
    name = str(node.target)
    if name == "aten.index_put.default":
        return len(node.args) > 3 and bool(node.args[3])
    return name.startswith(("aten.scatter_add", "aten.scatter_reduce")) or "reduce" in node.kwargs


def puts_by_mask(node: Node) -> bool:
    from torch import bool as truth

    return str(node.target) == "aten.index_put.default" and any(
        place is not None and place.meta["val"].dtype == truth  # type: ignore[union-attr]
        for place in node.args[1]  # type: ignore[union-attr]
    )


def sorts_stably(node: Node) -> bool:
    return str(node.target) == "aten.sort.stable" and bool(node.kwargs.get("stable"))


COMPLEX = Unsupported(is_complex, "the format has no complex numbers", "compute the transform outside of the model")
COMPLEX_RESULT = Unsupported(gives_complex, COMPLEX.reason, "return torch.view_as_real of it")
INTEGER_POOLING = Unsupported(pools_integers, "pooling is of floats", "convert to float before it")
BITS = "bitwise_and bitwise_not bitwise_or bitwise_xor"
INTEGER_BITS = Unsupported(
    of_dtypes(BITS, "int64 int32"), "it has no bitwise arithmetic of integers", "use booleans, or compute it outside"
)
TO_FLOAT = "convert to float32 before it"
CONVOLUTIONS = "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
INTEGER_CONVOLUTION = Unsupported(of_dtypes(CONVOLUTIONS, "int64 int32"), "it has no convolution of integers", TO_FLOAT)
TABLE = (COMPLEX, INTEGER_POOLING)
SORTED_TRUTHS = Unsupported(of_dtypes("sort", "bool"), "it has no order of booleans", TO_FLOAT)
SCATTERED_TRUTHS = Unsupported(
    of_dtypes("scatter_reduce", "bool"), "it does not scatter booleans with arithmetic", TO_FLOAT
)
ADDED_TRUTHS = Unsupported(adds_truths, "it does not add booleans", "use torch.logical_or")
ONNX = (COMPLEX_RESULT, INTEGER_POOLING, INTEGER_CONVOLUTION, SORTED_TRUTHS, SCATTERED_TRUTHS, ADDED_TRUTHS)
COREML = (
    *TABLE,
    INTEGER_BITS,
    INTEGER_CONVOLUTION,
    Unsupported(
        pads_output_volume,
        "coremltools pads no output of a transposed 3-D convolution",
        "pad the layer's result by torch.nn.functional.pad",
    ),
    SORTED_TRUTHS,
    Unsupported(
        sorts_stably, "it leaves the order of equal elements open", "sort without stable=True, or sort what all differs"
    ),
)
TFLITE = (
    *TABLE,
    INTEGER_BITS,
    Unsupported(puts_by_mask, "it puts values at places, not where a mask is true", "use torch.where with the mask"),
    Unsupported(
        of_dtypes("argmax argmin max.dim min.dim", "int64"),
        "it finds no places of extremes in 64-bit integers",
        "convert to int32 before it",
    ),
    INTEGER_CONVOLUTION,
    Unsupported(of_dtypes("pow", "int64 int32"), "it has no powers of integers", TO_FLOAT),
    SCATTERED_TRUTHS,
    Unsupported(
        computes_by_scatter,
        "LiteRT's kernel does not compute with what it scatters",
        "add by a product with a matrix of ones and zeros",
    ),
    Unsupported(
        of_dtypes("index_put scatter scatter_reduce", "int64"),
        "it does not scatter 64-bit integers",
        "convert to int32 before it",
    ),
    Unsupported(
        lambda node: str(node.target).startswith("aten.conv_transpose3d"),
        "LiteRT has no kernel for transposed 3-D convolutions",
        "deliver this model to another target",
    ),
)
