"""Program: a captured FX graph with named inputs and outputs, the unit that every pass and target works on."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgewright.pipeline.propagation import propagate
from edgewright.pipeline.shapes import Dim, OpenShapes, Shape, sized

LOOK_UP = "edgewright.look_up.default"  # by name: its module registers it


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype ("float32", "int64", ...) of one input or output.

    A size is a number or, where it is open, the name of its dimension; an output may have one computed from such
    names ("2*sequence").
    """

    name: str
    shape: Shape
    dtype: str

    @staticmethod
    def of(name: str, tensor: Tensor, symbols: Mapping[Any, str] | None = None) -> TensorSpec:
        """Of a tensor; `symbols` gives the names of the symbols in a symbolic one's shape."""
        shape = tuple(_size(size, symbols or {}) for size in tensor.shape)
        return TensorSpec(name, shape, dtype_name(tensor.dtype))


def _size(size: int | torch.SymInt, symbols: Mapping[Any, str]) -> int | str:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_number:
        return int(expression)
    return str(expression.xreplace({symbol: type(symbol)(name) for symbol, name in symbols.items()}))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass
class Program:
    """A model as data: a flat graph of ATen operations that PyTorch itself can run.

    Args:
        module: its forward takes the inputs as positional tensors and returns a tuple of tensors; weights are its
            parameters and buffers under the names that they had in the model; no in-place operation is left.
        inputs: in the order of `module`'s placeholders; the names are those of the model's `forward`.
        outputs: in the order of the returned tuple; keys of a returned dict, or output_0, output_1, ...
        example: one tensor an input, of the exported shape.
        dims: the open dimensions; empty where every shape is fixed.
    """

    module: GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: tuple[Tensor, ...]
    dims: tuple[Dim, ...] = ()

    @property
    def shapes(self) -> OpenShapes:
        return OpenShapes.of(self.inputs, self.dims)

    @property
    def graph(self) -> torch.fx.Graph:
        return self.module.graph

    def clone(self) -> Program:
        """A copy whose graph can be edited; the tensors are shared, so passes replace tensors and never write them."""
        memo = {id(tensor): tensor for tensor in self.tensors().values()}
        memo |= {id(tensor): tensor for tensor in self.example}
        return Program(copy.deepcopy(self.module, memo), self.inputs, self.outputs, self.example, self.dims)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, buffers and other tensor attributes, by dotted name, each tensor object under all its names."""
        found: dict[str, Tensor] = {}
        for prefix, module in self.module.named_modules():
            holders: Iterable[Mapping[str, object]] = (module._parameters, module._buffers, vars(module))
            for holder in holders:
                for name, value in holder.items():
                    if isinstance(value, Tensor):
                        found[f"{prefix}.{name}" if prefix else name] = value
        return found

    def tensor(self, node: Node) -> Tensor:
        """The constant that a get_attr node reads."""
        value: object = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, Tensor):
            raise TypeError(f"{node.target} is a {type(value).__name__}, not a tensor")
        return value

    def constants(self) -> Iterator[tuple[Node, Tensor]]:
        """The get_attr nodes of the graph with what they read, in order."""
        for node in self.graph.nodes:
            if node.op == "get_attr":
                yield node, self.tensor(node)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute the graph: one tensor an input, by name; the outputs by name."""
        with torch.no_grad():
            results = self.module(*(inputs[spec.name] for spec in self.inputs))
        return dict(zip((spec.name for spec in self.outputs), results, strict=True))

    def open_axes(self) -> tuple[dict[int, Any], ...] | None:
        """The open axes of each input, as torch.export wants them."""
        if not self.dims:
            return None
        dims = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in self.dims}
        return tuple(
            {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in self.inputs
        )

    def at(self, sizes: Mapping[str, int]) -> Program:
        """The same program with every dimension fixed: what computed sizes is gone from its graph.

        Args:
            sizes: of every open dimension; within its bounds, or this raises ShapeError.
        """
        fixed = replace(self.clone(), dims=())
        fixed.example = tuple(
            resized(tensor, sized(spec.shape, sizes)) for tensor, spec in zip(self.example, self.inputs, strict=True)
        )
        self.shapes.sizes(dict(zip((spec.name for spec in self.inputs), fixed.example, strict=True)))
        results = fixed.propagate()
        for node in list(fixed.graph.nodes):
            number = node.meta.get("val")
            if node.op == "call_function" and isinstance(number, int | float):
                _put_constant(node, number)
        fixed.inputs = tuple(
            TensorSpec.of(spec.name, tensor) for spec, tensor in zip(self.inputs, fixed.example, strict=True)
        )
        fixed.outputs = tuple(
            TensorSpec.of(spec.name, tensor) for spec, tensor in zip(self.outputs, results, strict=True)
        )
        fixed.erase_dead()
        return fixed

    def propagate(self) -> tuple[Tensor, ...]:
        """Bring shapes and dtypes through the whole graph, into `meta["val"]` of its nodes; gives those returned.

        Open dimensions stay symbols: those that the capture made, which the placeholders keep.
        """
        if not self.dims:
            return propagate(self.graph, self.example, self.tensor)
        given = [node.meta["val"] for node in self.graph.find_nodes(op="placeholder")]
        mode = given[0].fake_mode
        # As the capture does: PyTorch's compiled forms of some operations (resizing) fix their sizes.
        with torch.no_grad(), enable_python_dispatcher(), mode.shape_env.suppress_guards():
            return tuple(FakeTensorProp(self.module, mode).propagate_dont_convert_inputs(*given))

    def symbols(self) -> dict[Any, str]:
        """The names of the open dimensions by their symbols in `meta["val"]`."""
        return symbols_of(self.graph.find_nodes(op="placeholder"), [spec.shape for spec in self.inputs])

    def digest(self) -> str:
        """SHA-256 over the graph's code, signature and every tensor that it reads."""
        sha = hashlib.sha256()
        sha.update(self.graph.python_code("self").src.encode())
        sha.update(repr((self.inputs, self.outputs, *self.dims)).encode())
        for node, tensor in self.constants():
            sha.update(f"{node.target} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor_bytes(tensor))
        return sha.hexdigest()

    def parameters(self) -> int:
        """How many trained numbers the graph reads; statistics and other buffers do not count."""
        found = {id(tensor): tensor for _, tensor in self.constants() if isinstance(tensor, torch.nn.Parameter)}
        return sum(tensor.numel() for tensor in found.values())

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the constants that the graph reads, by dtype; a tensor read twice counts once.

        Integers of fewer than 8 bits, which the graph keeps in int8 or uint8, count as what they need: "int4" of a
        grid, "uint4" of indices into a palette.
        """
        sizes: dict[str, int] = {}
        for node, tensor in {id(tensor): (node, tensor) for node, tensor in self.constants()}.values():
            name, size = self.stored_as(node, tensor)
            sizes[name] = sizes.get(name, 0) + size
        return sizes

    def stored_as(self, node: Node, tensor: Tensor) -> tuple[str, int]:
        """The dtype of a constant and its bytes, by what reads it; see `weight_bytes`."""
        name, bits = dtype_name(tensor.dtype), 8 * tensor.element_size()
        for user in node.users:
            if "dequantize" in str(user.target) and user.args[0] is node and tensor.dtype == torch.int8:
                lowest, highest = [arg for arg in user.args if isinstance(arg, int)][-2:]
                bits = (highest - lowest).bit_length()
                name = f"int{bits}"
            elif str(user.target) == LOOK_UP and user.args[0] is node:
                bits = (user.all_input_nodes[1].meta["val"].shape[-2] - 1).bit_length()
                name = f"uint{bits}"
        return name, (tensor.numel() * bits + 7) // 8

    def erase_dead(self) -> None:
        """Drop nodes without users and the tensors that nothing reads any more."""
        self.graph.eliminate_dead_code()
        self.module.recompile()
        used = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
        for name in self.tensors():
            if name not in used:
                parent, _, leaf = name.rpartition(".")
                delattr(self.module.get_submodule(parent), leaf)
        self.module.delete_all_unused_submodules()


def symbols_of(placeholders: Iterable[Node], shapes: Iterable[Shape]) -> dict[Any, str]:
    """The symbols in the shapes of placeholders, with the names that stand at their places in `shapes`."""
    return {
        size.node.expr: name
        for node, shape in zip(placeholders, shapes, strict=True)
        for size, name in zip(node.meta["val"].shape, shape, strict=True)
        if isinstance(name, str)
    }


def keep_open(module: GraphModule) -> None:
    """From here on no comparison of sizes fixes a symbol: it is answered by the bounds, else by the traced sizes."""
    next(iter(module.graph.find_nodes(op="placeholder"))).meta["val"].fake_mode.shape_env.freeze()


def resized(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor at another size: its elements cut, or over again. To trace with; never to compare numbers with."""
    for axis, size in enumerate(shape):
        if tensor.shape[axis] != size:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def _put_constant(node: Node, number: int | float) -> None:
    for user in list(node.users):
        user.args, user.kwargs = torch.fx.node.map_arg(
            (user.args, user.kwargs), lambda arg: number if arg is node else arg
        )


aten = torch.ops.aten
# Operations that converters know under one of their names alone. A view holds for one memory layout, a reshape for all.
STANDARD_FORMS = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Not a copy, where the tensor lies in one piece of memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


aten = torch.ops.aten


def _convolve_padded(operation: Callable[..., Tensor], axes: int) -> Callable[..., Tensor]:
    """A convolution with padding="same" or "valid" as one with numbers, which every converter and pass knows."""

    def convolve(
        data: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: str = "valid",
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Tensor:
        strides, dilations = list(stride) * (axes // len(stride)), list(dilation) * (axes // len(dilation))
        total = [
            step * (size - 1) * (padding == "same") for step, size in zip(dilations, weight.shape[2:], strict=True)
        ]
        odd = [amount % 2 for amount in total]
        if any(odd):  # PyTorch puts the odd element at the end
            data = aten.constant_pad_nd(data, [number for extra in reversed(odd) for number in (0, extra)])
        return operation(data, weight, bias, strides, [amount // 2 for amount in total], dilations, groups)

    return convolve


def _mean_of_image(data: Tensor, output_size: Sequence[int]) -> Any:
    """An average over whole images as a mean: some integer kernels of pooling have one scale for input and output."""
    if list(output_size) != [1, 1] and list(output_size) != [1]:
        return NotImplemented
    return data.mean((-2, -1), keepdim=True)


DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable[..., Any]] = {
    aten.conv1d.padding: _convolve_padded(aten.conv1d.default, 1),
    aten.conv2d.padding: _convolve_padded(aten.conv2d.default, 2),
    aten.conv3d.padding: _convolve_padded(aten.conv3d.default, 3),
    aten.adaptive_avg_pool2d.default: _mean_of_image,
}


def _filled(value: float) -> Callable[..., Tensor]:
    def fill(
        like: Tensor,
        size: Sequence[int],
        dtype: torch.dtype | None = None,
        layout: object = None,
        device: object = None,
        pin_memory: object = None,
    ) -> Tensor:
        return torch.full(size, value, dtype=dtype or like.dtype)

    return fill


# Core ML has no operation that takes its dtype from a tensor. With fixed shapes these are folded, with open ones not.
OPEN_DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable[..., Any]] = {
    aten.new_ones.default: _filled(1),
    aten.new_zeros.default: _filled(0),
}


def functional(exported: torch.export.ExportedProgram, *, is_open: bool = False) -> torch.export.ExportedProgram:
    """The same program without in-place operations on its own values. `is_open`: it has open dimensions."""
    table = {**DECOMPOSITIONS, **(OPEN_DECOMPOSITIONS if is_open else {})}
    decomposed: torch.export.ExportedProgram = exported.run_decompositions(table)
    return decomposed


def _listed(output: Node) -> tuple[object, ...]:
    returned = output.args[0]
    assert isinstance(returned, tuple | list), "an exported graph returns a flat sequence"
    return tuple(returned)


def flat_module(exported: torch.export.ExportedProgram) -> GraphModule:
    """The exported graph with its weights as attributes, taking and returning flat tuples of tensors."""
    module = exported.module(check_guards=False)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    for node in list(module.graph.nodes):
        if node.op == "placeholder" and not isinstance(node.meta.get("val"), Tensor) and not node.users:
            module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="call_function", target=aten.copy_.default):
        written = node.args[0]
        if isinstance(written, Node) and written.op == "placeholder" and not node.users:
            module.graph.erase_node(node)  # a write into an input is no result of the model
    output = module.graph.output_node()
    output.args = (tuple(arg for arg in _listed(output) if isinstance(arg, Node)),)
    for node in module.graph.nodes:
        node.target = STANDARD_FORMS.get(node.target, node.target)
    # A new module: the exported one checks its inputs against the nested signature that we took away.
    return GraphModule(module, module.graph)
