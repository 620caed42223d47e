"""What a profile file must hold, and how its mistakes are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edgewright.device_profiles import DeviceProfile, load_profile, profile_names
from edgewright.device_profiles.load import FOLDER
from edgewright.device_profiles.schema import Figure
from edgewright.errors import DeviceError

SHIPPED = [name for name in profile_names() if name != "host"]


def figures(value: object) -> list[Figure]:
    """Every figure inside a model."""
    if isinstance(value, Figure):
        return [value]
    if isinstance(value, tuple):
        return [figure for part in value for figure in figures(part)]
    if isinstance(value, BaseModel):
        return [figure for name in type(value).model_fields for figure in figures(getattr(value, name))]
    return []


def changed(tmp_path: Path, *replacements: tuple[str, str]) -> Path:
    """A copy of the Pixel 8's profile with some text replaced."""
    text = (FOLDER / "pixel-8.toml").read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text, f"the shipped profile no longer holds {old!r}"
        text = text.replace(old, new, 1)
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_names_are_sorted_and_hold_the_five_devices_and_the_host() -> None:
    assert profile_names() == tuple(sorted(profile_names()))
    assert {"pixel-8", "iphone-15-pro", "raspberry-pi-5", "intel-n100", "galaxy-s24", "host"} <= set(profile_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_loads_under_its_own_id(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    assert profile.targets
    assert not profile.is_host


@pytest.mark.parametrize("name", SHIPPED)
def test_each_figure_has_a_public_source(name: str) -> None:
    profile = load_profile(name)
    found = figures(profile)
    assert len(found) > 50
    sources = [figure.source for figure in found]
    sources += [anchor.source for anchor in profile.calibration.anchors]
    sources += [core_set.source for core_set in profile.core_sets] + [profile.isa.source]
    for source in sources:
        assert source.strip()
        assert not re.search(r"/work|/tmp|/home", source), f"{source} is a path of one machine"


@pytest.mark.parametrize("name", SHIPPED)
def test_fitted_kernels_have_anchors_to_be_fitted_to(name: str) -> None:
    profile = load_profile(name)
    for runtime in profile.runtimes:
        for kernel in runtime.kernels:
            anchors = [
                anchor
                for anchor in profile.anchors_of(runtime.target)
                if anchor.unit == kernel.unit and anchor.compute in kernel.dtypes
            ]
            assert kernel.efficiency.source.startswith("fit:") == bool(anchors)


def test_an_unknown_device_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeviceError, match="did you mean 'pixel-8'"):
        load_profile("pixel8")


def test_a_users_own_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    file = changed(tmp_path, ('id = "pixel-8"', 'id = "my-phone"'))
    assert load_profile(file).id == load_profile(str(file)).id == "my-phone"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot be read[\s\S]*nowhere\.toml"):
        load_profile(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text('id = "x"\nname =\n', encoding="utf-8")
    with pytest.raises(DeviceError, match=r"not TOML[\s\S]*line 2"):
        load_profile(file)


def test_unknown_key_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = changed(tmp_path, ("app_budget_mb =", "app_bugdet_mb ="))
    with pytest.raises(DeviceError) as error:
        load_profile(file)
    assert "memory.app_bugdet_mb: unknown key, did you mean 'app_budget_mb'?" in str(error.value)


def test_unknown_key_deep_inside_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    file = changed(tmp_path, ("\nefficiency =", "\neficiency ="))
    with pytest.raises(DeviceError) as error:
        load_profile(file)
    assert "runtimes.0.kernels.0.eficiency: unknown key, did you mean 'efficiency'?" in str(error.value)


def test_all_problems_are_told_in_one_error_with_file_and_keys(tmp_path: Path) -> None:
    file = changed(
        tmp_path,
        ('soc = "Google Tensor G3"\n', ""),
        ("count = 1", 'count = "one"'),
        ("threads = 1", "thraeds = 1"),
        ("value = 2.91", "value = -2.91"),
    )
    with pytest.raises(DeviceError) as error:
        load_profile(file)
    text = str(error.value)
    assert "5 problems" in text
    assert "soc: missing" in text
    assert "core_sets.0.count: got 'one', expected:" in text
    assert "core_sets.0.ghz.value: got -2.91, expected:" in text
    assert "runtimes.0.thraeds: unknown key, did you mean 'threads'?" in text
    assert "runtimes.0.threads: missing" in text
    assert str(file) in text


@pytest.mark.parametrize("value", ['"51"', "true", "nan", "inf", "0"])
def test_a_figure_must_be_a_positive_finite_number(tmp_path: Path, value: str) -> None:
    file = changed(tmp_path, ("value = 2.91", f"value = {value}"))
    with pytest.raises(DeviceError, match=r"core_sets\.0\.ghz\.value"):
        load_profile(file)


@pytest.mark.parametrize("source", ['""', '"  "'])
def test_a_figure_without_a_source_is_refused(tmp_path: Path, source: str) -> None:
    file = changed(tmp_path, ('ghz = { value = 2.91, source = "', f'ghz = {{ value = 2.91, source = {source} }} # "'))
    with pytest.raises(DeviceError, match=r"core_sets\.0\.ghz\.source"):
        load_profile(file)


def test_a_spread_below_one_is_refused(tmp_path: Path) -> None:
    file = changed(tmp_path, ("spread = { value = 1.5,", "spread = { value = 0.5,"))
    with pytest.raises(DeviceError, match="spread"):
        load_profile(file)


def test_a_kernel_without_its_peak_is_refused(tmp_path: Path) -> None:
    file = changed(tmp_path, ('unit = "tpu"\ndtype = "int8"', 'unit = "tpu"\ndtype = "float16"'))
    with pytest.raises(DeviceError, match="kernel tpu/int8 has no row in throughput"):
        load_profile(file)


def test_a_stand_in_without_its_factor_is_refused(tmp_path: Path) -> None:
    file = changed(tmp_path, ('{ device = "Pixel 6"', '{ device = "Pixel 7"'))
    with pytest.raises(DeviceError, match="no stand_ins entry for 'Pixel 6'"):
        load_profile(file)


def test_a_profile_does_not_change_after_loading() -> None:
    profile = load_profile("pixel-8")
    attribute: Any = "name"
    with pytest.raises(ValueError, match="frozen"):
        setattr(profile, attribute, "another")


def test_a_profile_survives_json() -> None:
    profile = load_profile("raspberry-pi-5")
    assert DeviceProfile.model_validate_json(profile.model_dump_json()) == profile
