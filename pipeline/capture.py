"""Capture: an nn.Module with example inputs, or a trusted .pt2 file, becomes a Program."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import keyword
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from edgewright.errors import CaptureError, CheckpointError
from edgewright.pipeline.naming import key_name, output_name
from edgewright.pipeline.open_axes import (
    GuardLines,
    OpenAxes,
    at_sizes,
    for_export,
    read_axes,
    tracing_sizes,
    violations,
)
from edgewright.pipeline.program import Program, TensorSpec, flat_module, functional, keep_open, symbols_of
from edgewright.pipeline.shapes import describe
from edgewright.pipeline.untraceable import untraceable_nodes
from edgewright.pipeline.user_code import user_line

# What a capture asserts of open sizes. Our own bounds are checked where inputs come in; no format has these.
SIZE_CHECKS = frozenset(
    {
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
    }
)
ExampleInputs = Sequence[Any] | Mapping[str, Any]
DynamicShapes = Sequence[Any] | Mapping[str, Any]


def capture(
    model: nn.Module | str | Path,
    example_inputs: ExampleInputs = (),
    dynamic_shapes: DynamicShapes | None = None,
    *,
    trust_input: str | None = None,
) -> Program:
    """Trace a model to a flat ATen graph.

    Args:
        model: a module (it is put into evaluation mode), a Hugging Face folder, or a .pt2 file.
        example_inputs: a tuple (positional) or a dict (by argument name) of tensors; values may be nested tuples,
            lists or dicts. A .pt2 file needs none.
        dynamic_shapes: the axes that stay open, by argument name or in the order of the arguments, such as
            `{"tokens": {1: ew.Dim("sequence", min=8, max=256)}}`; nested as the inputs are; torch.export.Dim is taken,
            too, and the name alone where a dimension stands again. Every other size is fixed to the example's.
        trust_input: SHA-256 of the .pt2 file. Loading one can execute code, so it is refused without.
    Raises:
        CaptureError: what cannot be captured, with the user's own source line and a way out.
        CheckpointError: weights with NaN or infinity, all by name.
    """
    if isinstance(model, str | Path):
        path = Path(model)
        if path.suffix == ".pt2":
            exported = _load_pt2(path, trust_input)
            _refuse_open_sizes(exported, path, dynamic_shapes)
            refuse_nonfinite_weights(exported.module(check_guards=False))
            return _program_of(exported, ())
        from edgewright.pipeline.huggingface import load_folder

        model = load_folder(path)
    model.eval()
    refuse_nonfinite_weights(model)
    args, kwargs = _arguments(example_inputs)
    _register_dataclass_output(model, args, kwargs)
    names = _input_names(model, args, kwargs)
    if not dynamic_shapes:
        return _program_of(_export(model, args, kwargs), names)
    shapes = read_axes(model, args, kwargs, dynamic_shapes)
    sizes = tracing_sizes(model, shapes.dims)
    args, kwargs = at_sizes((args, kwargs), shapes, sizes)
    _register_dataclass_output(model, args, kwargs, f"the model does not run at {describe(sizes)}, another size")
    return _program_of(_export(model, args, kwargs, shapes), names, shapes)


def refuse_nonfinite_weights(model: nn.Module) -> None:
    """No converter refuses NaN or infinite weights, so we do, all by name with the first index."""
    faults = []
    buffers = dict(model.named_buffers())
    for name, tensor in [*model.named_parameters(), *buffers.items()]:
        if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor):
            # A buffer filled with -inf above the diagonal is a mask, not a broken weight.
            if (
                name in buffers
                and not bool((torch.isnan(tensor) | (tensor == torch.inf)).any())
                and "running" not in name
            ):
                continue
            bad = (~torch.isfinite(tensor)).nonzero()
            faults.append(f"{name} has {len(bad)} (first at {bad[0].tolist()})")
    if faults:
        raise CheckpointError(
            "the model has weights that are NaN or infinite",
            got="; ".join(faults),
            expected="finite weights",
            do="find the training step that broke them, or load an earlier checkpoint",
        )


def _is_finite(tensor: Tensor) -> bool:
    """By its ends: `isfinite` of all would take the memory of the tensor again."""
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor.detach()))


def _arguments(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    return tuple(example_inputs), {}


def _register_dataclass_output(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    what: str = "the model does not run on its example inputs",
) -> None:
    """Let torch.export see into a returned dataclass: it has to know the type beforehand."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))  # forward() may write into its inputs
    with torch.no_grad():
        try:
            result = model(*args, **kwargs)
        except Exception as error:
            raise CaptureError(
                what,
                got=f"{type(error).__name__}: {error}".strip().split("\n")[0],
                where=_user_line(error, model),
                do="check the names, shapes and dtypes of the example inputs against forward()",
            ) from error
    kind = type(result)
    if dataclasses.is_dataclass(result) and kind not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(kind)


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: OpenAxes | None = None
) -> torch.export.ExportedProgram:
    axes = None if shapes is None else for_export(args, kwargs, shapes)
    guards = GuardLines()
    try:
        with warnings.catch_warnings(), torch.no_grad(), guards if shapes else contextlib.nullcontext():
            warnings.simplefilter("ignore")
            exported = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=axes)
            return functional(exported, is_open=shapes is not None)
    except Exception as error:
        violated = violations(str(error))
        if violated is not None:
            raise CaptureError(
                "the model does not keep its open dimensions open",
                got=violated,
                where=" | ".join(guards.lines) or inspect.getsourcefile(type(model)),
                do="free the named lines of branches and loops over a size, take the bounds that they allow, "
                "or leave the dimension fixed and capture one program a size",
            ) from error
        raise CaptureError(
            "the model cannot be captured as one graph",
            got=_first_line(error),
            where=_user_line(error, model),
            do=_way_out(error),
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _way_out(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}"
    if any(mark in text for mark in ("DataDependent", "data-dependent", "unbacked", "GuardOnDataDependent")):
        return (
            "the branch or shape depends on values of a tensor: replace `if` by torch.where, "
            "and .item() by tensor arithmetic, or move that part out of the exported model"
        )
    return "run torch.export.export(model, example_inputs) alone and rewrite the named line with traceable operations"


def _user_line(error: BaseException, model: nn.Module) -> str | None:
    """The innermost frame of the traceback that is the user's own code, as `file:line, in function: source`."""
    return user_line(error) or inspect.getsourcefile(type(model))


def refuse_untraceable(
    module: torch.fx.GraphModule,
    exported: torch.export.ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Raise CaptureError with all that torch.export lets through and no runtime can express."""
    faults = list(untraceable_nodes(module))
    for name in dict.fromkeys(exported.graph_signature.buffers_to_mutate.values()):
        faults.append(f"{name}: forward() changes this buffer; make the state an input and an output")
    for name in sorted({name for name in inputs if inputs.count(name) > 1}):
        faults.append(f"{name}: two inputs get this name; rename an argument or a key")
    for name in sorted({name for name in outputs if outputs.count(name) > 1}):
        faults.append(f"{name}: two outputs get this name; rename a key")
    for name in sorted({*inputs} & {*outputs}):
        faults.append(f"{name}: an input and an output have this name, which ONNX does not allow; rename the key")
    if faults:
        raise CaptureError(
            "the model cannot be captured as one graph", got="; ".join(faults), do="change the named lines"
        )


def _load_pt2(path: Path, trust_input: str | None) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise CaptureError("the model file does not exist", got=path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if trust_input is None or trust_input.removeprefix("sha256:").lower() != digest:
        raise CaptureError(
            f"refused: {path.name} is a .pt2 file, and loading one can execute code that it carries",
            got="no trusted digest" if trust_input is None else f"--trust-input {trust_input}",
            expected=f"sha256:{digest}",
            where=path,
            do=f"if you know where the file comes from, allow exactly it with --trust-input sha256:{digest}; "
            "otherwise pass a callable that builds the model and a safetensors checkpoint",
        )
    try:
        return functional(torch.export.load(path))
    except Exception as error:
        raise CaptureError("the .pt2 file cannot be loaded", got=_first_line(error), where=path) from error


def _input_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
    """One name a tensor, in the order of the graph's placeholders: forward's argument, then keys of nested values."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    named: list[tuple[str, Any]] = []
    for index, value in enumerate(args):
        parameter = parameters[min(index, len(parameters) - 1)]
        starred = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        named.append((f"{parameter.name}_{index}" if starred else parameter.name, value))
    named += kwargs.items()
    names = []
    for name, value in named:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                names.append(_identifier("_".join([name, *map(key_name, path)])))
    return tuple(names)


def _identifier(name: str) -> str:
    """A name that a graph, a converter and a runtime take: "batch_my key" becomes batch_my_key."""
    word = re.sub(r"\W", "_", name)
    return f"_{word}" if not word.isidentifier() or keyword.iskeyword(word) else word


def _refuse_open_sizes(exported: torch.export.ExportedProgram, path: Path, dynamic_shapes: object) -> None:
    if exported.range_constraints or dynamic_shapes:
        raise CaptureError(
            "a .pt2 file has fixed shapes here",
            got=f"open sizes: {', '.join(map(str, exported.range_constraints)) or dynamic_shapes}",
            where=path,
            do="export it with fixed shapes, or pass the model itself with dynamic_shapes",
        )


def _program_of(
    exported: torch.export.ExportedProgram, names: tuple[str, ...], shapes: OpenAxes | None = None
) -> Program:
    example_args, example_kwargs = exported.example_inputs
    example = tuple(leaf for leaf in pytree.tree_leaves((example_args, example_kwargs)) if isinstance(leaf, Tensor))
    output_names = _output_names(exported)
    module = flat_module(exported)
    placeholders = module.graph.find_nodes(op="placeholder")
    refuse_untraceable(module, exported, names or tuple(str(node.target) for node in placeholders), output_names)
    if names and len(names) == len(placeholders):
        for node, name in zip(placeholders, names, strict=True):
            node.target = name
        module.recompile()
    symbols = _open_symbols(module, placeholders, shapes) if shapes else {}
    inputs = tuple(TensorSpec.of(str(node.target), node.meta["val"], symbols) for node in placeholders)
    returned: Any = module.graph.output_node().args[0]
    outputs = tuple(
        TensorSpec.of(name, node.meta["val"], symbols) for name, node in zip(output_names, returned, strict=True)
    )
    program = Program(module, inputs, outputs, example, shapes.dims if shapes else ())
    program.erase_dead()
    return program


def _open_symbols(module: torch.fx.GraphModule, placeholders: list[torch.fx.Node], shapes: OpenAxes) -> dict[Any, str]:
    """The symbols of the open dimensions, with their names; they stay symbols from here on."""
    for node in list(module.graph.nodes):
        if node.target in SIZE_CHECKS:
            module.graph.erase_node(node)
    open_shapes = [
        tuple(axes.get(axis, size) for axis, size in enumerate(node.meta["val"].shape))
        for axes, node in zip(shapes.axes, placeholders, strict=True)
    ]
    keep_open(module)
    return symbols_of(placeholders, open_shapes)


def _output_names(exported: torch.export.ExportedProgram) -> list[str]:
    """Keys of the returned structure, joined; a bare position becomes output_N. Outputs that are None are left out."""
    arguments = exported.graph_signature.user_outputs
    spec = exported.call_spec.out_spec
    structure = pytree.tree_unflatten(list(range(len(arguments))), spec)
    leaves = pytree.tree_flatten_with_path(structure)[0]
    return [output_name(path) for path, position in leaves if isinstance(arguments[position], str)]
