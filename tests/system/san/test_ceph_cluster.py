"""A cloud's own Ceph cluster: made, killed at any moment, moved, supervised."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.cli import storage
from gureum.cli.output import CliError
from gureum.errors import PoolError
from gureum.san.ceph import configuration, pools, status
from gureum.san.ceph.cluster import LOOPBACK, MON, osd
from gureum.san.ceph.machine import daemon_user

from .ceph_cluster import INDEX, OSD_BYTES, TIMEOUT_S, CephCluster, until
from .supervised import Supervised

pytestmark = [pytest.mark.root, pytest.mark.ceph]

OTHER_ADDRESS = "127.0.0.2"
PREPARE = """
import sys
from pathlib import Path
from gureum.san.ceph import bootstrap
from gureum.san.ceph.cluster import Cluster
bootstrap.prepare(Cluster(Path(sys.argv[1])), int(sys.argv[2]), "127.0.0.1", print)
"""


@pytest.fixture
def fresh() -> Iterator[CephCluster]:
    """A cluster of the test's own, not yet made, with ports of its own."""
    made = CephCluster(index=INDEX + 1)
    try:
        yield made
    finally:
        made.close()


def test_copies_places_and_rights(ceph: CephCluster) -> None:
    pool = ceph.admin("osd dump")["pools"][0]
    assert (pool["pool_name"], pool["size"], pool["min_size"]) == (ceph.pool, 3, 2)
    assert list(pool["application_metadata"]) == ["rbd"]
    assert pool["pg_autoscale_mode"] == "off"
    rule = ceph.admin("osd crush rule dump")[pool["crush_rule"]]
    assert [step.get("type") for step in rule["steps"] if "type" in step] == ["osd"]
    ceph.rbd("create", "--size", "16M", "rights")
    try:
        assert "rights" in ceph.rbd("ls").split()
    finally:
        ceph.rbd("rm", "--no-progress", "rights")
    settings = ceph.settings
    assert settings.keyring is not None
    for secret in (ceph.cluster.keys, settings.keyring, ceph.cluster.keyring("admin")):
        assert secret.stat().st_mode & 0o777 == 0o600
    denied = subprocess.run(
        ["ceph", "--conf", str(settings.conf), "--id", settings.user, "osd", "pool", "create", "mine"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "EACCES" in denied.stderr


def test_daemons_are_not_root_where_that_can_be(ceph: CephCluster) -> None:
    user = daemon_user(ceph.directory)
    assert user is not None
    for name in ceph.daemons:
        assert Path(f"/proc/{ceph.pid(name)}").stat().st_uid == user.pw_uid


def test_only_messenger_2_and_only_on_loopback(ceph: CephCluster) -> None:
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    pids = [f"pid={ceph.pid(name)}," for name in ceph.daemons]
    addresses = [line.split()[3] for line in listening.splitlines() if any(pid in line for pid in pids)]
    assert addresses
    assert {address.rpartition(":")[0] for address in addresses} == {LOOPBACK}
    assert {entry["type"] for entry in ceph.admin("mon dump")["mons"][0]["public_addrs"]["addrvec"]} == {"v2"}
    for each in ceph.admin("osd dump")["osds"]:
        assert {entry["type"] for entry in each["public_addrs"]["addrvec"]} == {"v2"}


def test_a_killed_osd_is_seen_at_once_and_comes_back(ceph: CephCluster) -> None:
    ceph.kill(osd(1))
    until(lambda: "OSD_DOWN" in ceph.admin("health")["checks"])
    ceph.start(osd(1))
    ceph.wait_well()


def test_all_killed_and_started_again(ceph: CephCluster) -> None:
    ceph.rbd("create", "--size", "16M", "kept")
    try:
        ceph.kill(*ceph.daemons)
        ceph.bring_up()
        assert "kept" in ceph.rbd("ls").split()
    finally:
        ceph.rbd("rm", "--no-progress", "kept")


def test_stopped_in_order_and_started_again(ceph: CephCluster) -> None:
    before = ceph.admin("fsid")
    ceph.take_down()
    assert not any(map(ceph.runs, ceph.daemons))
    ceph.bring_up()
    assert ceph.admin("fsid") == before


def make_with_kills(ceph: CephCluster) -> None:
    command = [sys.executable, "-c", PREPARE, str(ceph.directory), str(ceph.index)]
    after_s = 0.2
    for attempt in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            assert process.wait(after_s) == 0
            return
        except subprocess.TimeoutExpired:
            # Once alone, so that what it started goes on without it, once with all that it started.
            if attempt % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        after_s += 0.17
    pytest.fail("it was never made")


def test_killed_at_any_moment_of_its_making(fresh: CephCluster) -> None:
    make_with_kills(fresh)
    fresh.bring_up()
    assert not [*fresh.cluster.directory.glob("*.new")]


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    made: list[str] = []
    try:
        for number in range(3):
            disk = tmp_path / f"disk-{number}"
            with open(disk, "wb") as file:
                file.truncate(OSD_BYTES)
            attach = ["losetup", "--find", "--show", str(disk)]
            done = subprocess.run(attach, capture_output=True, text=True, check=True)
            made.append(done.stdout.strip())
        yield tuple(made)
    finally:
        for device in made:
            subprocess.run(["losetup", "--detach", device], check=False)


def test_on_devices(devices: tuple[str, ...]) -> None:
    storage.check_devices(devices)
    ceph = CephCluster(index=INDEX + 1, devices=devices)
    try:
        make_with_kills(ceph)
        ceph.bring_up()
        with pytest.raises(CliError, match=f"there is something on {devices[0]}"):
            storage.check_devices(devices)
        for device in devices:
            os.chown(device, 0, 0)  # as after a boot
        ceph.take_down()
        ceph.bring_up()
        found = status.look(pools.admin(ceph.cluster), ceph.settings)
        assert tuple(each.device for each in found.osds) == devices
        # What the daemon mgr was told last may be older than the third OSD.
        until(lambda: ceph.admin("df")["stats"]["total_bytes"] == 3 * OSD_BYTES)
    finally:
        ceph.close()


def test_killed_while_the_pool_is_made(fresh: CephCluster) -> None:
    fresh.prepare()
    for name in fresh.daemons:
        fresh.start(name)
    pools.have_pools(fresh.cluster, time.monotonic() + TIMEOUT_S)
    # As where the mark was not written, and where only the pool's making was begun.
    fresh.cluster.pool_mark.unlink()
    fresh.admin("osd pool application disable", pool=fresh.pool, app="rbd", yes_i_really_mean_it=True)
    fresh.kill(*fresh.daemons)
    fresh.bring_up()
    assert list(fresh.admin("osd dump")["pools"][0]["application_metadata"]) == ["rbd"]
    assert fresh.rbd("ls") == ""


def test_what_had_data_is_not_made_anew(fresh: CephCluster) -> None:
    fresh.prepare()
    fresh.cluster.pool_mark.touch()
    lost = [fresh.cluster.daemon_dir(osd(number)) for number in (1, 2)]
    lost[0].rename(fresh.directory / "elsewhere")
    fresh.prepare()  # the others have all that it had
    lost[1].rename(fresh.directory / "elsewhere-2")
    with pytest.raises(PoolError, match=r"osd\.1, osd\.2 had data and is gone"):
        fresh.prepare()
    assert not any(path.exists() for path in lost)


def test_moved_to_another_address_and_back(ceph: CephCluster) -> None:
    ceph.rbd("create", "--size", "16M", "moved")
    try:
        for address, mode in ((OTHER_ADDRESS, "secure"), (LOOPBACK, "crc")):
            ceph.take_down()
            # A move that was killed before it was noted is made once more.
            ceph.prepare(address)
            (ceph.cluster.daemon_dir(MON) / "gureum-address").write_text("v2:192.0.2.1:1")
            ceph.prepare(address)
            for name in ceph.daemons:
                ceph.start(name)
            ceph.wait_well()
            wanted = configuration.messenger_address(ceph.cluster.record(), address)
            said = ceph.admin("mon dump")["mons"][0]["public_addrs"]["addrvec"]
            assert [f"{entry['type']}:{entry['addr']}" for entry in said] == [wanted]
            assert f"ms_client_mode = {mode}" in ceph.conf.read_text()
            assert "moved" in ceph.rbd("ls").split()
    finally:
        ceph.rbd("rm", "--no-progress", "moved")


@pytest.fixture
def supervised(fresh: CephCluster) -> Iterator[Supervised]:
    fresh.prepare()
    made = Supervised(fresh)
    made.start()
    try:
        pools.have_pools(fresh.cluster, time.monotonic() + TIMEOUT_S)
        fresh.wait_well()
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.end(signal.SIGTERM)
        made.cloud.stop_daemons()


def test_supervised(supervised: Supervised) -> None:
    before = supervised.pids()
    for name in (osd(0), MON):
        os.kill(before[name], signal.SIGKILL)
    until(lambda: {**before, **supervised.pids()}[osd(0)] != before[osd(0)] and MON in supervised.pids())
    supervised.ceph.wait_well()


def test_the_daemons_outlive_their_supervisor(supervised: Supervised) -> None:
    before = supervised.pids()
    for number in (signal.SIGKILL, signal.SIGTERM):
        supervised.end(number)
        # One that was killed before it could write down whom it had started.
        (supervised.cloud.run_dir / f"{osd(2)}.pid").unlink()
        supervised.start()
        assert supervised.pids() == before
    # Those taken over are looked after too.
    os.kill(before[osd(2)], signal.SIGKILL)
    until(lambda: supervised.pids().get(osd(2), before[osd(2)]) != before[osd(2)])
    supervised.ceph.wait_well()
    supervised.end(signal.SIGTERM)
    supervised.cloud.stop_daemons()
    assert supervised.cloud.running_daemons() == {}
