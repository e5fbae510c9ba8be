"""OSDs of a cloud's own cluster come and go while it runs, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gureum.bench.clouds import launcher
from gureum.san.ceph import pools
from gureum.san.ceph.cluster import USED, osd
from gureum.san.ceph.osds import is_whole

from .ceph_cluster import INDEX, TIMEOUT_S, CephCluster, until
from .supervised import Supervised

pytestmark = [pytest.mark.root, pytest.mark.ceph, pytest.mark.timeout(600)]

GIB = 1 << 30
CHANGE_SECONDS = 150.0
FEW_KILLS = (1.5, 4.0)
MANY_KILLS = tuple(0.5 + 0.35 * number for number in range(24))


class Subject(Supervised):
    """A cluster under a supervisor, with data whose checksum is known, and the commands."""

    def __init__(self, ceph: CephCluster) -> None:
        super().__init__(ceph)
        self.cloud.configure()

    def fill(self) -> None:
        data = self.ceph.directory / "data"
        data.write_bytes(os.urandom(24 << 20))
        self.digest = hashlib.sha256(data.read_bytes()).hexdigest()
        self.ceph.rbd("import", "--no-progress", str(data), "data")

    def command(self, *words: str) -> list[str]:
        return [*launcher(), "san", "osd", *words, "--state-dir", str(self.cloud.state_dir)]

    def begin(self, *words: str) -> None:
        """Killed while it copies."""
        with subprocess.Popen(self.command(*words), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("copying")
            process.kill()

    def osd(self, *words: str, kills: tuple[float, ...] = ()) -> str:
        """`gureum san osd ...`, killed after these seconds, and then to its end; what it says."""
        command = self.command(*words)
        before = len(self.ceph.cluster.osds)
        for seconds in kills:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            try:
                _, said = process.communicate(timeout=seconds)
                assert process.returncode == 0, said
                return said
            except subprocess.TimeoutExpired:
                # What it started goes on without it, or does not.
                os.killpg(process.pid, signal.SIGKILL) if len(words) % 2 else process.kill()
                process.communicate()
                if words[0] == "add" and len(self.ceph.cluster.osds) > before and not self.half_done():
                    return ""  # but for saying so
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHANGE_SECONDS, check=False)
        return f"{done.stdout}{done.stderr}"

    def half_done(self) -> bool:
        return any(disk.state != USED for disk in self.ceph.cluster.disks())

    def check(self, *numbers: int) -> None:
        """These OSDs and no others, all copies where they belong, nothing lost and nothing left over."""
        self.ceph.wait_well()
        until(lambda: is_whole(self.ceph.admin("status")))  # a new manager has to count first
        dump = self.ceph.admin("osd dump")["osds"]
        assert [(each["osd"], each["up"], each["in"]) for each in dump] == [(n, 1, 1) for n in numbers]
        names = {osd(number) for number in numbers}
        assert {name for name in self.cloud.running_daemons() if name.startswith("osd")} == names
        directory = self.ceph.cluster.directory
        assert {path.name for path in directory.glob("*osd.*")} == names
        known = {each["entity"] for each in self.ceph.admin("auth ls")["auth_dump"]}
        assert {each for each in known if each.startswith("osd")} == names
        tree = self.ceph.admin("osd tree")
        assert sorted(each["id"] for each in tree["nodes"] if each["type"] == "osd") == [*numbers]
        assert tree["stray"] == []
        exported = self.ceph.directory / "exported"
        self.ceph.rbd("export", "--no-progress", "data", str(exported))
        assert hashlib.sha256(exported.read_bytes()).hexdigest() == self.digest
        exported.unlink()

    def lose(self, number: int) -> None:
        """Its disk is empty from now on, and it cannot start."""
        os.truncate(self.ceph.cluster.daemon_dir(osd(number)) / "block", 0)
        os.kill(self.pids()[osd(number)], signal.SIGKILL)
        until(lambda: number not in self.up())

    def up(self) -> set[int]:
        return {each["osd"] for each in self.ceph.admin("osd dump")["osds"] if each["up"]}


@pytest.fixture
def subject() -> Iterator[Subject]:
    ceph = CephCluster(osd_bytes=2 * GIB, index=INDEX + 1)
    made = Subject(ceph)
    try:
        ceph.prepare()
        made.start()
        pools.have_pools(ceph.cluster, time.monotonic() + TIMEOUT_S)
        ceph.wait_well()
        made.fill()
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.end(signal.SIGTERM)
        made.cloud.stop_daemons()
        ceph.close()


@pytest.mark.parametrize(
    "kills",
    [
        FEW_KILLS,
        pytest.param(
            MANY_KILLS,
            marks=pytest.mark.skipif("GUREUM_TEST_LONG" not in os.environ, reason="takes long"),
        ),
    ],
    ids=["few", "many"],
)
def test_added_removed_and_replaced(subject: Subject, kills: tuple[float, ...]) -> None:
    said = subject.osd("remove", "1")
    assert "3 copies need 3 OSDs that run; without osd.1 there are 2" in said
    assert "osd.1 runs" in subject.osd("replace", "1")
    subject.osd("add", "--size", "3G", kills=kills)
    subject.check(0, 1, 2, 3)
    weights = {each["id"]: each["crush_weight"] for each in nodes(subject.ceph)}
    assert weights[3] == pytest.approx(1.5 * weights[0], rel=0.01)

    subject.osd("remove", "1", kills=kills)
    subject.check(0, 2, 3)

    subject.lose(2)
    subject.osd("replace", "2", kills=kills)
    subject.check(0, 2, 3)
    # The same set after all of it was stopped.
    subject.end(signal.SIGTERM)
    subject.cloud.stop_daemons()
    subject.ceph.prepare()
    subject.start()
    subject.check(0, 2, 3)


def nodes(ceph: CephCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ceph.admin("osd tree")["nodes"]
    return [each for each in found if each["type"] == "osd"]


def test_what_was_begun_can_be_taken_back(subject: Subject, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(2 * GIB)
    attach = ["losetup", "--find", "--show", str(disk)]
    device = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    try:
        # On a device, and killed before it is whole; then not wanted any more.
        subject.osd("add", "--device", device, kills=(3.0,))
        subject.check(0, 1, 2, 3)
        assert f"{device} is that of osd.3" in subject.osd("add", "--device", device)
        assert device in subject.osd("list")
        subject.begin("remove", "0")
        assert "osd.0 is being removed" in subject.osd("list")
        assert "osd.0 stays" in subject.osd("remove", "0", "--cancel")
        subject.check(0, 1, 2, 3)
        assert "osd.3 is removed" in subject.osd("remove", "3")
        subject.check(0, 1, 2)
        with open(device, "rb") as wiped:
            assert not any(wiped.read(4096))
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)
