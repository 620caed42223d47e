"""Private memory and processor seconds of GPTQ (w4g32) from mapped weights: a model is gone through layer by layer.

Private memory is what the system cannot drop and read again: pages without a file behind them. Each model is measured
in a process of its own, from the moment that the libraries are loaded to the compressed program.

    python -m bench.streaming                    all, into docs/streaming.md; exit code 1 for a missed aim
    python -m bench.streaming --job NAME         one, in this process, as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgewright.pipeline.capture import capture
from edgewright.pipeline.compress import compress
from edgewright.pipeline.program import Program
from edgewright.pipeline.sources import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "streaming.md"
RECIPE = [{"pass": "quantize", "scheme": "w4g32", "rounding": "gptq"}]
TOKENS, BATCHES = 64, 4
HEAD = 64
LAYER_SECONDS = 40.0  # of processor time: 20 s on two cores


class Decoder(nn.Module):
    """Attention and a perceptron of four times the width: the widest inputs for the size of a block that are common."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        read = self.first(x)
        heads = (*x.shape[:2], -1, HEAD)
        query, key, value = (layer(read).reshape(heads).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


@dataclass(frozen=True)
class Job:
    """Equal blocks one after another, whose weights come from a .safetensors file."""

    label: str
    block: Callable[[], nn.Module]
    blocks: int
    width: int

    def write(self, file: Path) -> None:
        from safetensors.torch import save_file

        torch.manual_seed(0)
        save_file({name: tensor.clone() for name, tensor in self.build().state_dict().items()}, str(file))

    def build(self) -> nn.Module:
        return nn.Sequential(*(self.block() for _ in range(self.blocks)))

    def load(self, file: Path) -> Program:
        with torch.device("meta"):
            model = self.build()
        model = model.to_empty(device="cpu")
        load_checkpoint(model, file)
        return capture(model, self.batch())

    def batch(self) -> tuple[Tensor, ...]:
        return (torch.randn(1, TOKENS, self.width),)


def _dense(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(width, width, bias=False), nn.GELU())


JOBS = {
    "small": Job("4 decoder blocks of width 512", lambda: Decoder(512), 4, 512),
    "dense": Job("12 linear layers of 2048 x 2048", _dense(2048), 12, 2048),
    "decoder": Job("6 decoder blocks of width 1024", lambda: Decoder(1024), 6, 1024),
    "layer": Job("1 linear layer of 4096 x 4096", _dense(4096), 1, 4096),
}


@dataclass(frozen=True)
class Measured:
    """Bytes in MB: of the float32 weights, of one block's, and the largest private memory above what was there; seconds
    of processor time."""

    label: str
    weights_mb: float
    block_mb: float
    peak_mb: float
    seconds: float


class PrivatePeak:
    """The largest private memory of this process while the block runs, above that at its start; looked at each 5 ms."""

    def __enter__(self) -> PrivatePeak:
        self._done = threading.Event()
        self._start = self._most = private_bytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, private_bytes())

    @property
    def mb(self) -> float:
        return (self._most - self._start) / 1e6


def private_bytes() -> int:
    """Resident pages of this process without a file behind them."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


def measure(job: Job, file: Path) -> Measured:
    _load_libraries()
    batches = [job.batch() for _ in range(BATCHES)]
    with PrivatePeak() as peak:
        program = job.load(file)
        started = time.process_time()
        compressed = compress(program, RECIPE, batches=batches).program
        seconds = time.process_time() - started
    assert compressed.weight_bytes()["int4"], "weights were rounded"
    total = sum(program.weight_bytes().values())
    return Measured(job.label, total / 1e6, total / job.blocks / 1e6, peak.mb, seconds)


def _load_libraries() -> None:
    small = Job("", _dense(64), 1, 64)
    compress(capture(small.build(), small.batch()), RECIPE, batches=[small.batch()])


def run(name: str) -> Measured:
    """Measure one in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        JOBS[name].write(file)
        command = [sys.executable, "-m", "bench.streaming", "--job", name, "--weights", str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        return Measured(**json.loads(ran.stdout.splitlines()[-1]))


def page(rows: Sequence[Measured]) -> str:
    return "\n".join(
        [
            "# Private memory of GPTQ",
            "",
            "Written by `python -m bench.streaming`: capture and `w4g32` with GPTQ, weights in a .safetensors file, "
            f"{BATCHES} batches of {TOKENS} rows, each model in a process of its own, with one thread. *Peak* is the "
            "private memory above that of the loaded libraries (mapped pages, which the system can drop, are not in "
            "it); a block is what the model repeats: attention and perceptron of a decoder, or one layer.",
            "",
            "| model | float32 weights | largest block | peak | processor seconds |",
            "|---|---|---|---|---|",
            *(
                f"| {row.label} | {row.weights_mb:.0f} MB | {row.block_mb:.0f} MB | {row.peak_mb:.0f} MB | "
                f"{row.seconds:.0f} |"
                for row in rows
            ),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.streaming", description="private memory of GPTQ")
    parser.add_argument("--job", choices=sorted(JOBS))
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args(arguments)
    if options.job:
        print(json.dumps(vars(measure(JOBS[options.job], options.weights))))
        return 0
    rows = [run(name) for name in ("dense", "decoder", "layer")]
    text = page(rows)
    PAGE.write_text(text, encoding="utf-8")
    print(text)
    return int(rows[-1].seconds >= LAYER_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
