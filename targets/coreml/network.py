"""An .mlmodel of the older kind, a neural network: its layers and stored weights. It states no shapes inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgewright.targets.accounting import Step, account
from edgewright.targets.base import Inspection
from edgewright.targets.findings import TensorFact

NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")


def inspect_network(spec: Any) -> Inspection:
    """Layers in order, weights at their stored size. Multiply-accumulates stay 0: they need shapes."""
    network = getattr(spec, spec.WhichOneof("Type"))
    constants: dict[str, int] = {}
    by_dtype: dict[str, int] = {}
    tensors: dict[str, TensorFact] = {}
    steps = []
    for layer in network.layers:
        kind = layer.WhichOneof("layer") or "unknown"
        weights = []
        for name, dtype, size in _weights(getattr(layer, kind), f"{layer.name}.") if kind != "unknown" else ():
            constants[name] = size
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size
            tensors[name] = TensorFact(name, dtype, (), size)
            weights.append(name)
        steps.append(Step(layer.name, kind, "float", 0, (*layer.input, *weights), tuple(layer.output)))
    found = account(
        f"Core ML neural network, specification {spec.specificationVersion}",
        steps,
        {},
        constants,
        by_dtype,
        None,
        tensors,
    )
    note = (
        "a neural network states no shapes inside: products and activations are not counted; whether it computes in "
        "float16 or float32 is the device's choice"
    )
    return replace(found, notes=(note,))


def _weights(message: Any, prefix: str) -> Iterator[tuple[str, str, int]]:
    """Every WeightParams below a layer, with what it stores: one of float32, float16, raw quantized bits."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for place, part in enumerate(value if field.is_repeated else [value]):
            name = f"{prefix}{field.name}" + (f"[{place}]" if field.is_repeated else "")
            if field.message_type.name == "WeightParams":
                yield from _stored(part, name)
            elif not hasattr(part, "ListFields"):
                continue
            else:
                yield from _weights(part, f"{name}.")


def _stored(weights: Any, name: str) -> Iterator[tuple[str, str, int]]:
    if weights.floatValue:
        yield name, "float32", 4 * len(weights.floatValue)
    elif weights.float16Value:
        yield name, "float16", len(weights.float16Value)
    elif weights.rawValue:
        yield name, f"uint{weights.quantization.numberOfBits or 8}", len(weights.rawValue)
    elif weights.int8RawValue:
        yield name, "int8", len(weights.int8RawValue)
