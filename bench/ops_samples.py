"""Which operators are replayed, and the samples of each: PyTorch's own, as small modules.

Source: torch.testing._internal.common_methods_invocations.op_db (the OpInfo database of PyTorch's own tests).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

SEED = 0
MOST_CONSIDERED = 200  # of one database entry and dtype: some generators never tire
SHARES = {"float32": 1.0, "int64": 1 / 3, "int32": 1 / 3, "bool": 1 / 3}  # of the samples asked for, by dtype

# Core operators that the database has only as the functions that become them.
STAND_INS: dict[str, tuple[str, ...]] = {
    "_adaptive_avg_pool2d": ("nn_functional_adaptive_avg_pool2d",),
    "_adaptive_avg_pool3d": ("nn_functional_adaptive_avg_pool3d",),
    "_cdist_forward": ("cdist",),
    "_embedding_bag": ("nn_functional_embedding_bag",),
    "_fft_c2r": ("fft_irfft",),
    "_fft_r2c": ("fft_rfft",),
    "_local_scalar_dense": ("item",),
    "_log_softmax": ("log_softmax",),
    "_native_batch_norm_legit_no_training": ("nn_functional_batch_norm",),
    "_pdist_forward": ("nn_functional_pdist",),
    "_softmax": ("softmax",),
    "_to_copy": ("to",),
    "adaptive_avg_pool1d": ("nn_functional_adaptive_avg_pool1d",),
    "alias": ("alias_copy",),
    "convolution": tuple(f"nn_functional_conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)),
    "elu": ("nn_functional_elu", "nn_functional_celu", "nn_functional_selu"),
    "embedding": ("nn_functional_embedding",),
    "index": ("__getitem__",),
    "max_pool2d_with_indices": ("nn_functional_max_pool2d",),
    "max_pool3d_with_indices": ("nn_functional_max_pool3d",),
    "native_dropout": ("nn_functional_dropout",),
    "reflection_pad1d": ("nn_functional_pad_reflect",),
    "reflection_pad2d": ("nn_functional_pad_reflect",),
    "reflection_pad3d": ("nn_functional_pad_reflect",),
    "replication_pad2d": ("nn_functional_pad_replicate", "nn_functional_pad_replicate_negative"),
    "replication_pad3d": ("nn_functional_pad_replicate", "nn_functional_pad_replicate_negative"),
    "upsample_bilinear2d": ("nn_functional_interpolate_bilinear", "nn_functional_upsample_bilinear"),
    "upsample_nearest2d": ("nn_functional_interpolate_nearest", "nn_functional_upsample_nearest"),
}


def _all_differ(sample: Any) -> bool:
    """PyTorch leaves the order of equal elements open."""
    return bool(sample.input.unique().numel() == sample.input.numel())


# Which samples of a database entry belong to the operator, where not all do.
BELONGS: dict[str, Callable[[Any], bool]] = {
    "_native_batch_norm_legit_no_training": lambda sample: not sample.kwargs.get("training", False),
    "native_dropout": lambda sample: not sample.kwargs.get("training", True),
    "sort": _all_differ,
    "topk": _all_differ,
    "upsample_nearest2d": lambda sample: sample.input.dim() == 4,
} | {
    f"{kind}_pad{axes}d": (lambda sample, length=2 * axes: len(sample.args[0]) == length)
    for kind in ("reflection", "replication")
    for axes in (1, 2, 3)
}
# Where the later tensors are what a layer learns: constants of the module, as they are in models.
LAYERS = frozenset(
    {
        "_embedding_bag",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "convolution",
        "native_group_norm",
        "native_layer_norm",
    }
)
GRADIENTS, UNSET, RANDOM = "gradients, which no inference computes", "uninitialized values", "random values"
LEFT_OUT = {
    "_adaptive_avg_pool2d_backward": GRADIENTS,
    "avg_pool2d_backward": GRADIENTS,
    "col2im": "no samples in the database",
    "convolution_backward": GRADIENTS,
    "copy": "no samples in the database",
    "embedding_dense_backward": GRADIENTS,
    "empty": UNSET,
    "empty_strided": UNSET,
    "max_pool2d_with_indices_backward": GRADIENTS,
    "native_group_norm_backward": GRADIENTS,
    "native_layer_norm_backward": GRADIENTS,
    "nonzero": "its size depends on values: refused at capture",
    "rand": RANDOM,
    "randn": RANDOM,
    "randperm": RANDOM,
    "resize_": UNSET,
} | {f"sym_{name}": "sizes, no tensors" for name in ("is_contiguous", "numel", "size", "storage_offset", "stride")}


@dataclass(frozen=True)
class Case:
    """One sample of one operator: the `place`-th of a database entry in a dtype."""

    operator: str
    entry: str
    dtype: str
    place: int

    def __str__(self) -> str:
        return f"{self.operator}: {self.entry} {self.dtype} #{self.place}"


class Call(nn.Module):
    """An operator as a model: it takes the sample's tensors and closes over its other arguments."""

    def __init__(self, function: Callable[..., Any], sample: Any, *, learned: bool) -> None:
        super().__init__()
        leaves, self.structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        self.function, self.leaves = function, list(leaves)
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if learned:
            for place in self.places[1:]:
                self.register_buffer(f"constant_{place}", leaves[place].contiguous())
                self.leaves[place] = getattr(self, f"constant_{place}")
            self.places = self.places[:1]

    def forward(self, *tensors: Tensor) -> Any:
        """A sample without tensors gets one: a model has an input; its negative is one more output."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=False):
            leaves[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        if self.places:
            return self.function(first, *args, **kwargs)
        return self.function(first, *args, **kwargs), -tensors[0]

    def inputs(self) -> tuple[Tensor, ...]:
        """The sample's own tensors, as a caller hands them over: contiguous."""
        own = tuple(self.leaves[place].detach().clone(memory_format=torch.contiguous_format) for place in self.places)
        return own or (torch.ones(2),)


@functools.cache
def entries() -> dict[str, Any]:
    """The database by formatted name. (Importing it takes ten seconds.)"""
    from torch.testing._internal.common_methods_invocations import op_db

    return {entry.formatted_name: entry for entry in op_db}


@functools.cache
def core_operators() -> tuple[str, ...]:
    """All core ATen operators by name, whatever their overloads."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == "aten" and hasattr(torch.ops.aten, name):
            overload = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default", None)
            if overload is not None and torch.Tag.core in overload.tags:
                found.add(name)
    return tuple(sorted(found))


def replayed_operators() -> tuple[str, ...]:
    return tuple(name for name in core_operators() if name not in LEFT_OUT)


def entries_of(operator: str) -> tuple[str, ...]:
    """The database entries of an operator, by formatted name."""
    own = (name for name, entry in entries().items() if operator in (entry.aten_name, entry.name))
    return STAND_INS.get(operator) or tuple(own)


def cases_of(operator: str, samples: int) -> tuple[Case, ...]:
    """Up to `samples` distinct samples in float32 and fewer in the integer dtypes, spread over what there is.

    An operator with several database entries has at least one sample of each. Samples with empty tensors, or that
    give none but empty ones, are left out: TFLite and Core ML have none.
    """
    found = []
    names = entries_of(operator)
    for entry in names:
        for dtype, share in SHARES.items():
            places = _distinct_places(operator, entry, dtype)
            wanted = min(len(places), max(1, round(samples * share / len(names))))
            found += [Case(operator, entry, dtype, places[turn * len(places) // wanted]) for turn in range(wanted)]
    return tuple(found)


def module_of(case: Case) -> Call:
    """The module of a case: the same in every process."""
    sample = _samples(case.entry, case.dtype)[case.place]
    return Call(entries()[case.entry].op, sample, learned=case.operator in LAYERS)


def _distinct_places(operator: str, entry: str, dtype: str) -> list[int]:
    belongs = BELONGS.get(operator, lambda sample: True)
    seen: dict[str, int] = {}
    for place, sample in enumerate(_samples(entry, dtype)):
        parts = (sample.input, sample.args, sample.kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(parts) if isinstance(leaf, Tensor)]
        if belongs(sample) and all(tensor.numel() for tensor in tensors):
            seen.setdefault(repr(pytree.tree_map_only(Tensor, lambda t: (t.dtype, tuple(t.shape)), parts)), place)
    return [place for place in seen.values() if _gives_values(Case(operator, entry, dtype, place))]


def _gives_values(case: Case) -> bool:
    module = module_of(case)
    try:
        with torch.no_grad():
            returned = module(*module.inputs())
    except RuntimeError:  # as_strided beyond its tensor, which is a part of another one in the database
        return False
    return all(leaf.numel() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor))


@functools.lru_cache(maxsize=8)
def _samples(entry: str, dtype: str) -> tuple[Any, ...]:
    """The first samples of an entry, none where it does not know the dtype."""
    info, kind = entries()[entry], getattr(torch, dtype)
    if kind not in info.dtypes:
        return ()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    return tuple(islice(info.sample_inputs("cpu", kind), MOST_CONSIDERED))
