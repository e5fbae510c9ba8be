import os
import socket
import sys
import types
from pathlib import Path

import pytest

from gureum.cli import doctor
from gureum.cli.doctor import FAIL, OK, WARN, Finding, disk, examine, free_port, kvm
from gureum.cli.packages import PACKAGES
from gureum.san.settings import SanSettings


def test_every_finding_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "kvm", lambda _state_dir: Finding("kvm", OK, "not tried here"))
    for check in ("namespaces", "nftables", "tun", "hosts"):
        monkeypatch.setattr(doctor, check, lambda _state_dir: Finding("network", OK, "not tried here"))
    findings = list(examine(tmp_path, "127.0.0.1", 1))
    assert len(findings) == 12
    assert all(finding.status in (OK, WARN, FAIL) and finding.why for finding in findings)
    assert all(finding.todo for finding in findings if finding.status == FAIL)


@pytest.mark.root
@pytest.mark.parametrize("check", [doctor.namespaces, doctor.nftables, doctor.tun, doctor.hosts])
def test_network_trials_leave_nothing(tmp_path: Path, check: object) -> None:
    assert callable(check)
    finding = check(tmp_path)
    assert finding.status == OK, finding
    assert f"gureum-doctor-{os.getpid()}" not in doctor._run("ip", "netns", "list").stdout


def test_network_trials_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    for check in (doctor.root, doctor.namespaces, doctor.nftables, doctor.tun, doctor.hosts):
        finding = check(tmp_path)
        assert finding.status == FAIL
        assert "sudo" in finding.todo


def test_missing_packages_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft = [package for package in PACKAGES if package.name == "nftables"]
    monkeypatch.setattr(doctor.packages, "missing", lambda _needs: nft)
    finding = doctor.debian_packages(tmp_path)
    assert finding.status == FAIL
    assert finding.todo == "apt-get update && apt-get install -y --no-install-recommends nftables"
    monkeypatch.setattr(doctor.packages, "missing", lambda _needs: [])
    assert doctor.debian_packages(tmp_path).status == OK


def test_a_check_that_cannot_be_made_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_path: object) -> object:
        raise OSError("no such thing")

    monkeypatch.setattr(doctor.shutil, "disk_usage", broken)
    finding = doctor._guarded("disk", lambda: disk(tmp_path))
    assert finding == Finding("disk", WARN, "could not be examined: no such thing")


@pytest.mark.parametrize(("free", "status"), [(1 << 20, FAIL), (5 << 30, WARN), (50 << 30, OK)])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: types.SimpleNamespace(free=free))
    assert disk(tmp_path / "not" / "there").status == status


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert free_port(tmp_path, "127.0.0.1", port).status == FAIL
    assert free_port(tmp_path, "127.0.0.1", port).status == OK


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    monkeypatch.setattr(doctor, "KVM_DEVICE", device)
    return device


def test_no_kvm(tmp_path: Path, device: Path) -> None:
    assert kvm(tmp_path).status == WARN


@pytest.mark.parametrize(("works", "status"), [(True, OK), (False, WARN)])
def test_kvm_is_what_the_probe_found(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch, works: bool, status: str
) -> None:
    device.touch()
    verdict = types.SimpleNamespace(works=works, reason="no guest booted in 3 s")

    async def probe_kvm(_cache_dir: Path) -> types.SimpleNamespace:
        return verdict

    probe = types.SimpleNamespace(probe_kvm=probe_kvm)
    monkeypatch.setitem(sys.modules, "gureum.hypervisors.qemu.probe", probe)
    monkeypatch.setattr(doctor.importlib, "import_module", sys.modules.__getitem__)
    assert kvm(tmp_path).status == status


def test_packages_for_ceph_only_where_disks_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = [package for package in PACKAGES if package.name == "ceph-osd"]
    monkeypatch.setattr(
        doctor.packages, "missing", lambda needs: lacking if doctor.packages.Need.SAN in needs else []
    )
    assert doctor.debian_packages(tmp_path).status == OK
    SanSettings("ceph", tmp_path / "ceph.conf", tmp_path / "keyring").save(tmp_path)
    found = doctor.debian_packages(tmp_path)
    assert found.status == FAIL
    assert "ceph-osd" in found.todo
