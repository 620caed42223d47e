"""Which values of a float graph will have an 8-bit encoding of their own, as `annotate_int8.py` decides."""

from __future__ import annotations

from torch.fx import Graph, Node

from edgewright.pipeline.passes.annotate_int8 import (
    ARITHMETIC,
    CHAIN_ACTIVATIONS,
    CONCATENATE,
    CONVOLUTIONS,
    FUSED_ACTIVATIONS,
    LINEAR,
    MOVES,
    PRODUCTS,
)

LAYERS = CONVOLUTIONS | PRODUCTS | {LINEAR}


def encoded_values(graph: Graph) -> set[Node]:
    """Outputs of layers, of what only moves them, and of everything in a convolutional chain.

    A multiplication that a pass puts between such a value and another encoding would be pulled into integers by a
    runtime, with its constant rounded to 8 bits; elsewhere it stays in float.
    """
    encoded: set[Node] = set()
    chain: set[Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        first = sources[0] if sources else None
        inner = node.target in MOVES or node.target in CHAIN_ACTIVATIONS or node.target is LINEAR
        parts = [source for source in sources if source.op != "get_attr"]
        joined = (node.target in ARITHMETIC and parts == sources) or node.target is CONCATENATE
        if node.target in CONVOLUTIONS or (inner and first in chain) or (joined and parts and chain.issuperset(parts)):
            chain.add(node)
        fused = node.target in FUSED_ACTIVATIONS and first is not None and first.target in LAYERS
        if node in chain or node.target in LAYERS or fused or (node.target in MOVES and first in encoded):
            encoded.add(node)
    return encoded


def is_encoded_again(node: Node) -> bool:
    """Whether a layer reads the value, directly, moved or behind a fused activation: it is encoded there."""
    passed = MOVES | FUSED_ACTIVATIONS
    return any(user.target in LAYERS or (user.target in passed and is_encoded_again(user)) for user in node.users)
