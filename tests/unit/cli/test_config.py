import os
import shutil
import stat
from pathlib import Path

import pytest

from gureum.cli import config
from gureum.cli.cloud import Cloud
from gureum.cli.config import (
    CloudConfig,
    claim_index,
    make_state_dir,
    new_config,
    resolve_state_dir,
)
from gureum.cli.output import CliError
from gureum.errors import ConfigError


def make(tmp_path: Path, name: str = "a") -> CloudConfig:
    state_dir = tmp_path / name
    make_state_dir(state_dir)
    made = new_config(state_dir, tmp_path)
    made.save(state_dir)
    return made


def test_new_config_is_random_and_well_formed(tmp_path: Path) -> None:
    first, second = make(tmp_path, "a"), make(tmp_path, "b")
    assert len(first.account_id) == 12
    assert first.account_id.isdigit()
    assert first.access_key_id.startswith("GU")
    assert len(first.access_key_id) == 20
    assert len(first.secret_access_key) == 40
    assert first.secret_access_key != second.secret_access_key
    assert (first.index, second.index) == (0, 1)


@pytest.mark.parametrize(
    ("directory", "name"), [("My Cloud!", "my-cloud-0"), ("구름", "cloud-0"), ("x" * 40, "x" * 16 + "-0")]
)
def test_names_can_be_used_anywhere(tmp_path: Path, directory: str, name: str) -> None:
    assert make(tmp_path, directory).name == name


def test_round_trip_and_mode(tmp_path: Path) -> None:
    made = make(tmp_path)
    path = tmp_path / "a" / "config.json"
    assert CloudConfig.load(tmp_path / "a") == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o711


def test_damaged_config_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        CloudConfig.load(tmp_path / "a")


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        CloudConfig.load(tmp_path)


def test_index_is_kept_and_freed_with_its_state_directory(tmp_path: Path) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b")
    assert claim_index(tmp_path / "b", tmp_path) == 1
    shutil.rmtree(tmp_path / "a")
    assert claim_index(tmp_path / "c", tmp_path) == 0


def test_index_is_its_claimants_before_there_is_a_configuration(tmp_path: Path) -> None:
    """Two clouds that are made at once would have the same networks."""
    for number, name in enumerate("ab"):
        make_state_dir(tmp_path / name)
        assert claim_index(tmp_path / name, tmp_path) == number


def test_no_index_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "INDEX_COUNT", 1)
    make(tmp_path, "a")
    with pytest.raises(ConfigError, match="1 clouds already"):
        claim_index(tmp_path / "b", tmp_path)


def test_state_dir_is_chosen_by_option_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUREUM_STATE", "/var/tmp/from-environment")
    assert resolve_state_dir(Path("/x")) == Path("/x")
    assert resolve_state_dir(None) == Path("/var/tmp/from-environment")
    monkeypatch.delenv("GUREUM_STATE")
    assert resolve_state_dir(None).name == "default"


def test_state_dir_too_long_for_sockets() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        resolve_state_dir(Path("/" + "x" * 60))


def test_longest_socket_path_fits() -> None:
    longest = "x" * config.STATE_PATH_MAX + "/run/machines/i-0123456789abcdef0/console.sock"
    assert len(longest) <= 107


def test_default_base_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config.default_base() == Path("/home/somebody/.local/share/gureum")


@pytest.mark.parametrize(
    ("changes", "endpoint"),
    [
        ({}, "http://127.0.0.1:4566"),
        ({"host": "::1", "port": 1}, "http://[::1]:1"),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"}, "https://127.0.0.1:4566"),
    ],
)
def test_endpoint(tmp_path: Path, changes: dict[str, str | int], endpoint: str) -> None:
    import msgspec

    assert msgspec.structs.replace(make(tmp_path), **changes).endpoint == endpoint


def test_saving_lasts_through_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is flushed too, else the file's new name may be lost, and the credentials with it."""
    flushed: list[bool] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    make(tmp_path)
    assert flushed[-2:] == [False, True]


def test_a_cloud_keeps_its_index_when_a_lower_one_becomes_free(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for state_dir in (first, second):
        state_dir.mkdir()
        claim_index(state_dir, tmp_path)
    first.rmdir()
    assert claim_index(second, tmp_path) == 1
    assert sorted(path.name for path in (tmp_path / "indexes").iterdir()) == ["0", "1"]


def test_commands_that_are_told_are_of_the_same_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUREUM_STATE", str(tmp_path))
    assert config.naming(tmp_path) == ""
    assert config.naming(tmp_path / "a b") == f" --state-dir '{tmp_path}/a b'"
    with pytest.raises(CliError) as caught:
        Cloud(tmp_path / "other").config()
    assert caught.value.next_step == f"gureum up -d --state-dir {tmp_path}/other"
