"""The report: everything that the result holds is on the page, and nothing that is not."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from edgewright.pipeline.limits import lower_limit, upper_limit
from edgewright.pipeline.report import figures, render_report
from edgewright.pipeline.report.limits import limit_text, margin_text
from edgewright.pipeline.report.summary import verdict
from edgewright.pipeline.results import (
    Comparison,
    DeliveryResult,
    Figure,
    MetricResult,
    PassRecord,
    RefusalRecord,
    ReleaseResult,
)

HOSTILE = '<script>alert("x")</script>{{ 7 * 7 }}'


def measured(value: float) -> Figure:
    return Figure(value=value, provenance="measured-on-host")


def predicted(value: float, spread: float = 1.5) -> Figure:
    return Figure(value=value, provenance="predicted", low=value / spread, high=value * spread)


def on_device(name: str, ms: float) -> dict[str, Any]:
    """Latency predicted and held against 5 ms: passed under 3.3, missed over 7.5, undecided between."""
    check = upper_limit("latency", "ms", predicted(ms), 5.0, f"prune channels, or measure on {name}")
    host = {"host_p50": measured(0.312), "host_p90": measured(0.355)}
    return {"status": check.outcome, "checks": (check,), "latency_ms": {**host, "device": predicted(ms)}}


def delivered(name: str, target: str, device: str, **changes: Any) -> DeliveryResult:
    """A delivery that passed, with every figure; `changes` overrides."""
    fields: dict[str, Any] = {
        "name": name,
        "target": target,
        "device": device,
        "package": f"{name}.zip",
        "runtime": "ai-edge-litert 2.3.0",
        "format": "TFLite schema 3",
        "size_bytes": 93_412,
        "float32_bytes": 375_336,
        "bytes_by_dtype": {"float32": 3_120, "int8": 86_208, "int32": 1_832},
        "compression": Comparison(sqnr_db=36.42, outputs={"logits": 36.42}),
        "lowering": Comparison(sqnr_db=200.0, outputs={"logits": 200.0}),
        "end_to_end": Comparison(sqnr_db=36.42, outputs={"logits": 36.42}),
        "metric": MetricResult(name="data:accuracy", original=0.9778, compressed=0.975, artifact=0.975),
        "low_precision_share": Figure(value=0.9921, provenance="executed"),
        "memory_bytes": {"host_peak": measured(21_300_000), "device": predicted(33_000_000, 1.8)},
        "not_verified": (f"Nothing ran on a {device}: latency and memory there are predictions.",),
        "seconds": {"lower": 4.81, "run": 1.92, "package": 0.011},
    } | on_device(device, 1.94)
    size = upper_limit("size", "MB", Figure(value=0.093412, provenance="file"), 1.0, "prune")
    parity = lower_limit("parity of logits", "dB against the original", measured(36.42), 35.0, "")
    fields["checks"] += (size, parity, upper_limit("metric drop", "accuracy", measured(0.0028), 0.01, ""))
    return DeliveryResult(**{**fields, **changes})


def stopped(name: str, target: str, device: str, status: Any, reason: str, **changes: Any) -> DeliveryResult:
    return DeliveryResult(name=name, target=target, device=device, status=status, reason=reason, **changes)


def refusal(node: str) -> RefusalRecord:
    return RefusalRecord(
        target="coreml",
        node=node,
        op="aten.gru.input",
        reason="the Core ML frontend has no conversion for a bidirectional GRU from the export graph",
        way_out="deliver the encoder alone with part = 'encoder', or choose onnx for this device",
        source="examples/digits/model.py:41, in forward: x, _ = self.rnn(x)",
    )


def sample(**changes: Any) -> ReleaseResult:
    """A release in which every status occurs."""
    two = Comparison(sqnr_db=31.7, outputs={"logits": 31.7, "embedding": 38.2})
    slow = {"package": None, "runtime": "onnxruntime 1.31.1", "format": "opset 21", "size_bytes": 101_980}
    slow |= {"bytes_by_dtype": {"float32": 6_004, "int8": 52_110, "uint8": 34_098, "int64": 96}}
    slow |= {"lowering": two, "end_to_end": two} | on_device("raspberry-pi-5", 8.4)
    phone = {"runtime": "edgewright reference interpreter (MIL read by coremltools 9.0)", "format": "iOS 17"}
    phone |= {"size_bytes": 98_310, "low_precision_share": Figure(value=0.9921, provenance="file")}
    phone |= {"memory_bytes": {"device": predicted(41e6)}} | on_device("iphone-15-pro", 4.2)
    phone |= {"latency_ms": {"device": predicted(4.2)}, "not_verified": ("Core ML did not run.", "And more.")}
    refusals = (refusal("gru"), refusal("gru_1"))
    fields: dict[str, Any] = {
        "name": "digits",
        "edgewright": "0.1.0",
        "source": "examples.digits.model:build",
        "model_digest": "sha256:4f1d6f9f0d0b4a5c9a2f3be65d20cf4c1a9f3b1de0c19c7c3c7b2ad0a9e5f8b1",
        "checkpoint_sha256": "b1946ac92492d2347c6235b4d2611184a7f1c0ffee00d15ea5e0000012345678",
        "parameters": 93_834,
        "float32_bytes": 375_336,
        "recipe": (
            PassRecord(name="fold-batchnorm", settings={}, rewrites=6),
            PassRecord(name="quantize", settings={"modules": "*"}, rewrites=21, skips=(("add", "an index"),)),
        ),
        "versions": {"python": "3.11.2", "torch": "2.13.0", "onnxruntime": "1.31.1", "coremltools": "9.0"},
        "host": "AMD EPYC, 2 cores, Linux x86_64",
        "deliveries": (
            delivered("digits-pixel-8", "tflite", "pixel-8"),
            delivered("digits-raspberry-pi-5", "onnx", "raspberry-pi-5", **slow),
            delivered("digits-iphone", "coreml", "iphone-15-pro", **phone),
            stopped("digits-n100", "openvino", "intel-n100", "failed", "out of time\n  limit: 600 s"),
            stopped("digits-rnn-iphone", "coreml", "iphone-15-pro", "refused", "", refusals=refusals),
        ),
        "seconds": {"capture": 2.13, "compress": 9.4, "deliver": 21.7},
    }
    return ReleaseResult(**{**fields, **changes})


class Outline(HTMLParser):
    """The tags and the text of a page; `broken` names every closing tag that does not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.broken: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(sample())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_every_status_is_on_the_page_as_text(page: str, outline: Outline) -> None:
    for status in ("passed", "missed", "undecided", "failed", "refused"):
        assert re.search(f'<span class="badge {status}"><span [^>]*></span>{status}</span>', page)
    assert "1 of 5 deliveries passed: 1 missed, 1 undecided, 1 failed, 1 refused" in outline.text


def test_tags_balance_ids_are_unique_and_links_lead_to_them(outline: Outline) -> None:
    assert outline.broken == []
    assert outline.open == []
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in outline.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_the_page_refers_to_nothing_outside_itself(page: str, outline: Outline) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    for _, attrs in outline.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attrs.get(name) or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in page


def test_every_figure_carries_its_provenance(page: str, outline: Outline) -> None:
    for text in (
        "p50 312 µs p90 355 µs measured on host",
        f"device 1.94 ms predicted 1.29{figures.EN_DASH}2.91 ms",
        f"device 33.0 MB predicted 18.3{figures.EN_DASH}59.4 MB",
        "99.2 % executed graph",
        "93.4 KB read from file",
        "375 KB counted in the model",
        "36.4 dB reference interpreter",
        "accuracy 0.9778 run in PyTorch",
        "0.00280 accuracy measured on host",
    ):
        assert text in outline.text
    parity = page[page.index('class="cards parity"') : page.index('class="legend"')]
    lines = re.findall(r'<span class="line">.*?</span>\n</span>', parity, flags=re.DOTALL)
    assert len(lines) > 20
    assert all('class="tag ' in line for line in lines)


def test_hostile_text_is_shown_and_never_run() -> None:
    refused = stopped(HOSTILE, HOSTILE, HOSTILE, "refused", HOSTILE, refusals=(
        RefusalRecord(target="x", node=HOSTILE, op=HOSTILE, reason="no", way_out=HOSTILE, source=HOSTILE),
    ))  # fmt: skip
    check = upper_limit(HOSTILE, HOSTILE, measured(2), 1.0, HOSTILE)
    metric = MetricResult(name=HOSTILE, original=1.0, compressed=1.0, artifact=1.0)
    outputs = Comparison(sqnr_db=3.0, outputs={HOSTILE: 3.0, "b": 4.0})
    named = delivered(
        HOSTILE, HOSTILE, '" onload="x', package=HOSTILE, bytes_by_dtype={HOSTILE: 12}, metric=metric,
        end_to_end=outputs, latency_ms={HOSTILE: measured(1.0)}, seconds={HOSTILE: 1.0},
        checks=(check,), not_verified=(HOSTILE,),
    )  # fmt: skip
    others = {
        **dict.fromkeys(("name", "source", "host", "model_digest", "edgewright"), HOSTILE),
        "versions": {HOSTILE: HOSTILE},
        "recipe": (PassRecord(name=HOSTILE, settings={HOSTILE: 1}, rewrites=0, skips=((HOSTILE, HOSTILE),)),),
    }
    outline = Outline(render_report(sample(**others, deliveries=(refused, named))))
    assert outline.broken == []
    assert "script" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)
    assert outline.text.count(HOSTILE) > 30


def test_the_same_result_gives_the_same_bytes(page: str) -> None:
    assert render_report(sample()) == page
    assert render_report(ReleaseResult.model_validate_json(sample().model_dump_json())) == page


def test_what_is_not_known_is_a_dash_that_says_why(page: str) -> None:
    assert '<span class="absent" title="no data was used">' in page
    assert '<span class="absent" title="no file was released: missed">' in page
    assert ">None<" not in page


def test_table_headings_have_a_scope(outline: Outline) -> None:
    assert {attrs.get("scope") for tag, attrs in outline.tags if tag == "th"} == {"col", "row", "rowgroup"}


def test_both_references_stand_above_the_deliveries(page: str) -> None:
    names = re.findall(r'scope="row"><span class="name">(.*?)</span>', page)
    assert names == ["PyTorch original", "Compressed graph", *(item.name for item in sample().deliveries)]


def test_deliveries_with_other_compressed_graphs_get_rows_of_their_own() -> None:
    other = delivered("b", "onnx", "pixel-8", compression=Comparison(sqnr_db=20.0, outputs={"logits": 20.0}))
    page = render_report(sample(deliveries=(delivered("a", "tflite", "pixel-8"), other)))
    assert re.findall("Compressed graph for (.)", Outline(page).text) == ["a", "b"]


def test_several_outputs_are_listed_and_a_single_one_is_not(outline: Outline) -> None:
    assert "2 outputs logits 31.7 dB embedding 38.2 dB" in outline.text
    assert "1 outputs" not in outline.text


def test_failures_and_refusals_say_where_why_and_the_way_out(outline: Outline) -> None:
    for text in ("gru_1", refusal("gru").op, refusal("gru").way_out, refusal("gru").source, "limit: 600 s"):
        assert text in outline.text
    assert f"2 refusals, the first: {refusal('gru').reason}" in outline.text


def test_warnings_of_calibration_are_listed_open_while_they_are_few() -> None:
    few = sample(recipe=(PassRecord(name="quantize", settings={}, rewrites=1, warnings=((HOSTILE, "is dead"),)),))
    page = render_report(few)
    assert HOSTILE not in page
    assert f"1 value to look at {HOSTILE} is dead" in Outline(page).text
    assert '<details class="block" open>' in page
    many = PassRecord(name="quantize", settings={}, rewrites=1, warnings=tuple((f"x_{n}", "is dead") for n in range(9)))
    page = render_report(sample(recipe=(many,)))
    assert "9 values to look at" in page
    assert '<details class="block" open>' not in page


def test_limits_say_by_how_much_and_what_to_try(outline: Outline) -> None:
    assert "latency missed: 3.40 ms over, at most 5 ms" in outline.text
    assert f"latency undecided: predicted 2.80{figures.EN_DASH}6.30 ms, at most 5 ms" in outline.text
    assert "prune channels, or measure on raspberry-pi-5" in outline.text
    least = lower_limit("least SQNR", "dB against the original", measured(18.0), 20.0, "")
    assert (limit_text(least), margin_text(least)) == ("at least 20 dB", "2.0 dB short")


def test_an_empty_release_and_odd_numbers_still_render() -> None:
    odd = delivered(
        "odd", "onnx", "host", size_bytes=0, end_to_end=Comparison(sqnr_db=-200.0, outputs={}),
        metric=MetricResult(name="m", original=0.5, compressed=0.5, artifact=float("nan")),
        latency_ms={"host_p50": measured(float("inf")), "device": Figure(value=0.0, provenance="predicted")},
    )  # fmt: skip
    assert "NaN" in Outline(render_report(sample(deliveries=(odd,), float32_bytes=0))).text
    empty = Outline(render_report(sample(deliveries=(), recipe=(), seconds={}, versions={}, host="")))
    assert empty.broken == []
    assert "Nothing was delivered" in empty.text


def test_the_verdict_counts_every_delivery() -> None:
    def of(*statuses: str) -> tuple[str, str]:
        deliveries = tuple(stopped("d", "onnx", "host", status, "") for status in statuses)
        return verdict(sample(deliveries=deliveries))

    assert of("passed") == ("1 of 1 delivery passed", "passed")
    assert of("passed", "undecided") == ("1 of 2 deliveries passed: 1 undecided", "undecided")
    assert of("refused", "missed") == ("0 of 2 deliveries passed: 1 missed, 1 refused", "missed")


def test_numbers_have_three_digits_and_a_fitting_unit() -> None:
    sizes = [figures.bytes_text(size) for size in (0, 999, 93_412, 999_999)]
    assert sizes == ["0 B", "999 B", "93.4 KB", "1.00 MB"]
    times = [figures.ms_text(ms) for ms in (0.312, 0.99999, 12.345, 61_000)]
    assert times == ["312 µs", "1.00 ms", "12.3 ms", "61.0 s"]
    assert [figures.number(value) for value in (9.999, 1_234_567)] == ["10.0", "1,234,567"]
    assert figures.interval_text(0.9, 1.9, "ms") == f"0.900{figures.EN_DASH}1.90 ms"
    assert figures.unit_text(0.95, "of multiply-accumulates") == "95.0 %"
