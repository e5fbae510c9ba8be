import os
import subprocess
from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.san.ceph import making
from gureum.san.ceph.cluster import Cluster, Disk


def test_last_words_are_errors_if_there_are_any() -> None:
    said = "2026-01-01T00:00:00.0 7f  0 set uid\n2026-01-01T00:00:00.1 7f -1 cannot open: (13) denied\n"
    assert making.last_words(said).endswith("cannot open: (13) denied")
    assert "set uid" not in making.last_words(said)
    assert making.last_words("") == "it said nothing"


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path)
    cluster.directory.mkdir()
    monkeypatch.setattr(making, "LOCK_TIMEOUT_S", 0.0)
    with making.locked(cluster), pytest.raises(ConfigError, match="held by another"), making.locked(cluster):
        pass


UUID = "96f677ac-7ae5-40ee-89b9-00c21d4816a8"
HEAD = f"bluestore block device\n{UUID}\n".encode() + b"\x02\x01rest"


def test_whose_a_disk_is(tmp_path: Path) -> None:
    assert making.label(HEAD) == UUID
    assert making.label(b"\xeb\x63\x90 another's\n") == making.label(b"") == ""
    cluster = Cluster(tmp_path)
    assert making.labels(cluster, Disk(number=1)) == frozenset()
    cluster.daemon_dir("osd.1").mkdir(parents=True)
    (cluster.daemon_dir("osd.1") / "fsid").write_text(f"{UUID}\n")
    assert making.labels(cluster, Disk(number=1, uuid="wanted")) == {UUID, "wanted"}


def test_only_an_osd_s_own_device_is_given_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a boot another disk may have the name that it had."""
    cluster = Cluster(tmp_path)
    cluster.daemon_dir("osd.1").mkdir(parents=True)
    (cluster.daemon_dir("osd.1") / "fsid").write_text(f"{UUID}\n")
    given: list[Path] = []
    monkeypatch.setattr(making.Maker, "give", lambda _, path: given.append(path))
    maker = making.Maker(cluster, 0)
    device = tmp_path / "sdb"
    maker.give_disk(Disk(number=1, device=str(device)))  # gone
    for head in (b"another's", HEAD.replace(b"9", b"8"), HEAD):
        device.write_bytes(head)
        maker.give_disk(Disk(number=1, device=str(device)))
    maker.give_disk(Disk(number=1, bytes=1))
    assert given == [device]


def test_a_wiped_disk_is_nobody_s(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"bluestore block device\n" + b"x" * (2 * making.LABEL_BYTES))
    making.wipe(str(disk))
    assert not any(disk.read_bytes()[: making.LABEL_BYTES])
    assert any(disk.read_bytes())


@pytest.mark.root
def test_a_disk_in_use_is_not_wiped(tmp_path: Path) -> None:
    """Mounted, part of a volume group, or another daemon's: who has it in use has it for itself."""
    file = tmp_path / "disk"
    file.write_bytes(b"data" * making.LABEL_BYTES)
    attach = ["losetup", "--find", "--show", str(file)]
    device = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    try:
        user = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            with pytest.raises(OSError, match="busy"):
                making.wipe(device)
        finally:
            os.close(user)
        assert making.device_label(device) == ""
        making.wipe(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert not any(file.read_bytes()[: making.LABEL_BYTES])
