"""Check a package: its files against the manifest, and its test vectors in the runtime here or in named versions."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from edgewright.errors import PackageError, TargetError
from edgewright.pipeline.manifest import Manifest
from edgewright.pipeline.metrics import sqnr_by_output
from edgewright.pipeline.package import MANIFEST, file_records, read_vectors
from edgewright.pipeline.runtimes import Pin, find_pins
from edgewright.pipeline.runtimes_environment import Progress
from edgewright.pipeline.runtimes_run import NamedRun, run_in
from edgewright.problems import problems_of
from edgewright.targets import get_target, require_runtime
from edgewright.targets.base import Arrays, Target

MOST_MEMBERS, MOST_BYTES, MOST_RATIO = 10_000, 8 << 30, 1000


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Args:
        faults: sentences on files that are missing, extra or changed.
        outputs: SQNR in dB of each output on the test vectors; empty when the files are at fault already, or when
            runtimes were named.
        named: what each named runtime made of the vectors.
    """

    manifest: Manifest
    faults: tuple[str, ...]
    outputs: dict[str, float]
    runtime: str = ""
    provenance: str = ""
    named: tuple[NamedRun, ...] = ()

    @property
    def passed(self) -> bool:
        floor = self.manifest.vectors.floor_db
        here = all(value >= floor for value in self.outputs.values())
        return (
            not self.faults
            and bool(self.outputs or self.named)
            and here
            and all(run.passes(floor) for run in self.named)
        )


def verify(
    package: str | Path,
    threads: int = 1,
    *,
    runtimes: Sequence[str] = (),
    runtimes_folder: Path | None = None,
    progress: Progress = lambda stage: None,
) -> Verification:
    """Check a package folder or zip.

    Args:
        runtimes: run the vectors in these instead of the one that is installed here, each in an environment of its
            own: "onnxruntime==1.17.3".
        runtimes_folder: where such environments are kept; None: the user's cache.
        progress: hears of every environment that has to be made.
    Raises:
        PackageError: it is no package, or an archive that is not safe to read.
        TargetError: the target's runtime is not installed here; a named one is unknown, of another format, or cannot
            be installed.
    """
    with open_package(Path(package)) as folder:
        manifest = read_manifest(folder)
        faults = tuple(_file_faults(folder, manifest))
        if faults:
            return Verification(manifest, faults, {})
        target = get_target(manifest.target)
        pins = find_pins(runtimes, target)
        if not pins:
            require_runtime(target)
        try:
            if pins:
                return _run_named(folder, manifest, pins, threads, runtimes_folder, progress)
            return _run_vectors(folder, manifest, target, threads)
        except TargetError:
            raise
        except Exception as error:  # noqa: BLE001  (a runtime can raise anything on a file that is none of its own)
            fault = f"{manifest.artifact}: does not run on its test vectors ({type(error).__name__}: {error})"
            return Verification(manifest, (fault.split("\n")[0],), {})


def _run_vectors(folder: Path, manifest: Manifest, target: Target, threads: int) -> Verification:
    vectors = read_vectors(folder / manifest.vectors.file)
    with target.open(target.find((folder / manifest.artifact).parent), threads) as session:
        found: list[Arrays] = [session.run(inputs) for inputs, _ in vectors]
        runtime, provenance = session.runtime, session.provenance
    outputs = sqnr_by_output([expected for _, expected in vectors], found)
    return Verification(manifest, (), outputs, runtime, provenance)


def _run_named(
    folder: Path,
    manifest: Manifest,
    pins: Sequence[Pin],
    threads: int,
    kept: Path | None,
    progress: Progress,
) -> Verification:
    vectors = read_vectors(folder / manifest.vectors.file)
    dtypes = {port.name: port.dtype for port in (*manifest.inputs, *manifest.outputs)}
    artifact = folder / manifest.artifact
    runs = [run_in(pin, artifact, vectors, dtypes, threads=threads, folder=kept, progress=progress) for pin in pins]
    return Verification(manifest, (), {}, provenance="measured-on-host", named=tuple(runs))


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json of a package folder."""
    file = folder / MANIFEST
    if not file.is_file():
        raise PackageError("not an edgewright package", got=folder, expected=f"a folder or zip that holds {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise PackageError(
            "the manifest does not fit its schema",
            got="; ".join(problems_of(error, Manifest)[:5]),
            where=file,
        ) from None
    except UnicodeDecodeError as error:
        raise PackageError("the manifest is not text", got=error, where=file) from None
    for name in (manifest.artifact, manifest.vectors.file, *manifest.files):
        if not _is_inside(name):
            raise PackageError("the manifest names a file outside of the package", got=name, where=file)
    return manifest


def _file_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    links = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()]
    yield from (f"{name}: a link" for name in sorted(links))
    found = file_records(folder)
    yield from (f"{name}: missing" for name in sorted(set(manifest.files) - set(found)))
    yield from (f"{name}: not in the manifest" for name in sorted(set(found) - set(manifest.files)))
    for name in sorted(set(found) & set(manifest.files)):
        if found[name] != manifest.files[name]:
            yield f"{name}: changed (sha256 {found[name].sha256[:12]}, manifest {manifest.files[name].sha256[:12]})"


@contextmanager
def open_package(package: Path) -> Iterator[Path]:
    """The folder of a package; a zip is unpacked for as long as the context lasts.

    Raises:
        PackageError: neither, or an archive that is not safe to read.
    """
    if package.is_dir():
        yield package
        return
    if not package.is_file() or not zipfile.is_zipfile(package):
        raise PackageError("not an edgewright package", got=package, expected="a package folder or its .zip")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = _unpack(package, Path(scratch))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # encrypted: RuntimeError
            raise PackageError("the archive is damaged", got=error, where=package) from None
        yield folder


def _unpack(package: Path, scratch: Path) -> Path:
    """Extract member by member: regular files with names that stay inside, within limits, none twice."""
    with zipfile.ZipFile(package) as zipped:
        members = zipped.infolist()
        names = [member.filename for member in members]
        total, packed = (
            sum(member.file_size for member in members),
            sum(member.compress_size for member in members),
        )
        unsafe = sorted(name for name in names if not _is_inside(name))
        if unsafe or len(set(names)) < len(names):
            raise PackageError(
                "the archive has unsafe or repeated names",
                got=", ".join(unsafe) or "a name twice",
                where=package,
            )
        if len(members) > MOST_MEMBERS or total > MOST_BYTES or total > MOST_RATIO * max(packed, 1):
            raise PackageError(
                "the archive is too large to be a package",
                got=f"{len(members)} files, {total} bytes",
                where=package,
            )
        for member in members:
            if member.is_dir():
                continue
            place = scratch / member.filename
            place.parent.mkdir(parents=True, exist_ok=True)
            with zipped.open(member) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
    tops = [path for path in scratch.iterdir() if path.is_dir()]
    return tops[0] if len(tops) == 1 and not (scratch / MANIFEST).exists() else scratch


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
