"""The command line: export, verify, inspect, devices, doctor."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from edgewright import __version__
from edgewright.errors import EdgewrightError
from edgewright.pipeline.collector import collect_seldom

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One PyTorch model in; for every device that you name, a small, verified package out.",
    epilog="Exit codes: 0 all passed; 1 a limit or a comparison was missed; 2 bad input or usage; 130 interrupted.",
)


def main() -> NoReturn:
    """Run the command line; errors of ours are printed as they are, without a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    collect_seldom()
    try:
        app()
        raise SystemExit(0)
    except EdgewrightError as error:
        print(f"edgewright: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except SystemExit as exit_:
        if exit_.code == 130:  # Typer's answer to Ctrl-C
            print("edgewright: interrupted; every package in place is whole", file=sys.stderr)
        raise


def _terminate(number: int, frame: object) -> NoReturn:
    """SIGTERM ends as Ctrl-C does: workers are stopped and staging is cleaned up on the way out."""
    print("edgewright: terminated; nothing was overwritten", file=sys.stderr)
    raise SystemExit(128 + number)


def _console() -> Console:
    from rich.console import Console

    # A file or a pipe has no width of its own: give tables room there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 150)


def _quiet_libraries() -> None:
    """Keep what runtimes warn of while they are imported off the user's terminal. No code of the user runs there."""
    import logging

    logging.disable(logging.WARNING)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edgewright {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One PyTorch model in; for every device that you name, a small, verified package out."""


@app.command()
def export(
    release: Annotated[Path, typer.Argument(help="The release file (TOML).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for packages, release.json and report.html.")],
    strict: Annotated[bool, typer.Option("--strict", help="Count undecided predictions as misses.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for each converter's process.")] = 900.0,
    trust_input: Annotated[str | None, typer.Option("--trust-input", help="SHA-256 of a .pt2 source.")] = None,
    runtimes_folder: Annotated[
        Path | None, typer.Option("--runtimes-folder", help="Where environments of named runtimes are kept.")
    ] = None,
) -> None:
    """Carry a release file out: one verified package for each delivery."""
    from edgewright.pipeline.console import Stopwatch, print_result

    console = _console()
    with Stopwatch(console) as stopwatch:
        # Imported behind the stopwatch: PyTorch takes seconds.
        from edgewright.pipeline.export import export as run

        result = run(
            release,
            out,
            strict=strict,
            timeout_s=timeout,
            trust_input=trust_input,
            runtimes_folder=runtimes_folder,
            progress=stopwatch.stage,
        )
    print_result(console, result, out)
    missed = bool(result.missed_steps) or any(
        delivery.status in ("missed", "failed", "refused") for delivery in result.deliveries
    )
    raise typer.Exit(1 if missed else 0)


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="A package folder or its .zip.")],
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", help="Run in this version instead, such as onnxruntime==1.17.3. Repeatable."),
    ] = None,
    runtimes_folder: Annotated[
        Path | None, typer.Option("--runtimes-folder", help="Where environments of named runtimes are kept.")
    ] = None,
) -> None:
    """Check a package's hashes and run its test vectors in the runtime on this machine, or in versions that you name.

    A named version is installed in an environment of its own, which is kept for the next time.
    """
    _quiet_libraries()
    from edgewright.pipeline.console import print_verification
    from edgewright.pipeline.verify import verify as run

    found = run(
        package,
        threads,
        runtimes=runtime or (),
        runtimes_folder=runtimes_folder,
        progress=lambda stage: print(f"{stage} ...", file=sys.stderr),
    )
    print_verification(_console(), found)
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A package, or an .onnx, .tflite, .xml, .mlpackage or .mlmodel file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="Which operations would leave this device's accelerator.")
    ] = None,
    delegate: Annotated[
        str | None, typer.Option("--delegate", help="The same for a delegate, such as tflite-gpu or edge-tpu.")
    ] = None,
) -> None:
    """Show what a file really holds and computes."""
    if device is not None and delegate is not None:
        raise typer.BadParameter("give --device or --delegate, not both")
    _quiet_libraries()
    from edgewright.pipeline.inspect_console import inspection_json, print_inspection
    from edgewright.pipeline.inspection import inspect_with_target

    found, target = inspect_with_target(path)
    placement = None
    if device is not None:
        from edgewright.device_profiles import load_profile
        from edgewright.device_profiles.placement import place

        placement = place(found, target, load_profile(device))
    elif delegate is not None:
        from edgewright.device_profiles.placement import place_on

        placement = place_on(found, target, delegate)
    if json:
        print(inspection_json(found, placement))
    else:
        print_inspection(_console(), found, placement)


@app.command()
def devices() -> None:
    """List the device profiles that ship with edgewright."""
    from edgewright.pipeline.console import print_devices

    print_devices(_console())


@app.command()
def doctor() -> None:
    """Show which targets are ready here, with the versions of their packages."""
    from edgewright.pipeline.console import print_doctor

    print_doctor(_console())
