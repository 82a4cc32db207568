from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from earlybird.errors import ConfigError, RunFolderError
from earlybird.runs.folder import RunFolder
from earlybird.runs.record_file import finished_record
from earlybird.settings.run import RunConfig, differences


def config(**training: object) -> RunConfig:
    return RunConfig.from_dict({"training": training})


def test_a_path_that_climbs_is_refused(tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"contains '\.\.'"):
        RunFolder(tmp_path / ".." / "x")


def test_a_symlinked_folder_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RunFolderError, match="symbolic link"):
        RunFolder(tmp_path / "link")


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file")


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        RunFolder(tmp_path).open(config())


def test_force_goes_on_and_is_logged(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.open(config())
    folder.write_config(config(), {"precision": "fp32"})
    assert folder.open(config()) == {"precision": "fp32"}
    with pytest.raises(RunFolderError, match=r"training\.epochs: 160 -> 3"):
        folder.open(config(epochs=3))
    assert folder.open(config(epochs=3), force=True) == {"precision": "fp32"}
    assert "training.epochs: 160 -> 3" in (folder.path / "run.log").read_text()
    assert folder.open(config(epochs=3)) == {"precision": "fp32"}


def test_a_setting_younger_than_the_folder_is_no_difference(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.write_config(config(), {})
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del stored["method"]["tie_score"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    assert RunFolder(tmp_path).open(config()) == {}
    with pytest.raises(RunFolderError, match="method.tie_score: 'mean' -> 'max'"):
        RunFolder(tmp_path).open(RunConfig.from_dict({"method": {"tie_score": "max"}}))


def test_a_setting_that_exists_no_more_is_a_difference(tmp_path: Path):
    RunFolder(tmp_path).write_config(config(), {})
    with open(tmp_path / "config.yaml", "a") as file:
        file.write("extra: {old: 1}\n")
    with pytest.raises(RunFolderError, match=r"extra\.old: 1 -> None"):
        RunFolder(tmp_path).open(config())


def test_a_corrupt_record_is_named(tmp_path: Path):
    assert finished_record(tmp_path) is None
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"cannot read record .*record\.json"):
        finished_record(tmp_path)


def test_a_configuration_survives_yaml():
    before = RunConfig.from_dict(
        {"method": {"name": "early_bird", "prune_ratio": 0.3}, "training": {"milestones": [0.2]}}
    )
    assert RunConfig.from_dict(yaml.safe_load(yaml.safe_dump(before.to_dict()))) == before
    assert RunConfig.from_dict({"method": {"name": "dense"}}).to_dict()["method"] == {"name": "dense"}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"modle": {}}, r"unknown section: 'modle'; did you mean 'model'"),
        ({"training": {"epoch": 3}}, r"unknown key in 'training': 'epoch'; did you mean 'epochs'"),
        ({"method": {"name": "dense", "prune_ratio": 0.5}}, r"unknown key in 'method': 'prune_ratio'"),
        ({"data": {"val_fraction": 1.0}}, r"data\.val_fraction is 1\.0; give a number in \[0, 1\)"),
    ],
)
def test_an_unknown_or_illegal_value_names_the_legal_ones(plain: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(plain)


def test_differences_name_every_setting_on_both_sides():
    a, b = {"x": {"k": 1, "only_a": 2}}, {"x": {"k": 3}, "y": {"new": 4}}
    assert differences(a, b) == ["x.k: 1 -> 3", "x.only_a: 2 -> None", "y.new: None -> 4"]
