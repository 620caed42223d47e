"""This machine as a profile."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from edgewright.device_profiles import host, load_profile
from edgewright.device_profiles.load import parse_profile
from edgewright.device_profiles.predict import predict_latency_ms, predict_peak_bytes
from edgewright.errors import DeviceError
from edgewright.targets import TARGETS
from edgewright.targets.base import Inspection

EMPTY = Inspection("ONNX", (), {"float32": 1_000_000})


def test_host_is_what_this_machine_is() -> None:
    profile = load_profile("host")
    assert profile.is_host
    assert profile.memory.ram_mb.value == pytest.approx(psutil.virtual_memory().total / 1e6)
    assert sum(core_set.count for core_set in profile.core_sets) <= (os.cpu_count() or 1)
    assert profile.memory.ram_mb.source.startswith("detected")


def test_host_carries_only_runtimes_that_are_installed() -> None:
    for runtime in load_profile("host").runtimes:
        known = host._RUNTIMES.get(runtime.target)
        assert runtime.versions == (metadata.version(known.distribution if known else runtime.runtime),)


def test_host_carries_installed_targets_from_entry_points_without_a_memory_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "TARGETS", {name: where for name, where in TARGETS.items() if name != "onnx"})
    monkeypatch.setattr(host, "_RUNTIMES", {})
    runtimes = {runtime["target"]: runtime for runtime in host._describe({})["runtimes"]}
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("no runtime plays the plug-in")
    profile = parse_profile(host._describe({}), "a host with onnx as a plug-in")
    assert runtimes["onnx"]["versions"] == [metadata.version(runtimes["onnx"]["runtime"])]
    assert "onnx" in profile.targets and "tflite" not in profile.targets
    with pytest.raises(DeviceError, match="no memory model for onnx"):
        predict_peak_bytes(EMPTY, profile, "onnx")


def test_host_reads_the_instruction_set_from_cpuinfo(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor : 0\nmodel name\t: Some CPU\nflags\t\t: sse4_2 avx2 avx_vnni fma\n\nprocessor : 1\n",
        encoding="utf-8",
    )
    content = host._describe(host._cpuinfo(file))
    assert content["soc"] == "Some CPU"
    assert content["isa"]["features"] == ["avx2", "fma", "sse4.2", "vnni"]


def test_host_reads_arm_features_too(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm\n", encoding="utf-8")
    content = host._describe(host._cpuinfo(file))
    assert content["isa"]["features"] == ["dotprod", "fp16", "i8mm", "neon"]


def test_host_without_cpuinfo_still_has_a_profile(tmp_path: Path) -> None:
    content = host._describe(host._cpuinfo(tmp_path / "none"))
    assert content["isa"]["features"] == []
    assert content["soc"]


def test_latency_on_the_host_is_never_predicted() -> None:
    profile = load_profile("host")
    for target in profile.targets:
        with pytest.raises(DeviceError, match="measured, not predicted"):
            predict_latency_ms(EMPTY, profile, target)


def test_peak_memory_on_the_host_is_known_before_load() -> None:
    profile = load_profile("host")
    for target in set(profile.targets) & set(host._RUNTIMES):
        assert predict_peak_bytes(EMPTY, profile, target).low > EMPTY.bytes_by_dtype["float32"]


def test_importing_profiles_imports_neither_torch_nor_a_runtime() -> None:
    script = (
        "import sys, edgewright.device_profiles, edgewright.device_profiles.predict\n"
        "edgewright.device_profiles.load_profile('host')\n"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'coremltools') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
