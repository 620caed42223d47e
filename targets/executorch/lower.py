"""Program -> .pte file: XNNPACK's partitioner first, and for what it leaves the portable kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgewright.pipeline.exported import as_exported
from edgewright.pipeline.program import Program
from edgewright.pipeline.quiet import quiet
from edgewright.targets.executorch.refusals import missing_kernels
from edgewright.targets.executorch.run import PORTS

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write_pte(program: Program, path: Path) -> None:
    """Write a legalized program; names and dtypes of its inputs and outputs go in as a constant method.

    Raises TargetError with every operation that the runtime has no kernel for.
    """
    from edgewright.pipeline.lowering import refuse

    ports = {
        side: {spec.name: spec.dtype for spec in specs}
        for side, specs in (("inputs", program.inputs), ("outputs", program.outputs))
    }
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        from edgewright.targets.executorch.spell_out import spell_out_weights

        edge = to_edge_transform_and_lower(
            with_own_storages(as_exported(program)),
            partitioner=[XnnpackPartitioner()],
            constant_methods={PORTS: json.dumps(ports)},
            # What it would complain of one by one is refused below, all at once.
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        edge = edge.transform([spell_out_weights()])
        refuse(missing_kernels(edge.exported_program()))
        path.write_bytes(edge.to_executorch().buffer)


def with_own_storages(exported: ExportedProgram) -> ExportedProgram:
    """Given: constants that are parts of larger tensors (a folded slice). Result: copies that are nothing but the part.

    XNNPACK's serializer writes a constant's storage from its start, whatever part of it the constant is: the delegate
    would compute with other weights, and nothing would say so.
    """
    import torch

    for holder in (exported.state_dict, exported.constants):
        for name, value in holder.items():
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() != value.nbytes:
                holder[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return exported
