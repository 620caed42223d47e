"""Which version of each operator a runtime has: a file opens where every one of its operators is known.

Measured, release by release, with files of a single operator code: a runtime that lacks it says so while it opens
them. Versions of an operator have no gaps, so the newest says it all; no release lost one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from edgewright.errors import TargetError
from edgewright.targets.base import release_of

# Of each release, oldest first: the newest version of the operators that are newer than in the release before.
# fmt: off
RELEASES: tuple[tuple[str, str, Mapping[int, str]], ...] = (
    ("tflite", "2.14", {
        1: (
            "ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS "
            "CONV_3D CONV_3D_TRANSPOSE COS CUMSUM DENSIFY DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP_SPARSE "
            "EXPAND_DIMS FLOOR HARD_SWISH HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE "
            "IF IMAG L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION "
            "MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT POW "
            "PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY RELU_0_TO_1 "
            "RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN "
            "SKIP_GRAM SQRT SQUARE UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD "
            "UNSORTED_SEGMENT_SUM VAR_HANDLE WHILE ZEROS_LIKE"
        ),
        2: (
            "DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL "
            "LOG_SOFTMAX RANGE REDUCE_PROD RSQRT SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE SUM "
            "WHERE"
        ),
        3: (
            "ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO "
            "EMBEDDING_LOOKUP FLOOR_DIV GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD NOT_EQUAL QUANTIZE "
            "REDUCE_MAX REDUCE_MIN RELU RELU6 REVERSE_V2 RNN SOFTMAX SPARSE_TO_DENSE TANH TILE TOPK_V2 "
            "UNIDIRECTIONAL_SEQUENCE_RNN"
        ),
        4: (
            "BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION EQUAL FILL GATHER_ND LSTM MAXIMUM MINIMUM PACK PAD PADV2 "
            "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SPACE_TO_BATCH_ND SPLIT SVDF TRANSPOSE_CONV "
            "UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK"
        ),
        5: (
            "ABS ADD CAST DEQUANTIZE SUB"
        ),
        6: (
            "GATHER SLICE TRANSPOSE"
        ),
        7: (
            "CONV_2D DEPTHWISE_CONV_2D MUL"
        ),
        8: (
            "STRIDED_SLICE"
        ),
        10: (
            "FULLY_CONNECTED"
        ),
    }),
    ("tflite", "2.17", {
        1: (
            "DILATE REDUCE_WINDOW STABLEHLO_ADD STABLEHLO_GATHER STABLEHLO_MAXIMUM STABLEHLO_MINIMUM "
            "STABLEHLO_MULTIPLY STABLEHLO_PAD STABLEHLO_REDUCE_WINDOW STABLEHLO_RNG_BIT_GENERATOR STABLEHLO_SCATTER"
        ),
        2: (
            "LOG"
        ),
        3: (
            "RSQRT"
        ),
        5: (
            "GATHER_ND TRANSPOSE_CONV"
        ),
        6: (
            "CAST"
        ),
        7: (
            "GATHER"
        ),
        8: (
            "CONV_2D"
        ),
        12: (
            "FULLY_CONNECTED"
        ),
    }),
    ("ai-edge-litert", "1.0.1", {
        1: (
            "STABLEHLO_COMPOSITE"
        ),
        2: (
            "DYNAMIC_UPDATE_SLICE"
        ),
        4: (
            "EMBEDDING_LOOKUP"
        ),
        6: (
            "DEQUANTIZE"
        ),
        13: (
            "FULLY_CONNECTED"
        ),
    }),
    ("ai-edge-litert", "1.1.2", {
        1: (
            "STABLEHLO_AND STABLEHLO_CASE STABLEHLO_SHIFT_LEFT"
        ),
        3: (
            "DYNAMIC_UPDATE_SLICE"
        ),
        7: (
            "CAST"
        ),
    }),
    ("ai-edge-litert", "1.2.0", {
        7: (
            "TRANSPOSE"
        ),
    }),
    ("ai-edge-litert", "1.4.0", {
        4: (
            "DYNAMIC_UPDATE_SLICE"
        ),
    }),
    ("ai-edge-litert", "2.0.3", {
        2: (
            "SQRT"
        ),
        5: (
            "PAD PADV2"
        ),
    }),
    ("ai-edge-litert", "2.1.0", {
        4: (
            "NOT_EQUAL QUANTIZE"
        ),
        5: (
            "EQUAL"
        ),
        7: (
            "DEQUANTIZE SLICE"
        ),
        8: (
            "CAST"
        ),
        14: (
            "FULLY_CONNECTED"
        ),
    }),
    ("ai-edge-litert", "2.3.0", {
        2: (
            "COS SIN"
        ),
        3: (
            "GELU SPLIT_V"
        ),
        4: (
            "BROADCAST_TO REVERSE_V2 SOFTMAX"
        ),
        5: (
            "EMBEDDING_LOOKUP FILL PACK SPLIT"
        ),
        6: (
            "ADD DYNAMIC_UPDATE_SLICE GATHER_ND PAD PADV2 QUANTIZE UNPACK"
        ),
        7: (
            "CONCATENATION"
        ),
        8: (
            "GATHER MUL SLICE"
        ),
        9: (
            "CAST DEQUANTIZE TRANSPOSE"
        ),
    }),
)
# fmt: on


@cache
def _first_releases() -> Mapping[tuple[str, int], int]:
    """(operator, version) -> place of the first release that has it."""
    found: dict[tuple[str, int], int] = {}
    for place, (_, _, changes) in enumerate(RELEASES):
        for newest, names in changes.items():
            for name in names.split():
                for version in range(newest, 0, -1):
                    found.setdefault((name, version), place)
    return found


def needed_minimum(content: bytes) -> dict[str, str]:
    """The oldest runtime, by name, that has every operator of a file; empty where not even the newest known has."""
    places = [place for _, _, place in _operators(content)]
    if not all(place < len(RELEASES) for place in places):
        return {}
    name, version, _ = RELEASES[max(places, default=0)]
    return {name: version}


def refuse_newer(content: bytes, minimum: Mapping[str, str]) -> None:
    """Raise TargetError where a file needs a newer runtime than `minimum`, with every operator at fault."""
    allowed = max(
        place
        for place, (name, version, _) in enumerate(RELEASES)
        if name in minimum and release_of(version) <= release_of(minimum[name])
    )
    newer = sorted({(name, version) for name, version, place in _operators(content) if place > allowed})
    if newer:
        needed = needed_minimum(content)
        raise TargetError(
            "the model needs operators that " + " ".join(RELEASES[allowed][:2]) + " does not have",
            got=", ".join(f"{name} version {version}" for name, version in newer),
            expected="at least " + " ".join(*needed.items()) if needed else None,
            do="name a newer runtime as the oldest, or change the layer behind these operators",
        )


def _operators(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Every builtin operator code of a file: its name, its version, the place of the first release that has it."""
    from ai_edge_litert import schema_py_generated as schema

    kinds: dict[int, str] = {value: key for key, value in vars(schema.BuiltinOperator).items() if key.isupper()}
    model: Any = schema.Model.GetRootAs(content, 0)
    for place in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(place)
        name = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name != "CUSTOM":
            yield name, code.Version(), _first_releases().get((name, code.Version()), len(RELEASES))
