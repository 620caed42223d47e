"""Whether a quantized file is faster than its float32 form here, in sentences: for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from edgewright.pipeline.results import ReleaseResult, SlowOperation, SpeedResult


def speeds(result: ReleaseResult) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each delivery that was compared, with what is to be said."""
    return tuple(
        (delivery.name, tuple(sentences(delivery.speed)))
        for delivery in result.deliveries
        if delivery.speed is not None
    )


def sentences(speed: SpeedResult) -> Iterator[str]:
    if speed.speedup is None or speed.artifact_ms is None or speed.float32_ms is None:
        yield f"Not compared with float32: {speed.fault}"
        return
    ratio = speed.speedup.value
    figures = f"{speed.artifact_ms.value:.3g} ms, float32 {speed.float32_ms.value:.3g} ms, measured on this host"
    yield f"{'SLOWER: ' if ratio < 1 else ''}{ratio:.2f} times the speed of float32 ({figures})"
    for cause in speed.slower_because:
        yield _cause(cause)


def _cause(cause: SlowOperation) -> str:
    extra = "" if cause.extra_ms is None else f" {cause.extra_ms:.3g} ms more than in float32;"
    return f"{cause.op} ({cause.count} times):{extra} {cause.why}; {cause.longest} first of all"
