"""The report: everything that the result holds is on the page, and nothing that is not."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from edgewright.pipeline.report import render_report
from edgewright.pipeline.report.figures import LEGEND, bytes_text, interval_text, ms_text, number, share_text
from edgewright.pipeline.report.limits import is_at_most, limit_text, margin_text
from edgewright.pipeline.report.summary import verdict
from edgewright.pipeline.results import (
    Check,
    Comparison,
    DeliveryResult,
    Figure,
    MetricResult,
    PassRecord,
    RefusalRecord,
    ReleaseResult,
)

HOSTILE = '<script>alert("x")</script>{{ 7 * 7 }}'
VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "circle", "line", "text"}


def measured(value: float) -> Figure:
    return Figure(value=value, provenance="measured-on-host")


def predicted(value: float, spread: float = 1.5) -> Figure:
    return Figure(value=value, provenance="predicted", low=value / spread, high=value * spread)


def latency_check(figure: Figure, limit: float, outcome: str, advice: str = "") -> Check:
    margin = limit - (figure.high or figure.value)
    return Check(
        name="latency", unit="ms", figure=figure, limit=limit, outcome=outcome, margin=margin, advice=advice
    )


def delivered(name: str, target: str, device: str, **changes: object) -> DeliveryResult:
    """A delivery that passed, with every figure; `changes` overrides."""
    latency, size = predicted(1.94), 93_412
    fields: dict[str, object] = {
        "name": name,
        "target": target,
        "device": device,
        "status": "passed",
        "package": f"digits-0.1.0-{device}-{target}.ewpkg",
        "runtime": "ai-edge-litert 2.3.0",
        "format": "TFLite schema 3",
        "size_bytes": size,
        "float32_bytes": 375_336,
        "bytes_by_dtype": {"float32": 3_120, "int8": 86_208, "int32": 1_832},
        "compression": Comparison(sqnr_db=36.42, outputs={"logits": 36.42}),
        "lowering": Comparison(sqnr_db=200.0, outputs={"logits": 200.0}),
        "end_to_end": Comparison(sqnr_db=36.42, outputs={"logits": 36.42}),
        "metric": MetricResult(name="accuracy", original=0.9778, compressed=0.9750, artifact=0.9750),
        "low_precision_share": Figure(value=0.9921, provenance="executed"),
        "latency_ms": {"host_p50": measured(0.312), "host_p90": measured(0.355), "device": latency},
        "memory_bytes": {"host_peak": measured(21_300_000), "device": predicted(33_000_000, 1.8)},
        "checks": (
            Check(name="size", unit="bytes", figure=Figure(value=size, provenance="file"), limit=1e6, outcome="passed",
                  margin=1e6 - size),
            latency_check(latency, 5.0, "passed"),
            Check(name="metric_drop", unit="accuracy", figure=measured(0.0028), limit=0.01, outcome="passed",
                  margin=0.0072),
        ),
        "not_verified": (f"Latency and memory on {device} are predicted: no such device was there to measure.",),
        "seconds": {"lower": 4.81, "validate": 1.92, "package": 0.011},
    }  # fmt: skip
    return DeliveryResult(**{**fields, **changes})  # type: ignore[arg-type]


def failed(name: str, target: str, device: str, status: str, reason: str, **changes: object) -> DeliveryResult:
    return DeliveryResult(name=name, target=target, device=device, status=status, reason=reason, **changes)  # type: ignore[arg-type]


def refusal(node: str, op: str) -> RefusalRecord:
    return RefusalRecord(
        target="coreml",
        node=node,
        op=op,
        reason="the Core ML frontend has no conversion for a bidirectional GRU from the export graph",
        way_out="deliver the encoder alone with part = 'encoder', or choose onnx for this device",
        source="examples/digits/model.py:41, in forward: x, _ = self.rnn(x)",
    )


def sample(**changes: object) -> ReleaseResult:
    """A release in which every status occurs."""
    slow, close = predicted(6.1), predicted(4.2)
    outputs = {"logits": 31.7, "embedding": 38.2}
    deliveries = (
        delivered("digits-pixel-8", "tflite", "pixel-8"),
        delivered("digits-raspberry-pi-5", "onnx", "raspberry-pi-5", status="missed", package=None,
                  runtime="onnxruntime 1.31.1", format="ONNX opset 21, IR 10", size_bytes=101_980,
                  bytes_by_dtype={"float32": 6_004, "int8": 52_110, "uint8": 34_098, "int64": 96},
                  lowering=Comparison(sqnr_db=52.3, outputs=outputs), end_to_end=Comparison(sqnr_db=31.7, outputs=outputs),
                  latency_ms={"host_p50": measured(0.214), "host_p90": measured(0.263), "device": slow},
                  checks=(latency_check(slow, 5.0, "missed", "prune a quarter of the channels of stage 3, or ask 7 ms"),)),
        delivered("digits-iphone", "coreml", "iphone-15-pro", status="undecided", size_bytes=98_310,
                  runtime="edgewright reference interpreter (MIL read by coremltools 9.0)", format="Core ML iOS 17",
                  low_precision_share=Figure(value=0.9921, provenance="file"),
                  latency_ms={"device": close}, memory_bytes={"device": predicted(41_000_000)},
                  checks=(latency_check(close, 5.0, "undecided", "measure on the phone: edgewright verify"),),
                  not_verified=("Core ML itself did not run: this host is not a Mac. The reference interpreter ran the "
                                "saved file.", "Which compute unit the phone picks is not known.")),
        failed("digits-n100", "openvino", "intel-n100", "failed",
               "the converter ran out of time after 600 s; other deliveries were not touched"),
        failed("digits-rnn-iphone", "coreml", "iphone-15-pro", "refused", "", refusals=(refusal("gru", "aten.gru.input"),
               refusal("gru_1", "aten.gru.input"))),
    )  # fmt: skip
    fields: dict[str, object] = {
        "name": "digits",
        "edgewright": "0.1.0",
        "source": "examples.digits.model:build",
        "model_digest": "sha256:4f1d6f9f0d0b4a5c9a2f3be65d20cf4c1a9f3b1de0c19c7c3c7b2ad0a9e5f8b1",
        "checkpoint_sha256": "b1946ac92492d2347c6235b4d2611184a7f1c0ffee00d15ea5e0000012345678",
        "parameters": 93_834,
        "float32_bytes": 375_336,
        "recipe": (
            PassRecord(name="fold-batchnorm", settings={}, rewrites=6),
            PassRecord(name="quantize", settings={"modules": "*", "observer": "histogram"}, rewrites=21,
                       skips=(("softmax", "softmax stays in float32: int8 loses its tail"),
                              ("add_3", "one side is an integer index"))),
        ),
        "versions": {"python": "3.11.2", "torch": "2.13.0", "onnxruntime": "1.31.1", "coremltools": "9.0"},
        "host": "x86_64, 2 cores, Linux 6.1, 1 thread",
        "deliveries": deliveries,
        "seconds": {"capture": 2.13, "compress": 9.4, "deliver": 21.7},
    }  # fmt: skip
    return ReleaseResult(**{**fields, **changes})  # type: ignore[arg-type]


class Outline(HTMLParser):
    """The open tags, the references and the text of a page; `broken` names every tag that does not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.broken: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

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

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(sample())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_every_status_is_on_the_page_as_text(outline: Outline) -> None:
    badges = [attrs.get("class") or "" for _, attrs in outline.tags]
    for status in ("passed", "missed", "undecided", "failed", "refused"):
        assert f"badge {status}" in badges
        assert status in outline.text
    assert "1 of 5 deliveries passed: 1 missed, 1 undecided, 1 failed, 1 refused" in outline.text


def test_tags_balance_and_ids_are_unique(outline: Outline) -> None:
    assert outline.broken == []
    assert outline.open == []
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in outline.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links if link} <= set(ids)


def test_the_page_refers_to_nothing_outside_itself(page: str, outline: Outline) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    for _, attrs in outline.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attrs.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_figure_carries_its_provenance(outline: Outline) -> None:
    for _, tag, _ in LEGEND[1:]:
        assert tag in outline.text
    for text in (
        "312 µs ● measured on host",
        "355 µs ● measured on host",
        "1.94 ms ○ predicted 1.29–2.91 ms",
        "33.0 MB ○ predicted 18.3–59.4 MB",
        "99.2 % ▶ executed graph",
        "93.4 KB ■ read from file",
        "375 KB □ counted in the model",
        "36.4 dB ◆ reference interpreter",
        "0.9778 ◇ run in PyTorch",
    ):
        assert re.sub(" [●○▶■□◆◇]", "", text) in outline.text


def test_each_value_of_the_tables_is_followed_by_a_tag(page: str) -> None:
    parity = page[page.index('class="cards parity"') : page.index('class="legend"')]
    lines = re.findall(r'<span class="line">.*?</span>\n', parity, flags=re.DOTALL)
    assert len(lines) > 20
    assert all('class="tag ' in line for line in lines)


def test_hostile_text_is_shown_and_never_run() -> None:
    hostile = failed(HOSTILE, HOSTILE, HOSTILE, "refused", HOSTILE, refusals=(
        RefusalRecord(target=HOSTILE, node=HOSTILE, op=HOSTILE, reason=HOSTILE, way_out=HOSTILE, source=HOSTILE),))  # fmt: skip
    named = delivered(HOSTILE, HOSTILE, '" onload="x', package=HOSTILE, bytes_by_dtype={HOSTILE: 12},
                      metric=MetricResult(name=HOSTILE, original=1.0, compressed=1.0, artifact=1.0),
                      end_to_end=Comparison(sqnr_db=3.0, outputs={HOSTILE: 3.0, "b": 4.0}), not_verified=(HOSTILE,),
                      latency_ms={HOSTILE: measured(1.0)}, seconds={HOSTILE: 1.0})  # fmt: skip
    recipe = (PassRecord(name=HOSTILE, settings={HOSTILE: HOSTILE}, rewrites=0, skips=((HOSTILE, HOSTILE),)),)
    result = sample(name=HOSTILE, source=HOSTILE, host=HOSTILE, versions={HOSTILE: HOSTILE}, model_digest=HOSTILE,
                    checkpoint_sha256=HOSTILE, recipe=recipe, deliveries=(hostile, named))  # fmt: skip
    outline = Outline(render_report(result))
    assert outline.broken == []
    assert "script" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)
    assert HOSTILE in outline.text


def test_the_same_result_gives_the_same_bytes(page: str) -> None:
    assert render_report(sample()) == page
    assert render_report(ReleaseResult.model_validate_json(sample().model_dump_json())) == page


def test_what_is_not_known_is_a_dash_that_says_why(page: str) -> None:
    assert '<span class="absent" title="no calibration data was used">' in page
    assert '<span class="absent" title="no file was released: missed">' in page
    assert ">None<" not in page
    assert ">nan<" not in page.lower()


def test_table_headings_have_a_scope(outline: Outline) -> None:
    headings = [attrs for tag, attrs in outline.tags if tag == "th"]
    assert headings
    assert all(attrs.get("scope") in ("col", "row") for attrs in headings)


def test_both_references_stand_above_the_deliveries(page: str) -> None:
    parity = page[page.index("<tbody") : page.index("</tbody>")]
    names = re.findall(r'scope="row"><span class="name">(.*?)</span>', parity)
    assert names[:2] == ["PyTorch original", "Compressed graph"]
    assert names[2:] == [delivery.name for delivery in sample().deliveries]


def test_deliveries_with_other_compressed_graphs_get_rows_of_their_own() -> None:
    other = delivered("b", "onnx", "pixel-8", compression=Comparison(sqnr_db=20.0, outputs={"logits": 20.0}))
    outline = Outline(render_report(sample(deliveries=(delivered("a", "tflite", "pixel-8"), other))))
    assert "Compressed graph for a" in outline.text
    assert "Compressed graph for b" in outline.text


def test_several_outputs_are_listed_and_a_single_one_is_not(outline: Outline) -> None:
    assert "2 outputs logits 31.7 dB embedding 38.2 dB" in outline.text
    assert "1 outputs" not in outline.text


def test_refusals_show_node_reason_way_out_and_source(outline: Outline) -> None:
    record = refusal("gru", "aten.gru.input")
    for text in (record.node, record.op, record.reason, record.way_out, record.source):
        assert text in outline.text
    assert "2 refusals, the first: the Core ML frontend" in outline.text


def test_a_missed_limit_says_by_how_much_and_what_to_try(outline: Outline) -> None:
    assert "at most 5 ms" in outline.text
    assert "4.15 ms over" in outline.text
    assert "prune a quarter of the channels" in outline.text


def test_a_release_without_deliveries_still_renders() -> None:
    outline = Outline(render_report(sample(deliveries=(), recipe=(), seconds={}, versions={}, host="")))
    assert outline.broken == []
    assert "Nothing was delivered" in outline.text


def test_figures_that_are_not_finite_break_nothing() -> None:
    odd = delivered("odd", "onnx", "pixel-8", metric=MetricResult(name="m", original=0.5, compressed=0.5, artifact=float("nan")),
                    end_to_end=Comparison(sqnr_db=-200.0, outputs={}), size_bytes=0, float32_bytes=0,
                    latency_ms={"host_p50": measured(float("inf")), "device": Figure(value=float("nan"), provenance="predicted")})  # fmt: skip
    outline = Outline(render_report(sample(deliveries=(odd,), float32_bytes=0)))
    assert "NaN" in outline.text
    assert "−200.0 dB" in outline.text


@pytest.mark.parametrize(
    ("statuses", "sentence", "standing"),
    [
        (("passed",), "1 of 1 delivery passed", "passed"),
        (("passed", "passed"), "2 of 2 deliveries passed", "passed"),
        (("passed", "undecided"), "1 of 2 deliveries passed: 1 undecided", "undecided"),
        (("refused", "missed"), "0 of 2 deliveries passed: 1 missed, 1 refused", "missed"),
    ],
)
def test_the_verdict_counts_every_delivery(statuses: tuple[str, ...], sentence: str, standing: str) -> None:
    deliveries = tuple(failed(f"d{place}", "onnx", "pixel-8", status, "") for place, status in enumerate(statuses))
    assert verdict(sample(deliveries=deliveries)) == (sentence, standing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 B"),
        (bytes_text(999), "999 B"),
        (bytes_text(999_999), "1.00 MB"),
        (bytes_text(93_412), "93.4 KB"),
        (ms_text(0.312), "312 µs"),
        (ms_text(0.99999), "1.00 ms"),
        (ms_text(12.345), "12.3 ms"),
        (ms_text(61_000), "61.0 s"),
        (number(-0.0028), "−0.00280"),
        (number(1_234_567), "1,234,567"),
        (number(9.999), "10.0"),
        (share_text(1.0), "100 %"),
        (interval_text(0.9, 1.9, "ms"), "0.900–1.90 ms"),
        (interval_text(20e6, 50e6, "bytes"), "20.0–50.0 MB"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected


def test_the_direction_of_a_limit_is_read_from_its_margin() -> None:
    least = Check(name="sqnr", unit="dB", figure=measured(18.0), limit=20.0, outcome="missed", margin=-2.0)
    most = latency_check(predicted(6.0), 5.0, "missed")
    assert (is_at_most(least), limit_text(least), margin_text(least)) == (False, "at least 20 dB", "2.00 dB short")
    assert (is_at_most(most), limit_text(most), margin_text(most)) == (True, "at most 5 ms", "4.00 ms over")
