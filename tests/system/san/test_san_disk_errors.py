"""Disks that answer with errors, and daemons that are missing, under a guest that writes."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gureum.bench.clouds import launcher
from gureum.images.manifest import ImageManifest
from gureum.san.ceph.cluster import MGR, MON

from .failing_disk import FailingDisk, failing_disk
from .san_cloud import SanCloud, opened
from .writer import SOME, WRITE_SECONDS, Writer

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

OSD_BYTES = 4 << 30
FAILS = 1
REPLACE_SECONDS = 200.0
AWAY_SECONDS = 60.0


@pytest.fixture(scope="module")
def disk() -> Iterator[FailingDisk]:
    with failing_disk(FAILS) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest, disk: FailingDisk) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES) as made:
        made.start()
        yield made


def found(cloud: SanCloud, code: str) -> dict[str, Any]:
    """What the status says of this, {} if nothing."""
    findings = cloud.san_status()["health"]["findings"]
    return next((each for each in findings if each["code"] == code), {})


def test_reads_fail(cloud: SanCloud, writer: Writer, disk: FailingDisk) -> None:
    """Another copy is read, and the bad one written anew."""
    cloud.admin("config set", who="global", name="mon_osd_warn_num_repaired", value="0")
    root = cloud.instance(writer.id)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(5 * SOME, WRITE_SECONDS)
        cloud.kill(f"osd.{FAILS}")  # so that it has nothing in its memory
        cloud.wait("it to be missed", lambda: not cloud.is_well())
        cloud.wait_well()
        with disk.reads():
            for image in (writer.volume, root):
                cloud.exported(image)
            cloud.read_in_guest(writer.id, writer.volume)
            load.wait_written(SOME, WRITE_SECONDS)
            said = cloud.wait("that to be said", lambda: found(cloud, "OSD_TOO_MANY_REPAIRS"))
            assert said["text"] == f"osd.{FAILS} had many read errors: its disk is failing"
            assert f"gureum san osd remove {FAILS}" in said["todo"]
    cloud.admin("config set", who="global", name="mon_osd_warn_num_repaired", value="1000")
    cloud.wait_well()
    writer.check(load)


def test_writes_fail_and_the_disk_is_replaced(cloud: SanCloud, writer: Writer, disk: FailingDisk) -> None:
    """Full at first, then broken: the OSD ends, and the others go on."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        for error in (errno.ENOSPC, errno.EIO):
            with disk.writes(error):
                cloud.wait("it to end", lambda: found(cloud, "OSD_DOWN"))
                load.wait_written(5 * SOME, WRITE_SECONDS)
                assert cloud.told(writer.id) == ("ok", [])
                said = cloud.wait(
                    "the reason", lambda error=error: os.strerror(error) in found(cloud, "OSD_DOWN")["text"]
                )
                assert said
                assert f"gureum san osd replace {FAILS}" in found(cloud, "OSD_DOWN")["todo"]
        command = [*launcher(), "san", "osd", "replace", str(FAILS), "--force"]
        done = subprocess.run(
            [*command, "--state-dir", str(cloud.cloud.state_dir)],
            capture_output=True,
            text=True,
            timeout=REPLACE_SECONDS,
            check=False,
        )
        assert f"osd.{FAILS} is replaced" in done.stdout, done.stderr
        load.wait_written(SOME, WRITE_SECONDS)
    cloud.wait_well()
    writer.check(load)


def test_no_monitor_and_no_manager(cloud: SanCloud, writer: Writer) -> None:
    """Killed and back at once, or away for some time: whoever has a disk open reads and writes on."""
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        with cloud.held_down(MGR):
            load.wait_written(5 * SOME, WRITE_SECONDS)
            said = cloud.wait("that to be said", lambda: found(cloud, "MGR_DOWN"))
            assert "no manager runs" in said["text"]
            assert "gureum logs mgr.x" in said["todo"]
        cloud.wait_well()
        before = cloud.cloud.running_daemons()[MON]
        cloud.kill(MON)
        cloud.wait("another", lambda: cloud.cloud.running_daemons().get(MON, before) != before)
        load.wait_written(SOME, WRITE_SECONDS)
        with cloud.held_down(MON):
            load.wait_written(5 * SOME, WRITE_SECONDS)
            assert "does not answer" in cloud.san_status()["error"]
        cloud.wait_well()
        load.wait_written(SOME, WRITE_SECONDS)
    writer.check(load)


@pytest.mark.skipif("GUREUM_TEST_LONG" not in os.environ, reason="takes long: set GUREUM_TEST_LONG")
def test_all_away_for_a_minute(cloud: SanCloud, writer: Writer) -> None:
    with cloud.load(writer.id, writer.volume) as load:
        load.wait_written(SOME, WRITE_SECONDS)
        with cloud.halted(MON, MGR, "osd.0", "osd.1", "osd.2"):
            time.sleep(AWAY_SECONDS)
            assert cloud.told(writer.id)[0] == "impaired"
        load.wait_written(SOME, WRITE_SECONDS)
        cloud.wait_well()
    writer.check(load)
