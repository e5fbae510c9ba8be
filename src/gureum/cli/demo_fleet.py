"""``gureum demo --hosts N --san ceph``: a guest goes on writing whatever becomes of its host and disks."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad
from gureum.cli import api, machine_hosts, storage
from gureum.cli.chapter import KEY, Chapter, progress
from gureum.cli.cloud import Cloud
from gureum.cli.config import CloudConfig
from gureum.cli.lost_hosts import kill_host, unsupervised
from gureum.cli.migrations import held
from gureum.cli.processes import read_pid_file
from gureum.cli.san_options import Choice
from gureum.cli.story import DemoError, Story, expect
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import ask
from gureum.san.ceph.pools import admin

OSD = "osd.1"
OSD_BYTES = 4 << 30
WELL = "HEALTH_OK"
ASK_SECONDS = 5.0
SOME = 20
"""Writes that have to come after a step for it to be over."""
WRITE_SECONDS = 60.0
ENDED = ("completed", "failed", "cancelled")


class Fleet(Chapter):
    """Migration, a dead OSD, a drained host, a dead host, a resize."""

    def __init__(self, cloud: Cloud, story: Story, hosts: int) -> None:
        super().__init__(cloud, story)
        self.hosts = hosts
        self.volume = ""
        self._load: CheckedLoad | None = None

    def tell(self) -> None:
        try:
            self._start()
            self._keys()
            self._launch()
            self._login()
            self._begin_to_write()
            self._migrate()
            self._kill_osd()
            self._drain()
            self._kill_host()
            self._resize()
            self._terminate()
        finally:
            if self._load is not None:
                self._load.stop()

    def configure(self) -> CloudConfig:
        config = super().configure()
        # Of one zone: any host can take over for any other.
        machine_hosts.change(self.cloud, self.hosts, 1)
        config = self.cloud.configure(hosts=self.hosts, host_zones=1)
        storage.choose(self.cloud, Choice("ceph", osd_bytes=OSD_BYTES))
        return config

    def start(self) -> None:
        config = self.cloud.config()
        storage.prepare(self.cloud, config, progress)
        self.cloud.start(config, progress)
        storage.settle(self.cloud, progress)

    # ---- the steps

    def _begin_to_write(self) -> None:
        with self.story.step("A volume with three copies; the guest writes, and says so by TCP") as says:
            self.volume = self._new_volume("/dev/sdf")
            load = self._write()
            says(f"{self.volume} on {self._host()}; {load.written} flushed writes, each acknowledged")

    def _migrate(self) -> None:
        with self.story.step("Live migration to another host") as says, self._unnoticed() as longest:
            before = self._host()
            migration = self._fleet("migrate_instance", InstanceId=self.instance)["InstanceMigration"][
                "MigrationId"
            ]
            found = self._wait("it to get there", partial(self._migration, migration))
            expect(found["State"] == "completed", f"it {found['State']}: {found.get('Message')}")
            expect(self._host() != before, f"it is on {before} still")
            away = f"held for {held(found)}"
            says(f"{before} to {self._host()}, {away}; no write came later than {longest():.1f} s")

    def _kill_osd(self) -> None:
        with (
            self.story.step("kill -9 of an OSD") as says,
            self._unnoticed() as longest,
        ):
            identity = read_pid_file(self.cloud.run_dir / f"{OSD}.pid")
            if identity is None:
                raise DemoError(f"{OSD} does not run")
            os.kill(identity.pid, signal.SIGKILL)
            self._wait(
                "its end to be noticed", lambda: self._health() != WELL or self._restarted(identity.pid)
            )
            self._wait(
                "all copies to be there again",
                lambda: self._health() == WELL and self._restarted(identity.pid),
            )
            says(f"{OSD} is back, all copies are there; no write came later than {longest():.1f} s")

    def _drain(self) -> None:
        with (
            self.story.step("Its host is drained") as says,
            self._unnoticed() as longest,
        ):
            before = self._host()
            self._fleet("drain_host", HostId=before)
            self._wait("it to be empty", lambda: self._host() != before and self._empty(before))
            self._fleet("activate_host", HostId=before)
            says(
                f"{before} was empty, the guest on {self._host()}; no write came later than {longest():.1f} s"
            )

    def _kill_host(self) -> None:
        with self.story.step("kill -9 of everything on the guest's host: it runs again elsewhere") as says:
            load, before = self._writer(), self._host()
            boot, old = self._boot_id(), set(self._hypervisor_pids())
            with unsupervised(self.cloud):
                kill_host(self.cloud, before, signal.SIGKILL)
                began = time.monotonic()
                new = self._wait("it to run elsewhere", lambda: set(self._hypervisor_pids()) - old)
                took = time.monotonic() - began
                self._wait("ssh", lambda: self._try_ssh("hostname"))
                booted = time.monotonic() - began
            load.stop()
            expect(len(new) == 1, f"it runs {len(new)} times")
            expect(self._host() != before, f"it is on {before} still")
            expect(self._boot_id() != boot, "it was not started anew")
            wrong = load.check(self._read())
            expect(not wrong, f"of what was acknowledged, not all is there: {wrong[:3]}")
            says(
                f"{before} to {self._host()} after {took:.1f} s, ssh answers after {booted:.1f} s; "
                f"{load.written} acknowledged writes, none lost"
            )
        with self.story.step("The lost host is back by itself, empty") as says:
            self._wait("it to be up", lambda: self._hosts()[before]["State"] == "up")
            told = self._fleet("describe_events", HostId=before)["Events"]
            expect(self._empty(before), f"something is on {before} still")
            says(f"{before} is up; {len(told)} events tell what happened to it")

    def _resize(self) -> None:
        with self.story.step("Stop, change to a larger type, start") as says:
            grown = self._grow()
            load = self._write()
            says(f"{grown}; {load.written} writes since")

    def _terminate(self) -> None:
        with self.story.step("Terminate, and delete the volume: the pool is empty") as says:
            self._writer().stop()
            self._client.terminate_instances(InstanceIds=[self.instance])
            self._wait("it to terminate", lambda: self._state() == "terminated")
            self._wait("the volume", partial(self._volume_is, self.volume, "available"))
            self._client.delete_volume(VolumeId=self.volume)
            self._wait("it to go", partial(self._volume_is, self.volume, "gone"))
            self._client.delete_security_group(GroupId=self.group)
            self._client.delete_key_pair(KeyName=KEY)
            says("the root volume went with the instance, the other on request")

    # ---- what they need

    def _fleet(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return api.call(self.cloud, "fleet", operation, **parameters)

    def _write(self) -> CheckedLoad:
        """A load on the volume that has written some."""
        if self._load is not None:
            self._load.stop()
        load = CheckedLoad(self._ssh_command("")[:-1], self._device(self.volume))
        load.__enter__()
        self._load = load
        load.wait_written(SOME, WRITE_SECONDS)
        return load

    def _writer(self) -> CheckedLoad:
        if self._load is None:
            raise DemoError("nothing writes")
        return self._load

    def _read(self) -> bytes:
        """What is on the volume where the load writes."""
        self._ssh("echo 3 >/proc/sys/vm/drop_caches")
        return base64.b64decode(self._ssh(f"head -c {AREA_BYTES} {self._device(self.volume)} | base64"))

    @contextmanager
    def _unnoticed(self) -> Iterator[Callable[[], float]]:
        """The guest goes on: not started anew, the connection the same. Yields what asks for the longest time
        in seconds between two acknowledged writes since."""
        load, began, boot = self._writer(), time.monotonic(), self._boot_id()

        def longest() -> float:
            load.wait_written(SOME, WRITE_SECONDS)
            expect(self._boot_id() == boot, "the guest was started anew")
            return load.stall(began)

        yield longest

    def _boot_id(self) -> str:
        return self._ssh("cat /proc/sys/kernel/random/boot_id")

    def _migration(self, id: str) -> dict[str, Any] | None:
        [found] = self._fleet("describe_instance_migrations", MigrationIds=[id])["InstanceMigrations"]
        return dict(found) if found["State"] in ENDED else None

    def _health(self) -> str:
        asked = [{"prefix": "health"}]
        return str(ask(admin(Cluster(self.cloud.state_dir)), asked, ASK_SECONDS)[0].document()["status"])

    def _restarted(self, dead: int) -> bool:
        identity = read_pid_file(self.cloud.run_dir / f"{OSD}.pid")
        return identity is not None and identity.pid != dead

    def _hosts(self) -> dict[str, dict[str, Any]]:
        return {each["HostId"]: each for each in self._fleet("describe_hosts")["Hosts"]}

    def _host(self) -> str:
        """Where the instance is."""
        [found] = [id for id, host in self._hosts().items() if self.instance in host["InstanceIds"]]
        return found

    def _empty(self, host: str) -> bool:
        return not self._hosts()[host]["InstanceIds"]
