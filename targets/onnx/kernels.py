"""Which operations multiply, in what, and how often."""

from __future__ import annotations

from math import prod

from edgewright.targets.accounting import convolution_macs, matmul_macs, transposed_convolution_macs

# Kernels of ONNX Runtime that multiply in integers, with the place of the weight among their inputs.
INTEGER_KERNELS = {
    "QLinearConv": 3,
    "ConvInteger": 1,
    "QLinearMatMul": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,  # at its default accuracy level, each row of activations is rounded to 8 bits
    "QGemm": 3,
    "QAttention": 1,
}
FLOAT_KERNELS = {
    "Conv": 1,
    "FusedConv": 1,
    "ConvTranspose": 1,
    "MatMul": 1,
    "Gemm": 1,
    "FusedMatMul": 1,
    "FusedGemm": 1,
}


def product_macs(op: str, data: list[int], weight: list[int], output: list[int]) -> int:
    if not weight or not output:
        return 0
    if op == "ConvTranspose":
        return transposed_convolution_macs(data, weight)
    if "Conv" in op:
        return convolution_macs(output, weight)
    inner = prod(weight) * prod(output[:-1]) // prod(weight[:-2]) if len(weight) >= 2 else prod(output)
    return matmul_macs(data, output) if len(data) >= 2 and "Gemm" not in op else inner
