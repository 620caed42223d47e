"""A recipe (a list of tables, or a TOML file with [[compress]]) becomes passes in order."""

from __future__ import annotations

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from edgewright.errors import RecipeError, did_you_mean
from edgewright.pipeline.encoding import DYNAMIC, PALETTES, WEIGHT_ONLY, Scheme
from edgewright.pipeline.passes.base import Pass

Recipe = str | Path | Sequence[Mapping[str, Any]]

PASSES = {
    "add-before-cat": "edgewright.pipeline.passes.add_before_cat:AddBeforeCat",
    "balance-outputs": "edgewright.pipeline.passes.balance_outputs:BalanceOutputs",
    "convert-floats": "edgewright.pipeline.passes.convert_floats:ConvertFloats",
    "decompose-attention": "edgewright.pipeline.passes.decompose_attention:DecomposeAttention",
    "drop-expansions": "edgewright.pipeline.passes.drop_expansions:DropExpansions",
    "drop-identities": "edgewright.pipeline.passes.drop_identities:DropIdentities",
    "equalize-layers": "edgewright.pipeline.passes.equalize_layers:EqualizeLayers",
    "fold-batchnorm": "edgewright.pipeline.passes.fold_batchnorm:FoldBatchnorm",
    "fold-constants": "edgewright.pipeline.passes.fold_constants:FoldConstants",
    "fold-scales": "edgewright.pipeline.passes.fold_scales:FoldScales",
    "guard-masked-rows": "edgewright.pipeline.passes.guard_masked_rows:GuardMaskedRows",
    "linear-products": "edgewright.pipeline.passes.linear_products:LinearProducts",
    "lower-ranks": "edgewright.pipeline.passes.lower_ranks:LowerRanks",
    "mix-precision": "edgewright.pipeline.passes.mix_precision:MixPrecision",
    "move-patches": "edgewright.pipeline.passes.move_patches:MovePatches",
    "palettize-weights": "edgewright.pipeline.passes.palettize_weights:PalettizeWeights",
    "quantize-dynamic": "edgewright.pipeline.passes.quantize_dynamic:QuantizeDynamic",
    "quantize-progressively": "edgewright.pipeline.passes.quantize_progressively:QuantizeProgressively",
    "quantize-static": "edgewright.pipeline.passes.quantize_static:QuantizeStatic",
    "quantize-weights": "edgewright.pipeline.passes.quantize_weights:QuantizeWeights",
    "round-biases": "edgewright.pipeline.passes.round_biases:RoundBiases",
    "scale-salient-channels": "edgewright.pipeline.passes.scale_salient_channels:ScaleSalientChannels",
    "select-parts": "edgewright.pipeline.passes.select_parts:SelectParts",
    "smooth-activations": "edgewright.pipeline.passes.smooth_activations:SmoothActivations",
    "train-quantized": "edgewright.pipeline.passes.train_quantized:TrainQuantized",
    "unroll-recurrence": "edgewright.pipeline.passes.unroll_recurrence:UnrollRecurrence",
}
# What every program gets first, compressed or not.
CLEAN = (
    "drop-identities",
    "fold-constants",
    "fold-batchnorm",
    "linear-products",
    "fold-scales",
    "add-before-cat",
    "move-patches",
    "guard-masked-rows",
    "lower-ranks",
    "drop-expansions",
)
STATIC = (
    "unroll-recurrence",
    "select-parts",
    "decompose-attention",
    "smooth-activations",
    "balance-outputs",
    "quantize-static",
    "round-biases",
)
TRAINED = {"quantize-static": "train-quantized"}  # what stands in its place with training = true
# The passes that make a scheme; the one that stores the weights takes the settings that the recipe gives.
SCHEMES = {
    "fp32": (),
    "fp16": ("convert-floats",),
    "bf16": ("convert-floats",),
    "w8a8": STATIC,
    "w4a8": STATIC,
    DYNAMIC: ("quantize-dynamic",),
    **dict.fromkeys(WEIGHT_ONLY, ("quantize-weights",)),
    **dict.fromkeys(PALETTES, ("palettize-weights",)),
}
SETTABLE = (
    "convert-floats",
    "palettize-weights",
    "quantize-dynamic",
    "quantize-static",
    "quantize-weights",
    "train-quantized",
)
PREPARING = ("balance-outputs", "smooth-activations")  # they touch what the scheme is for, and nothing else


def pass_names() -> tuple[str, ...]:
    return tuple(sorted({"quantize", *PASSES, *(entry.name for entry in entry_points(group="edgewright.passes"))}))


def read_recipe(recipe: Recipe) -> tuple[Mapping[str, Any], ...]:
    """The tables of a recipe.

    Raises:
        RecipeError: the file is missing or no TOML, or holds anything but [[compress]] tables.
    """
    if not isinstance(recipe, str | Path):
        return tuple(recipe)
    path = Path(recipe)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError("the recipe cannot be read", got=error, where=path) from None
    tables = content.get("compress", [])
    if not isinstance(tables, list):
        raise RecipeError("a recipe is a list of [[compress]] tables", got=type(tables).__name__, where=path)
    return tuple(tables)


def build_passes(recipe: Recipe, unasked: Mapping[str, Any] | None = None) -> tuple[Pass, ...]:
    """The passes of a recipe, the cleaning ones first; each name once, unless the recipe itself repeats it.

    Args:
        unasked: settings that steps get, those that have them, where the recipe does not say.

    Raises:
        RecipeError: unknown passes, schemes or settings, or settings of a wrong type; all at once.
    """
    steps: list[Pass] = [_make(name, {}, {}) for name in CLEAN]
    problems: list[str] = []
    for place, entry in enumerate(read_recipe(recipe)):
        try:
            for step in _expand(entry, unasked or {}):
                if step not in steps:
                    steps.append(step)
        except RecipeError as error:
            problems.append(f"compress.{place}: {error}")
    if sum(step.name in ("quantize-static", "train-quantized") for step in steps) > 1:
        problems.append(
            "two steps quantize activations: one has to see all layers, or shared values are rounded twice; "
            'name all modules in one step (modules = "vision.*|head")'
        )
    if problems:
        raise RecipeError("the recipe cannot be carried out", got="".join(f"\n    {problem}" for problem in problems))
    return tuple(steps)


def scheme_names(recipe: Recipe) -> tuple[str, ...]:
    """The schemes that a recipe asks for: targets are asked about these before anything runs."""
    return tuple(str(entry["scheme"]) for entry in read_recipe(recipe) if "scheme" in entry)


def _expand(entry: Mapping[str, Any], unasked: Mapping[str, Any]) -> list[Pass]:
    settings = dict(entry)
    name = settings.pop("pass", None)
    if not isinstance(name, str):
        raise RecipeError("a step names its pass", got=dict(entry), expected='pass = "quantize"')
    if name != "quantize":
        return [_make(name, settings, unasked)]
    scheme = Scheme.parse(str(settings.pop("scheme", "")))
    fixed: dict[str, dict[str, Any]] = {
        "convert-floats": {"dtype": "bfloat16" if scheme.name == "bf16" else "float16"},
        "palettize-weights": {"bits": scheme.weight_bits},
        "quantize-weights": {"bits": scheme.weight_bits, "group": scheme.group or 0},
        "quantize-static": {"weight_bits": scheme.weight_bits},
        "train-quantized": {"weight_bits": scheme.weight_bits},
    }
    steps = _trained(scheme, settings.pop("training", False))
    for step in steps:
        if taken := sorted(set(settings) & set(fixed.get(step, {}))):
            raise RecipeError(
                "the scheme says this already", got=", ".join(taken), expected=f"scheme = {scheme.name!r}"
            )
    given = {
        **dict.fromkeys(SETTABLE, settings),
        **{step: {key: value for key, value in settings.items() if key == "modules"} for step in PREPARING},
    }
    return [_make(step, {**given.get(step, {}), **fixed.get(step, {})}, unasked) for step in steps]


def _trained(scheme: Scheme, training: object) -> tuple[str, ...]:
    """The passes of a scheme, with training where the recipe asks for it."""
    steps = SCHEMES[scheme.name]
    if not isinstance(training, bool):
        raise RecipeError("training has the wrong type", got=repr(training), expected="true or false")
    if not training:
        return steps
    if not set(steps) & set(TRAINED):
        able = [name for name, names in SCHEMES.items() if set(names) & set(TRAINED)]
        raise RecipeError("this scheme has no training", got=repr(scheme.name), expected=" or ".join(able))
    return tuple(TRAINED.get(step, step) for step in steps)


def _make(name: str, settings: Mapping[str, Any], unasked: Mapping[str, Any]) -> Pass:
    """A pass with its settings; of `unasked`, those that it has."""
    where = PASSES.get(name)
    if where is None:
        for entry in entry_points(group="edgewright.passes", name=name):
            where = entry.value
    if where is None:
        raise RecipeError("unknown pass", got=repr(name), expected=did_you_mean(name, pass_names()))
    module, _, attribute = where.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        expected = "; ".join(did_you_mean(key, fields) for key in unknown) if fields else "no settings"
        raise RecipeError(f"the pass {name} has no such setting", got=", ".join(unknown), expected=expected)
    for key, value in settings.items():
        wanted = type(fields[key].default)
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise RecipeError(f"{name}: {key} has the wrong type", got=repr(value), expected=wanted.__name__)
    step: Pass = kind(**{**{key: value for key, value in unasked.items() if key in fields}, **settings})
    return step
