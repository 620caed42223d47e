"""What leaves an accelerator: only what its documents, or the runtime itself, say."""

from __future__ import annotations

import pytest

from edgewright.device_profiles import load_profile, profile_names
from edgewright.device_profiles.placement import delegates, place, place_on
from edgewright.errors import DeviceError
from edgewright.targets.base import Inspection, Operation


def inspection(*operations: tuple[str, str, int], left: tuple[str, ...] | None = None) -> Inspection:
    return Inspection(
        "F",
        tuple(Operation(f"{op}_{place}", op, compute, macs) for place, (op, compute, macs) in enumerate(operations)),
        {},
        left_delegate=left,
    )


def verdicts(found: Inspection, target: str, device: str) -> dict[str, str]:
    return {f"{row.op}/{row.compute}": row.verdict for row in place(found, target, load_profile(device)).rows}


def test_every_delegate_states_its_source_and_known_words() -> None:
    assert {"xnnpack", "tflite-gpu", "edge-tpu", "qnn", "neural-engine"} <= set(delegates())
    for delegate in delegates().values():
        assert len(delegate.source) > 20
        assert delegate.rules


def test_every_delegate_that_names_a_profile_is_found_in_one() -> None:
    named = {runtime.delegate for name in profile_names() for runtime in load_profile(name).runtimes}
    assert {text for delegate in delegates().values() for text in delegate.profiles} <= named


def test_float32_leaves_the_neural_engine_and_float16_is_unknown() -> None:
    found = inspection(("conv", "float32", 10), ("conv", "float16", 20))
    assert verdicts(found, "coreml", "iphone-15-pro") == {"conv/float32": "leaves", "conv/float16": "unknown"}


def test_what_a_document_does_not_name_is_unknown_and_not_guessed() -> None:
    found = inspection(("Conv", "int8", 10), ("Loop", "float32", 0), ("Erf", "float32", 0))
    words = verdicts(found, "onnx", "galaxy-s24")
    assert words == {"Conv/int8": "takes", "Loop/float32": "leaves", "Erf/float32": "unknown"}


def test_a_delegate_without_any_public_list_says_unknown() -> None:
    placement = place(inspection(("CONV_2D", "int8", 10)), "tflite", load_profile("galaxy-s24"))
    assert placement.count("unknown") == 1
    assert "no public list" in placement.source


def test_what_the_runtime_says_here_goes_before_the_documents() -> None:
    asked = inspection(("CONV_2D", "int8", 10), ("GELU", "int8", 0), left=("CONV_2D_0",))
    assert verdicts(asked, "tflite", "pixel-8") == {"CONV_2D/int8": "leaves", "GELU/int8": "takes"}
    read = inspection(("CONV_2D", "int8", 10), ("GELU", "int8", 0))
    assert verdicts(read, "tflite", "pixel-8") == {"CONV_2D/int8": "takes", "GELU/int8": "unknown"}


def test_a_runtime_on_the_cpu_alone_loses_nothing() -> None:
    placement = place(inspection(("Convolution", "float32", 10)), "openvino", load_profile("intel-n100"))
    assert placement.rows == ()
    assert "CPU alone" in placement.source


def test_an_edge_tpu_takes_no_float() -> None:
    placement = place_on(inspection(("CONV_2D", "float32", 7), ("CONV_2D", "int8", 5)), "tflite", "edge-tpu")
    assert (placement.macs("leaves"), placement.macs("takes")) == (7, 5)


def test_a_file_that_the_device_or_delegate_cannot_have_is_refused() -> None:
    with pytest.raises(DeviceError, match="no runtime for coreml"):
        place(inspection(), "coreml", load_profile("pixel-8"))
    with pytest.raises(DeviceError, match="takes tflite files"):
        place_on(inspection(), "onnx", "edge-tpu")
    with pytest.raises(DeviceError, match="unknown delegate"):
        place_on(inspection(), "tflite", "edgetpu")
