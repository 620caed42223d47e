"""Weights that stand in a graph as indices into tables: `edgewright::look_up`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from edgewright.pipeline.program import LOOK_UP, Program


@dataclass(frozen=True)
class StoredPalette:
    """The operands of such a node.

    Args:
        indices: uint8, any shape.
        table: float32, (*blocks, 2**bits, vector), as `edgewright.pipeline.look_up` has it.
    """

    node: Node
    indices: Tensor
    table: Tensor

    @property
    def bits(self) -> int:
        return (self.table.shape[-2] - 1).bit_length()

    @property
    def vector(self) -> int:
        """Weights that share an index."""
        return self.table.shape[-1]

    @property
    def tables(self) -> int:
        return self.table[..., 0, 0].numel()

    @property
    def is_plain(self) -> bool:
        """Whether one table of single values serves the whole weight."""
        return self.tables == self.vector == 1


def stored_palettes(program: Program) -> list[StoredPalette]:
    """Every weight that stands so in the graph, in order."""
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target) == LOOK_UP:
            indices, table = (program.tensor(source) for source in node.all_input_nodes)
            found.append(StoredPalette(node, indices, table))
    return found
