from pathlib import Path

import pytest

from gureum.cli import packages
from gureum.cli.packages import PACKAGES, Need, apt_command, by_hand, installed, missing, packages_for

STATUS = """Package: nftables
Status: install ok installed
Version: 1

Package: qemu-utils
Status: deinstall ok config-files
Version: 1

Package: iproute2
Status: install ok half-configured
"""


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "has_programs", lambda _package: False)
    path = tmp_path / "status"
    path.write_text(STATUS)
    return path


def test_only_whole_packages_count(status: Path) -> None:
    assert installed(status) == {"nftables"}
    assert installed(status.with_name("none")) is None


def test_missing_names_what_is_not_installed(status: Path) -> None:
    names = [package.name for package in missing([Need.RUN], status)]
    assert "nftables" not in names
    assert {"qemu-utils", "iproute2"} <= set(names)


def test_programs_from_elsewhere_will_do(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "has_programs", lambda _package: True)
    assert missing([Need.RUN], status) == []


def test_venv_counts_where_ensurepip_is(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing([Need.SETUP], status) == []
    monkeypatch.setattr(packages, "_has_ensurepip", lambda: False)
    assert [package.name for package in missing([Need.SETUP], status)] == ["python3-venv"]


def test_tests_need_what_runs() -> None:
    assert set(packages_for([Need.RUN])) <= set(packages_for([Need.TEST]))


def test_each_package_is_listed_once() -> None:
    names = [package.name for package in PACKAGES]
    assert len(names) == len(set(names))


def test_apt_command_names_them() -> None:
    assert apt_command(PACKAGES[:1]) == [
        "apt-get",
        "install",
        "-y",
        "--no-install-recommends",
        "python3-venv",
    ]


def test_by_hand_reads_the_lists_first() -> None:
    """A fresh machine has none, and an old machine's name versions that are gone."""
    (venv, *_) = PACKAGES
    assert by_hand([venv]) == "apt-get update && apt-get install -y --no-install-recommends python3-venv"
    assert by_hand([venv], sudo=True).count("sudo apt-get") == 2
