"""The machine that edgewright runs on, as a profile: looked at, never written down.

It carries only runtimes that are installed here. Its latencies are measured, so it has no kernels.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from edgewright.device_profiles.load import parse_profile
from edgewright.device_profiles.schema import DeviceProfile
from edgewright.targets import TARGETS, get_target, target_names

CPUINFO = Path("/proc/cpuinfo")

# What the kernel calls a feature, and what we call it.
_FLAGS = {
    "asimd": "neon", "neon": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16",
    "sve": "sve", "sme": "sme", "sse4_2": "sse4.2", "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c":
    "f16c", "avx512f": "avx512f", "avx512_vnni": "vnni", "avx_vnni": "vnni", "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16", "amx_bf16": "amx_bf16", "amx_int8": "amx_int8",
}  # fmt: skip

_MEASURED = "measured: Linux x86-64, Python, MobileNetV2 and ResNet-50, float32 and int8, one thread"


@dataclass(frozen=True)
class _Known:
    """A runtime that may be installed, and how much memory it was measured to take (schema.MemoryModel)."""

    distribution: str
    name: str
    delegate: str
    format: tuple[str, int]
    base_mb: float
    weight_copies: float
    activation_copies: float


_RUNTIMES = {
    "onnx": _Known("onnxruntime", "ONNX Runtime", "CPUExecutionProvider", ("opset", 21), 35, 2.4, 1.4),
    "openvino": _Known("openvino", "OpenVINO", "CPU", ("ir", 11), 85, 1.95, 0.65),
    "tflite": _Known("ai-edge-litert", "LiteRT", "XNNPACK", ("schema", 3), 17, 2.2, 1.1),
}


@cache
def detect_host() -> DeviceProfile:
    """Look at this machine: processor, instruction set, cores, memory, installed runtimes."""
    return parse_profile(_describe(_cpuinfo(CPUINFO)), "this machine, as detected")


def _describe(cpu: dict[str, str]) -> dict[str, Any]:
    """The profile's content; every figure says that it was detected."""
    ram_mb = psutil.virtual_memory().total / 1e6
    model = cpu.get("model name") or cpu.get("Hardware") or platform.processor() or platform.machine()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    features = sorted({_FLAGS[flag] for flag in flags if flag in _FLAGS})
    core_set: dict[str, Any] = {
        "name": "cores",
        "count": _cores(),
        "source": "detected: usable by this process",
    }
    return {
        "id": "host",
        "name": f"this host ({platform.system()} {platform.machine()})",
        "soc": model,
        "is_host": True,
        "isa": {
            "features": features,
            "source": f"detected: {CPUINFO}" if flags else "detected: nothing is listed",
        },
        "core_sets": [core_set | _clock(cpu)],
        "memory": {
            "ram_mb": {"value": ram_mb, "source": "detected: psutil.virtual_memory().total"},
            "app_budget_mb": {
                "value": ram_mb / 2,
                "source": "detected: half of the memory, so that the rest can run",
            },
        },
        "runtimes": [*(runtime for target in _RUNTIMES if (runtime := _runtime(target)) is not None), *_plugged()],
    }


def _cpuinfo(file: Path) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where the system has none."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _cores() -> int:
    """Cores that this process may use: a container often sees more than it is given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _clock(cpu: dict[str, str]) -> dict[str, Any]:
    """Nothing where neither /proc/cpuinfo nor the system tells: a missing fact is not invented."""
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    mhz = (frequency.max or frequency.current) if frequency else float(cpu.get("cpu MHz", 0))
    return {"ghz": {"value": mhz / 1e3, "source": "detected: psutil.cpu_freq or /proc/cpuinfo"}} if mhz else {}


def _runtime(target: str) -> dict[str, Any] | None:
    known = _RUNTIMES[target]
    try:
        version = metadata.version(known.distribution)
    except metadata.PackageNotFoundError:
        return None
    name, newest = known.format
    return {
        "target": target,
        "runtime": known.name,
        "versions": [version],
        "format": {"name": name, "value": newest, "source": "what edgewright writes, and this runtime opens"},
        "units": ["cpu"],
        "delegate": known.delegate,
        "threads": _cores(),
        "memory": {
            "base_mb": {"value": known.base_mb, "source": _MEASURED},
            "weight_copies": {"value": known.weight_copies, "source": _MEASURED},
            "activation_copies": {"value": known.activation_copies, "source": _MEASURED},
            "spread": {"value": 1.5, "source": "estimate: the nets measured lie within 1.17"},
        },
    }


def _plugged() -> Iterator[dict[str, Any]]:
    """Runtimes of installed targets from entry points: they are run and measured here, and nothing is known of them."""
    for name in target_names():
        modules = get_target(name).modules
        if name in TARGETS or any(importlib.util.find_spec(module) is None for module in modules):
            continue
        distribution = metadata.packages_distributions()[modules[0]][0]
        yield {
            "target": name,
            "runtime": distribution,
            "versions": [metadata.version(distribution)],
            "units": ["cpu"],
            "delegate": "as the target opens it",
            "threads": _cores(),
        }
