"""Cut an image into patches, and join patches to an image, by moving values alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch.fx import Node

from edgewright.pipeline.passes.base import Context, PassReport, Skip
from edgewright.pipeline.passes.graph import aten, insert_call, replace, value_of
from edgewright.pipeline.program import Program

CUT, JOIN = aten.im2col.default, aten.col2im.default


@dataclass(frozen=True)
class MovePatches:
    """Given: unfold(x, k, stride=k), or fold(y, size, k, stride=k). Result: reshape, permute, reshape.

    Converters write the first as a gather and the second as a scatter, which LiteRT cannot run; patches that do not
    overlap need neither. The five axes of the permutation are (batch and channels, row, column) of patch and pixel.
    """

    name: ClassVar[str] = "move-patches"
    runs_after: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, context: Context) -> PassReport:
        rewrites, skips = 0, []
        for node in list(program.graph.nodes):
            if node.target is CUT:
                kernel, dilation, padding, stride = _settings(node, 1)
            elif node.target is JOIN:
                kernel, dilation, padding, stride = _settings(node, 2)
            else:
                continue
            image = value_of(node.args[0] if node.target is CUT else node)
            rows, columns = image.shape[-2:]
            divided = rows % kernel[0] == 0 and columns % kernel[1] == 0
            if stride != kernel or any(padding) or dilation != [1, 1] or not divided or image.dim() != 4:
                skips.append(Skip(node.name, "its patches overlap, or leave a part of the image out"))
                continue
            _cut(program, node, kernel) if node.target is CUT else _join(program, node, kernel)
            rewrites += 1
        return PassReport(rewrites, tuple(skips))


def _settings(node: Node, first: int) -> list[list[int]]:
    return [list(map(int, value)) for value in node.args[first : first + 4]]  # type: ignore[arg-type]


def _cut(program: Program, node: Node, kernel: Sequence[int]) -> None:
    call = partial(insert_call, program, node)
    batch, channels, rows, columns = value_of(node.args[0]).shape  # type: ignore[arg-type]
    high, wide = rows // kernel[0], columns // kernel[1]
    split = call(aten.reshape.default, node.args[0], [batch * channels, high, kernel[0], wide, kernel[1]])
    moved = call(aten.permute.default, split, [0, 2, 4, 1, 3])
    replace(node, call(aten.reshape.default, moved, [batch, channels * kernel[0] * kernel[1], high * wide]))


def _join(program: Program, node: Node, kernel: Sequence[int]) -> None:
    call = partial(insert_call, program, node)
    batch, channels, rows, columns = value_of(node).shape
    high, wide = rows // kernel[0], columns // kernel[1]
    split = call(aten.reshape.default, node.args[0], [batch * channels, kernel[0], kernel[1], high, wide])
    moved = call(aten.permute.default, split, [0, 3, 1, 4, 2])
    replace(node, call(aten.reshape.default, moved, [batch, channels, rows, columns]))
