"""release.toml: what to export, for which devices, within which limits."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgewright.errors import ReleaseError, ShapeError
from edgewright.pipeline.shapes import Dim
from edgewright.problems import problems_of

Positive = Annotated[float, Field(gt=0)]
RESERVED = frozenset({"release.json", "report.html"})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class Preprocess(Section):
    """What an app does to its data before the model sees it; it goes into the manifest."""

    layout: Literal["NCHW", "NHWC", "NCL", "NC"] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: tuple[int, int] | None = None
    color: Literal["RGB", "BGR", "grey"] | None = None
    tokenizer: str | None = None


class InputSection(Section):
    """One input. A named first dimension ("batch") is exported at size 1, unless [model.dims] gives it bounds;
    predict() loops over it. Every other named dimension has its bounds there.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: Literal["float32", "float16", "int64", "int32", "bool", "uint8", "int8"] = "float32"
    preprocess: Preprocess | None = None

    @property
    def declared_range(self) -> tuple[float, float] | None:
        """The least and the greatest value that its preprocessing gives, of any channel; None where it does not say.

        Images have pixels in [0, 1], or in [0, 255] where a mean or std is above 1; uint8 always.
        """
        settings = self.preprocess
        if self.dtype == "uint8":
            return 0.0, 255.0
        if settings is None or settings.layout not in ("NCHW", "NHWC") or not (settings.mean or settings.std):
            return None
        means, stds = settings.mean or (0.0,), settings.std or (1.0,)
        top = 255.0 if max(*means, *stds) > 1 else 1.0
        channels = max(len(means), len(stds))
        pairs = list(zip((means * channels)[:channels], (stds * channels)[:channels], strict=True))
        if any(std <= 0 for _, std in pairs):
            return None
        return min(-mean / std for mean, std in pairs), max((top - mean) / std for mean, std in pairs)

    @field_validator("shape")
    @classmethod
    def _sizes_are_positive(cls, shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if any(isinstance(size, int) and size < 1 for size in shape):
            raise ValueError("sizes are at least 1")
        return shape


class DimSection(Section):
    """Bounds of an open dimension, both included. Formats with fixed shapes get one graph for each of `sizes`."""

    min: Annotated[int, Field(gt=0)] = 1
    max: int
    sizes: tuple[int, ...] = ()


class Part(Section):
    """A submodule that is delivered on its own: its dotted path, and the name that deliveries use."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    module: str


class ModelSection(Section):
    """The model: a callable "module:function" that builds it, a .pt2 file, or a Hugging Face folder."""

    source: str
    checkpoint: str | None = None
    inputs: tuple[InputSection, ...] = Field(min_length=1)
    dims: dict[str, DimSection] = Field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    @property
    def open_dims(self) -> tuple[Dim, ...]:
        return tuple(Dim(name, dim.min, dim.max, dim.sizes) for name, dim in self.dims.items())

    @model_validator(mode="after")
    def _names_have_bounds(self) -> ModelSection:
        first = {size for port in self.inputs for size in port.shape[:1] if isinstance(size, str)}
        others = {size for port in self.inputs for size in port.shape[1:] if isinstance(size, str)}
        unbounded = sorted(others - set(self.dims))
        if unbounded:
            raise ValueError(
                "only the first dimension can be named without bounds (the batch): "
                f"give {', '.join(unbounded)} a size, or bounds under [model.dims]"
            )
        unused = sorted(set(self.dims) - first - others)
        if unused:
            raise ValueError(f"no input has the dimensions {', '.join(unused)} of [model.dims]")
        if self.dims and (len(first) > 1 or first & others):
            raise ValueError("with [model.dims], the first dimension counts samples: all inputs have it or have none")
        if any(name in first and dim.min > 1 for name, dim in self.dims.items()):
            raise ValueError("the first dimension counts samples: its min is 1")
        try:
            self.open_dims  # noqa: B018  (impossible bounds show here)
        except ShapeError as error:
            raise ValueError(str(error)) from None
        if self.dims and (self.parts or self.source.endswith(".pt2")):
            raise ValueError("parts and .pt2 files have fixed shapes: leave [model.dims] out")
        return self


class DataSection(Section):
    """A callable "module:function", an .npz or .safetensors file, or a folder of .npy files or images."""

    data: str
    samples: Annotated[int, Field(gt=0)] = 128


class CalibrationSection(DataSection):
    """Calibration data. `statistics` is a file that keeps what calibration found: made when missing, reused when it
    fits, so that another observer, or the same export again, does not run the data through the observers.
    """

    statistics: Annotated[str, Field(pattern=r"\.safetensors$")] | None = None


class TrainingSection(Section):
    """What steps with `training = true` learn from; without it the calibration data, and the model is the teacher.

    `data`, as of [calibration], may hold more than the inputs. `loss`, a callable "module:function", gets the outputs
    and the sample, tensors by name, one sample at a time, and gives a scalar tensor. `checkpoint` is a file that keeps
    the state on the way: a run that was stopped goes on from there.
    """

    data: str | None = None
    samples: Annotated[int, Field(gt=0)] = 1024
    loss: str | None = None
    checkpoint: Annotated[str, Field(pattern=r"\.safetensors$")] | None = None


class QualitySection(Section):
    """The task's metric, called with a predict function; higher is better. `max_drop` is in its own unit.

    `compare_float32` times each quantized package beside its float32 form where its runtime runs on this machine.
    """

    metric: str | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None
    min_sqnr_db: float | None = None
    compare_float32: bool = False


class DeliverSection(Section):
    """One package: a device, a target, limits.

    `integer_boundary` leaves quantized outer inputs and outputs in integers, for targets that can (TFLite).
    `verify_on` names versions of runtimes to run the package in as well, such as "onnxruntime==1.17.3"; "device" stands
    for those that the device's profile names. `minimum` is the oldest runtime that the files have to open in, such as
    "iOS==16"; without it the oldest of `verify_on` counts, where that is older than what the target writes for.
    """

    device: str
    target: str
    part: str | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")] | None = None
    latency_ms: Positive | None = None
    memory_mb: Positive | None = None
    size_mb: Positive | None = None
    threads: Annotated[int, Field(gt=0)] = 1
    integer_boundary: bool = False
    verify_on: Literal["device"] | tuple[str, ...] = ()
    minimum: str | None = None

    @property
    def label(self) -> str:
        return self.name or "-".join(part for part in (self.part, self.device, self.target) if part)


class Release(Section):
    """A whole release file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    model: ModelSection
    calibration: CalibrationSection | None = None
    validation: DataSection | None = None
    training: TrainingSection | None = None
    quality: QualitySection = QualitySection()
    compress: tuple[dict[str, Any], ...] = ()
    deliver: tuple[DeliverSection, ...] = Field(min_length=1)
    seed: int = 0

    @model_validator(mode="after")
    def _names_agree(self) -> Release:
        labels = [delivery.label for delivery in self.deliver]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two deliveries are called {', '.join(twice)}: give each a name of its own")
        taken = sorted(label for label in labels if label in RESERVED or label.endswith(".zip"))
        if taken:
            raise ValueError(f"a delivery cannot be called {', '.join(taken)}: edgewright writes files of that name")
        for kind, names in (
            ("inputs", [port.name for port in self.model.inputs]),
            ("parts", [part.name for part in self.model.parts]),
        ):
            if len(set(names)) < len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise ValueError(f"two {kind} are called {', '.join(twice)}")
        if self.model.source.endswith(".pt2") and (self.model.checkpoint or self.model.parts):
            raise ValueError("a .pt2 file holds its weights and has no parts: leave checkpoint and [[model.parts]] out")
        parts = {part.name for part in self.model.parts}
        unknown = sorted({delivery.part for delivery in self.deliver if delivery.part} - parts)
        if unknown:
            raise ValueError(f"deliveries name parts that [[model.parts]] lacks: {', '.join(unknown)}")
        return self


def read_release(path: Path) -> Release:
    """Read and check a release file.

    Raises:
        ReleaseError: it is missing, no TOML, or has unknown keys or wrong types: every one, with a suggestion.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReleaseError("the release file does not exist", got=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError("the release file cannot be read", got=error, where=path) from None
    except tomllib.TOMLDecodeError as error:
        raise ReleaseError("the release file is not TOML", got=error, where=path) from None
    try:
        release = Release.model_validate(content)
    except ValidationError as error:
        problems = problems_of(error, Release)
        raise ReleaseError(
            f"the release file has {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            got="".join(f"\n    {problem}" for problem in problems),
            where=path,
        ) from None
    return release if release.name else release.model_copy(update={"name": path.resolve().parent.name})


def locate_files(release: Release, folders: Sequence[Path]) -> Release:
    """The same release with its relative files found in the first of `folders` that has them.

    Calibration statistics and training checkpoints that are still to be made come into the last one whose folder is
    there.
    """

    def located(name: str) -> str:
        return next((str(folder / name) for folder in folders if (folder / name).exists()), name)

    def found(section: DataSection | None) -> DataSection | None:
        return section and section.model_copy(update={"data": located(section.data)})

    def placed(name: str | None) -> str | None:
        if name is None:
            return None
        there = [folder / name for folder in folders if (folder / name).exists()]
        possible = [folder / name for folder in reversed(folders) if (folder / name).parent.is_dir()]
        return str(next(iter([*there, *possible]), name))

    def kept(section: CalibrationSection | None) -> CalibrationSection | None:
        return section and section.model_copy(
            update={"data": located(section.data), "statistics": placed(section.statistics)}
        )

    def trained(section: TrainingSection | None) -> TrainingSection | None:
        data = section and section.data and located(section.data)
        return section and section.model_copy(update={"data": data, "checkpoint": placed(section.checkpoint)})

    model = release.model
    checkpoint = None if model.checkpoint is None else located(model.checkpoint)
    update = {"source": located(model.source), "checkpoint": checkpoint}
    return release.model_copy(
        update={
            "model": model.model_copy(update=update),
            "calibration": kept(release.calibration),
            "validation": found(release.validation),
            "training": trained(release.training),
        }
    )
