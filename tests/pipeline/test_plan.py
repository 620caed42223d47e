"""What a release's targets decide about its passes, before the work starts."""

from __future__ import annotations

from typing import Any

import pytest

from edgewright.errors import EdgewrightError
from edgewright.pipeline.plan import make_plan
from edgewright.pipeline.release import Release
from tests.small_release import ALL_TARGETS

STEP = {"pass": "quantize", "scheme": "w4g32"}


def release(targets: tuple[str, ...], *steps: dict[str, Any]) -> Release:
    content = {
        "name": "tiny",
        "model": {"source": "os.path:join", "inputs": [{"name": "x", "shape": [1, 16]}]},
        "calibration": {"data": "x.npz"},
        "compress": list(steps),
        "deliver": [{"device": ALL_TARGETS[target], "target": target} for target in targets],
    }
    return Release.model_validate(content)


def settings_of(planned: Release, setting: str = "signed_scales") -> dict[str, bool]:
    return {step.name: getattr(step, setting) for step in make_plan(planned).passes if hasattr(step, setting)}


def test_scales_are_signed_where_every_target_of_the_release_takes_them() -> None:
    steps = {"pass": "scale-salient-channels"}, {"pass": "mix-precision"}, STEP
    names = ("scale-salient-channels", "mix-precision", "quantize-weights")
    assert settings_of(release(("onnx", "openvino", "coreml"), *steps)) == dict.fromkeys(names, True)
    assert settings_of(release(("onnx", "tflite"), *steps)) == dict.fromkeys(names, False)


def test_a_recipe_that_says_which_scales_it_wants_gets_them() -> None:
    assert settings_of(release(("onnx",), {**STEP, "signed_scales": False})) == {"quantize-weights": False}
    progressive = {"pass": "quantize-progressively", "scheme": "w4", "signed_scales": True, "least_db": 20}
    assert settings_of(release(("openvino",), progressive)) == {"quantize-progressively": True}


def test_signed_scales_are_refused_for_a_target_without_kernels_for_them() -> None:
    wanted = r"deliver.1: tflite has no kernels for weights with scales below 0\s+got: signed_scales = true"
    with pytest.raises(EdgewrightError, match=wanted):
        make_plan(release(("onnx", "tflite"), {**STEP, "signed_scales": True}))


DYNAMIC = {"pass": "quantize", "scheme": "w8a8-dynamic"}


def test_what_convolutions_read_is_rounded_where_every_target_of_the_release_does_it() -> None:
    progressive = {"pass": "quantize-progressively", "scheme": "w8a8-dynamic", "least_db": 20}
    names = ("quantize-dynamic", "quantize-progressively")
    assert settings_of(release(("tflite",), DYNAMIC, progressive), "convolutions") == dict.fromkeys(names, True)
    assert settings_of(release(("tflite", "onnx"), DYNAMIC), "convolutions") == {"quantize-dynamic": False}
    asked = {**DYNAMIC, "convolutions": False}
    assert settings_of(release(("tflite",), asked), "convolutions") == {"quantize-dynamic": False}


def test_rounded_convolutions_are_refused_for_a_target_without_kernels_for_them() -> None:
    wanted = r"deliver.1: openvino has no kernels for convolutions of activations .*\s+got: convolutions = true"
    with pytest.raises(EdgewrightError, match=wanted):
        make_plan(release(("tflite", "openvino"), {**DYNAMIC, "convolutions": True}))
