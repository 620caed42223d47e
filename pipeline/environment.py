"""The tools and the machine that a release was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from edgewright import __version__

if TYPE_CHECKING:
    from edgewright.pipeline.plan import Plan

DISTRIBUTIONS = {
    "coremltools": ("coremltools",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime",),
    "onnxscript": ("onnxscript",),
    "openvino": ("openvino",),
    "litert_torch": ("litert-torch",),
    "litert_converter": ("litert-converter",),
    "ai_edge_litert": ("ai-edge-litert",),
}
CORE = ("torch", "torchao", "numpy", "safetensors")


def versions_of(plan: Plan) -> dict[str, str]:
    """Versions of edgewright, of Python, and of every package that made the artifacts."""
    names = [
        name
        for delivery in plan.deliveries
        for module in delivery.target.modules
        for name in DISTRIBUTIONS.get(module, (module,))
    ]
    return {"edgewright": __version__, "python": platform.python_version()} | installed_versions((*CORE, *names))


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> version, sorted; what is not installed is left out."""
    found = {}
    for name in sorted(set(names)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_host() -> str:
    """One line on this machine: processor, cores, system."""
    from edgewright.device_profiles import load_profile

    profile = load_profile("host")
    return f"{profile.soc}, {platform.system()} {platform.machine()}"
