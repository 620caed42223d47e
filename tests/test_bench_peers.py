"""bench.peers: like is judged by like, and figures that were kept are not measured again."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.peer_makers import DYNAMIC, OURS, STATIC, program_of
from bench.peers import Entry, Table, measured, misses, page, row


def entry(maker: str, latency_ms: float, sqnr_db: float) -> Entry:
    return Entry(maker, 1.0, 1_000_000, latency_ms, [latency_ms] * 3, sqnr_db)


def table(static: tuple[float, float], dynamic: tuple[float, float]) -> Table:
    """Ours by (milliseconds, dB); both peers take 2 ms and have 30 dB."""
    entries = (
        entry("float32", 8.0, 120.0),
        entry(STATIC, *static),
        entry(DYNAMIC, *dynamic),
        entry("static_wi8_ai8", 2.0, 30.0),
        entry("dynamic_wi8_afp32", 2.0, 30.0),
    )
    return Table("vit", "tflite", {one.maker: one for one in entries})


def test_a_peer_is_judged_against_our_file_of_the_same_kind() -> None:
    assert list(misses([table(static=(1.0, 31.0), dynamic=(1.5, 36.0))])) == []
    worse = list(misses([table(static=(1.0, 29.0), dynamic=(2.4, 36.0))]))
    assert worse == [
        "vit on tflite: 29.0 dB, static_wi8_ai8 30.0 dB",
        "vit on tflite: 1.20 times the latency of dynamic_wi8_afp32, aim 1.05",
    ]


def test_each_row_is_compared_with_the_file_that_it_is_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.0")  # not all are installed
    found = table(static=(1.0, 31.0), dynamic=(1.5, 36.0))
    cells = {maker: row(found, one).split("|")[4].strip() for maker, one in found.entries.items()}
    assert cells == {"float32": "0.12", STATIC: "", DYNAMIC: "", "static_wi8_ai8": "0.50", "dynamic_wi8_afp32": "0.75"}
    assert "Geometric mean of ours over the peers': 0.61" in page([found], 0)


def test_runtimes_share_a_program_where_a_release_for_each_alone_gets_the_same() -> None:
    programs = {runtime: [program_of(runtime, maker) for maker in makers] for runtime, makers in OURS.items()}
    assert programs["onnx"] == programs["openvino"] == [STATIC, DYNAMIC]
    assert programs["coreml"] == [STATIC]
    assert programs["tflite"] == [STATIC, f"{DYNAMIC} with convolutions"]


def test_kept_figures_are_read_again(tmp_path: Path) -> None:
    found = [table(static=(1.0, 31.0), dynamic=(1.5, 36.0))]
    (tmp_path / "vit.json").write_text(json.dumps([asdict(one) for one in found]))
    assert measured("vit", 0, tmp_path) == found
