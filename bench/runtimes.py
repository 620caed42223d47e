"""Run the examples' packages in the oldest runtimes that their targets promise, and in some between.

Each example is exported in each scheme for three targets, and `edgewright verify` runs every package in every version,
each in an environment of its own. The table says what came out, faults included.

    python -m bench.runtimes                       digits and minilm; prints the table
    python -m bench.runtimes --write               into docs/runtimes.md, too
    python -m bench.runtimes --examples digits     one of them
    python -m bench.runtimes --out FOLDER          keeps the packages there, and takes those that it finds
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewright.device_profiles.host import detect_host
from edgewright.pipeline.verify import verify

ROOT = Path(__file__).resolve().parent.parent
PAGE, MARK = ROOT / "docs" / "runtimes.md", "<!-- bench/runtimes.py -->"
EXAMPLES = ("digits", "minilm")
SCHEMES = ("fp32", "fp16", "w8a8")
VERSIONS = {
    "onnx": ("onnxruntime==1.17.3", "onnxruntime==1.23.0"),
    "tflite": ("tflite-runtime==2.14.0", "ai-edge-litert==1.2.0"),
    "openvino": ("openvino==2024.0.0", "openvino==2024.1.0"),
}
DEVICES = {"onnx": "raspberry-pi-5", "tflite": "raspberry-pi-5", "openvino": "intel-n100"}
COMMAND = (sys.executable, "-c", "from edgewright.pipeline.cli import main; main()")


@dataclass(frozen=True)
class Row:
    """One package in one version; `figure` is its outputs in dB with their floor, or the fault."""

    example: str
    scheme: str
    asked: str
    ran: str
    figure: str
    passed: bool

    @property
    def line(self) -> str:
        status = "passed" if self.passed else "**missed**"
        return f"| {self.example} {self.scheme} | {self.asked} | {self.ran or '-'} | {self.figure} | {status} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", action="store_true", help="write the table into docs/runtimes.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        rows = [
            row
            for example in options.examples
            for scheme in options.schemes
            for row in run_packages(example, scheme, export(example, scheme, out / f"{example}-{scheme}"))
        ]
    profile = detect_host()
    head = ["| package | named | ran | SQNR of each output (floor) | status |", "|---|---|---|---|---|"]
    table = "\n".join([f"On {profile.soc}, one thread.", "", *head, *(row.line for row in rows)])
    print(table)
    if options.write:
        before, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
        PAGE.write_text(f"{before}{MARK}\n\n{table}\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


def export(example: str, scheme: str, out: Path) -> Path:
    """The packages of an example in a scheme, for the targets that can be run in named versions."""
    if (out / "release.json").is_file():
        return out
    text = (ROOT / "examples" / example / "release.toml").read_text(encoding="utf-8")
    head = re.sub(r"\[\[(compress|deliver)\]\].*", "", text, flags=re.DOTALL)
    if scheme != "fp32":
        head += f'\n[[compress]]\npass = "quantize"\nscheme = "{scheme}"\n'
    for target, device in DEVICES.items():
        head += f'\n[[deliver]]\nname = "{target}"\ndevice = "{device}"\ntarget = "{target}"\n'
    out.mkdir(parents=True, exist_ok=True)
    release = out / "release.toml"
    release.write_text(head, encoding="utf-8")
    command = [*COMMAND, "export", str(release), "--out", str(out)]
    print(f"export {example} {scheme} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if done.returncode != 0 and not (out / "release.json").is_file():
        raise SystemExit(f"the export of {example} {scheme} ended with {done.returncode}")
    return out


def run_packages(example: str, scheme: str, out: Path) -> Iterator[Row]:
    packages = {
        entry["target"]: entry["package"] for entry in json.loads((out / "release.json").read_text())["deliveries"]
    }
    for target, versions in VERSIONS.items():
        if packages.get(target) is None:
            yield from (Row(example, scheme, asked, "", "there is no package", False) for asked in versions)
            continue
        found = verify(out / packages[target], runtimes=versions, progress=lambda stage: print(stage, file=sys.stderr))
        floor = found.manifest.vectors.floor_db
        for run in found.named:
            figures = [f"{name} {value:.1f} dB" for name, value in run.outputs.items()]
            figure = f"{', '.join(figures)} ({floor:.1f})" if figures else run.fault.replace("|", "/")[:160]
            yield Row(example, scheme, run.asked, run.runtime, figure, run.passes(floor))


if __name__ == "__main__":
    raise SystemExit(main())
