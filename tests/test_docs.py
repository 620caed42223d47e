"""The pages keep up with the code: names that they list, files that they link, the release file that they show."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edgewright.pipeline.manifest import Manifest
from edgewright.pipeline.recipe import PASSES, SCHEMES
from edgewright.pipeline.release import Release
from edgewright.targets import TARGETS, get_target, target_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PASSES_PAGE = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
LEGALIZATIONS = sorted({step.name for name in TARGETS for step in get_target(name).legalize()})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    folders = r"(?:pipeline|targets|calibration|device_profiles|bench|src|tests)"
    named = re.findall(rf"`({folders}/[\w/]+\.(?:py|toml))`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("name", sorted(PASSES) + LEGALIZATIONS)
def test_every_pass_has_a_row(name: str) -> None:
    assert f"| `{name}` |" in PASSES_PAGE


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_row_names_the_passes_that_it_expands_to(scheme: str) -> None:
    row = next(line for line in PASSES_PAGE.splitlines() if f'scheme = "{scheme}"` |' in line)
    assert tuple(re.findall(r"`([a-z0-9-]+)`", row)) == SCHEMES[scheme]


@pytest.mark.parametrize("name", target_names())
def test_target_page_states_tolerances_and_legalizations(name: str) -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    capabilities = get_target(name).capabilities
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {capabilities.tolerance_db:.0f} dB | {capabilities.half_tolerance_db:.0f} dB |" in row
    assert not [step.name for step in get_target(name).legalize() if f"`{step.name}`" not in page]


def test_package_page_names_every_key_of_the_manifest() -> None:
    page = (ROOT / "docs" / "packages.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`(\w+)`", page)) | {"schema_version", "name", "release", "edgewright", "source"}
    assert not set(Manifest.model_fields) - known


def test_release_file_of_the_readme_is_one() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL))
    assert Release.model_validate(tomllib.loads(block)).deliver[0].target == "tflite"
