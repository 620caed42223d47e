"""The loss of one sample: against a teacher, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgewright.errors import TrainingError
from edgewright.pipeline.program import Program
from edgewright.pipeline.sources import call_user
from edgewright.pipeline.training import Loss

Sample = Mapping[str, Tensor]
SampleLoss = Callable[[Mapping[str, Tensor], Sample], Tensor]


def distillation(teacher: Program, samples: Sequence[Sample]) -> SampleLoss:
    """|y - t|^2 over the mean |t|^2 of all samples, the mean over floating-point outputs.

    So outputs of any size count alike, and the loss is the noise-to-signal ratio of the quantized model.

    Raises:
        TrainingError: the teacher has no floating-point output, none but zeros, or one with NaN or infinity.
    """
    names = [spec.name for spec in teacher.outputs if spec.dtype.startswith("float")]
    power = dict.fromkeys(names, 0.0)
    for sample in samples:
        outputs = teacher.run(sample)
        for name in names:
            power[name] += float(outputs[name].double().square().sum()) / len(samples)
    for name, found in power.items():
        if not found < float("inf"):
            raise TrainingError(
                f"the output {name!r} has NaN or infinity on the training data",
                expected="finite values, for a teacher",
                do="mend the data, or name a loss under [training]",
            )
    counted = {name: found for name, found in power.items() if found}
    if not counted:
        raise TrainingError(
            "the model has no output to learn from",
            got=", ".join(f"{spec.name}: {spec.dtype}" for spec in teacher.outputs),
            expected="a floating-point one that is not zero",
            do="name a loss under [training]",
        )

    def loss(outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        targets = teacher.run(sample)
        errors = [(outputs[name] - targets[name]).square().sum() / found for name, found in counted.items()]
        return torch.stack(errors).mean()

    return loss


def checked(loss: Loss) -> SampleLoss:
    """The user's loss, with its results looked at.

    Raises, when called:
        TrainingError: it gives no scalar, or one that no output decides about.
        ReleaseError: it raised an error.
    """

    def call(outputs: Mapping[str, Tensor], sample: Sample) -> Tensor:
        found = call_user(loss, "training.loss", outputs, sample)
        if not isinstance(found, Tensor) or found.dim():
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TrainingError(
                "the loss is no scalar", got=shape, expected="a tensor without axes", do="take its mean"
            )
        if not found.requires_grad:
            raise TrainingError(
                "the loss has no gradient",
                expected="one computed from the model's outputs",
                do="leave out detach(), argmax() and NumPy",
            )
        return found

    return call
