"""Rounding that training goes through: it teaches the weights before it, and its own scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase
from torchao.quantization.pt2e.observer import ObserverBase

from edgewright.pipeline.passes.observe_values import PerTensorObserver


class LearnedScale(FakeQuantizeBase):  # type: ignore[misc]  # torchao has no types
    """x -> (clamp(round(x / s) + z, low, high) - z) * s, as the converted graph computes it.

    Gradients: of x, that of the result where it is not clamped, else 0. Of s, summed over what shares it,
    round(x / s) - x / s where it is not clamped, else low - z or high - z. Zero points stay: at ReLUs, masks and
    matrix products they are what runtimes rely on.

    What is learned is t in s = s_0 * exp(t), so that s stays positive and one learning rate fits scales of any size
    (Jain 2019, arXiv:1903.08066, section 3.2). The paper's factor 1 / sqrt(N * high) on the gradient is left out: Adam
    divides it away.

    Args:
        observer: calibrated; gives s_0, z and the integers.
        learns: False keeps s.
    Source: Esser 2020, arXiv:1902.08153, section 2.1.
    """

    def __init__(self, observer: ObserverBase, *, learns: bool) -> None:
        super().__init__()
        self.dtype, self.qscheme = observer.dtype, observer.qscheme
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max
        self.ch_axis = getattr(observer, "ch_axis", None)
        scale, zero_point = observer.calculate_qparams()
        self.register_buffer("start", scale.detach().float().reshape(-1))
        self.register_buffer("zero_point", zero_point.reshape(-1))
        assert len(zero_point.unique()) == 1, "channels have symmetric encodings"
        # Counted from the zero point: with one below 0, PyTorch's kernel for tensors clamps a step beside.
        self.lowest, self.highest = (limit - int(self.zero_point[0]) for limit in (self.quant_min, self.quant_max))
        self.register_buffer("zeros", torch.zeros_like(self.start))
        self.growth = nn.Parameter(torch.zeros_like(self.start), requires_grad=learns)
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def scale(self) -> Tensor:
        scale: Tensor = self.start * self.growth.exp()
        return scale

    def hold(self, weight: Tensor) -> None:
        """Round a constant now, for all samples of a step; `release` hands on what they made of its gradient."""
        rounded = self.round(weight)
        self._held = rounded, rounded.detach().requires_grad_(rounded.requires_grad)

    def release(self) -> None:
        assert self._held is not None, "held before"
        (rounded, given), self._held = self._held, None
        if given.grad is not None:
            rounded.backward(given.grad)  # type: ignore[no-untyped-call]

    def forward(self, values: Tensor) -> Tensor:
        return self._held[1] if self._held else self.round(values)

    def round(self, values: Tensor) -> Tensor:
        if self.ch_axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(
                values, self.scale, self.zeros, self.lowest, self.highest, 1.0
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            values, self.scale, self.zeros, self.ch_axis, self.lowest, self.highest, 1.0
        )

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale, float32, and zero point, int64, of shape (1,) or (channels,): what PT2E stores."""
        return self.scale.detach(), self.zero_point


def rounded_constants(prepared: GraphModule) -> list[tuple[LearnedScale, str]]:
    """The roundings that read nothing but one constant, each with its name."""
    read: dict[LearnedScale, set[str]] = {}
    for node in prepared.graph.nodes:
        rounding = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(rounding, LearnedScale):
            source = node.all_input_nodes[0]
            read.setdefault(rounding, set()).add(str(source.target) if source.op == "get_attr" else "")
    return [(rounding, name) for rounding, names in read.items() for name in names if name and len(names) == 1]


def learn_scales(
    prepared: GraphModule, learns: Callable[[Node], bool], device: torch.device
) -> dict[str, nn.Parameter]:
    """Put a LearnedScale where each calibrated observer stands; a shared one stays so.

    Args:
        learns: which layers train; a scale learns where a layer does that it belongs to.
    Returns:
        What is to be trained, by the name of the first module.
    """
    places: dict[ObserverBase, list[Node]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            observer = prepared.get_submodule(str(node.target))
            if isinstance(observer, ObserverBase):
                places.setdefault(observer, []).append(node)
    learned = {}
    for observer, nodes in places.items():
        sources = [node.all_input_nodes[0] for node in nodes]
        layers = [user for node in nodes for user in node.users] if sources[0].op == "get_attr" else sources
        free = isinstance(observer, PerTensorObserver) and any(map(learns, layers))
        scale = LearnedScale(observer, learns=free).to(device)
        for node in nodes:
            prepared.set_submodule(str(node.target), scale)
        if free:
            learned[str(nodes[0].target)] = scale.growth
    return learned
