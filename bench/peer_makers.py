"""Make one contestant of bench/peers.py: a file from the same PyTorch model, by edgewright or by a runtime's own tools.

    python -m bench.peer_makers MODEL FOLDER                        samples, and what PyTorch makes of them
    python -m bench.peer_makers MODEL program PROGRAM FOLDER        a compressed program, for our files (`program_of`)
    python -m bench.peer_makers MODEL RUNTIME MAKER FOLDER          writes into FOLDER/RUNTIME/MAKER

A quantizer of a runtime starts from the float32 file that the maker "float32" left, with the settings that serve it
best.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peer_models import MODELS, Arrays, PeerModel
from edgewright.pipeline.handover import load_program, save_program
from edgewright.pipeline.unasked import unasked_settings

FLOAT32, PROGRAM = "float32", "program"
STATIC, DYNAMIC = "edgewright w8a8", "edgewright w8a8-dynamic"
CONVOLUTIONS = " with convolutions"
OURS = {
    "onnx": (STATIC, DYNAMIC),
    "openvino": (STATIC, DYNAMIC),
    "tflite": (STATIC, DYNAMIC),
    "coreml": (STATIC,),
}
QUANTIZERS = {
    "onnx": ("quantize_static", "quantize_dynamic"),
    "openvino": ("nncf",),
    "tflite": ("static_wi8_ai8", "dynamic_wi8_afp32"),
    "coreml": ("linear_quantize_weights",),
}
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "tflite": "model.tflite", "coreml": "model.mlpackage"}


def program_of(runtime: str, maker: str) -> str:
    """The compressed program behind one of our files: what a release for that runtime alone gets unasked."""
    return maker + CONVOLUTIONS * (maker == DYNAMIC and unasked_settings([runtime])["convolutions"])


def make(name: str, runtime: str, maker: str, folder: Path) -> None:
    model, target = MODELS[name], folder / runtime / maker
    target.mkdir(parents=True)
    if runtime == PROGRAM:
        _compress(model, maker, target)
    elif maker in OURS[runtime]:
        _lower(folder / PROGRAM / program_of(runtime, maker), runtime, target)
    elif maker == FLOAT32:
        FLOATS[runtime](model.build(), tensors(model.calibration()[0]), target / FILES[runtime])
    else:
        source = folder / runtime / FLOAT32 / FILES[runtime]
        QUANTIZED[runtime](model, maker, source, target / FILES[runtime])


def tensors(sample: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in sample.items()}


def _compress(model: PeerModel, name: str, folder: Path) -> None:
    """Capture and quantize once for all runtimes that get this program."""
    import edgewright as ew

    samples = [tensors(sample) for sample in model.calibration()]
    program = ew.capture(model.build(), samples[0])
    recipe: dict[str, Any] = {"pass": "quantize", "scheme": name.removesuffix(CONVOLUTIONS).removeprefix("edgewright ")}
    if name.endswith(CONVOLUTIONS):
        recipe["convolutions"] = True
    compressed = ew.compress(program, [recipe], batches=samples).program
    save_program(compressed, folder / "program.pt2")
    (folder / "signature.pickle").write_bytes(pickle.dumps((compressed.inputs, compressed.outputs)))


def _lower(source: Path, runtime: str, folder: Path) -> None:
    import edgewright as ew

    signature = pickle.loads((source / "signature.pickle").read_bytes())
    ew.lower(load_program(source / "program.pt2", *signature), runtime, folder)


def _onnx(model: torch.nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    exported = torch.onnx.export(model, kwargs=sample, dynamo=True)
    assert exported is not None, "with dynamo=True"
    exported.save(str(path), external_data=False)


def _openvino(model: torch.nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    import openvino

    converted = openvino.convert_model(
        model, example_input=sample, input=[tuple(value.shape) for value in sample.values()]
    )
    openvino.save_model(converted, str(path), compress_to_fp16=False)


def _tflite(model: torch.nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    import litert_torch

    litert_torch.convert(model, sample_kwargs=sample).export(str(path))


def _coreml(model: torch.nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    import coremltools

    exported = torch.export.export(model, (), sample).run_decompositions({})
    coremltools.convert(exported, minimum_deployment_target=coremltools.target.iOS17).save(str(path))


FLOATS = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite, "coreml": _coreml}


class _Reader:
    """What onnxruntime.quantization asks for: `get_next` gives a sample, then None."""

    def __init__(self, samples: list[Arrays]) -> None:
        self._samples: Iterator[Arrays] = iter(samples)

    def get_next(self) -> Arrays | None:
        return next(self._samples, None)


def _quantize_onnx(model: PeerModel, maker: str, source: Path, path: Path) -> None:
    """Unsigned activations and per-channel weights, behind the preprocessing that its manual asks for."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    if maker == "quantize_dynamic":
        quantize_dynamic(str(prepared), str(path), weight_type=QuantType.QInt8, per_channel=True)
    else:
        quantize_static(
            str(prepared),
            str(path),
            _Reader(model.calibration()),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    prepared.unlink()


def _quantize_openvino(model: PeerModel, maker: str, source: Path, path: Path) -> None:
    import nncf
    import openvino

    samples = model.calibration()
    quantized = nncf.quantize(
        openvino.Core().read_model(str(source)),
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER if model.transformer else None,
    )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)


def _quantize_tflite(model: PeerModel, maker: str, source: Path, path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    chosen = quantizer.Quantizer(str(source), getattr(recipe, maker)())
    result = None
    if chosen.need_calibration:
        interpreter = Interpreter(str(source))
        signature = next(iter(interpreter.get_signature_list()))
        details = interpreter.get_signature_runner(signature).get_input_details()
        samples = [
            {name: value.astype(details[name]["dtype"]) for name, value in sample.items()}
            for sample in model.calibration()
        ]
        result = chosen.calibrate({signature: samples})
    chosen.quantize(result).export_model(str(path))


def _quantize_coreml(model: PeerModel, maker: str, source: Path, path: Path) -> None:
    import coremltools
    import coremltools.optimize.coreml as optimize

    weights = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
    package = coremltools.models.MLModel(str(source), skip_model_load=True)
    optimize.linear_quantize_weights(package, optimize.OptimizationConfig(global_config=weights)).save(str(path))


QUANTIZED: dict[str, Any] = {
    "onnx": _quantize_onnx,
    "openvino": _quantize_openvino,
    "tflite": _quantize_tflite,
    "coreml": _quantize_coreml,
}


def prepare(name: str, folder: Path) -> None:
    """The held-out samples and what PyTorch makes of them in float32, as .npz."""
    model = MODELS[name]
    net, samples = model.build(), model.held_out()
    with torch.no_grad():
        found = [net(**tensors(sample)) for sample in samples]
    outputs = [value if isinstance(value, torch.Tensor) else next(iter(value.values())) for value in found]
    np.savez(folder / "reference.npz", np.stack([output.numpy() for output in outputs]))
    np.savez(folder / "samples.npz", **{key: np.stack([sample[key] for sample in samples]) for key in samples[0]})  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        prepare(sys.argv[1], Path(sys.argv[2]))
    else:
        make(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
