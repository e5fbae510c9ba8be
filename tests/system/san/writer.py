"""A guest that writes to a volume in the storage cluster, and what is checked of it."""

from __future__ import annotations

import hashlib

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad

from .san_cloud import SanCloud

SOME = 10
WRITE_SECONDS = 60.0


class Writer:
    """A guest with a volume, and the load on it."""

    def __init__(self, cloud: SanCloud, instance: str = "") -> None:
        self.cloud = cloud
        self.id = instance or cloud.launch()[0]
        cloud.waiter("instance_running", InstanceIds=[self.id])
        cloud.wait_ssh(self.id)
        self.volume = cloud.create_volume(Size=1)
        cloud.attach(self.volume, self.id)
        self.boot = cloud.boot_id(self.id)
        self.complaints = cloud.kernel_complaints(self.id)

    def check(self, load: CheckedLoad) -> None:
        """After the load's end and the storage's recovery."""
        cloud = self.cloud
        load.stop()
        # The guest hears of that end later: by then it has written one block more, or two.
        area = cloud.wait("the guest to read what the storage has", self._same)
        assert load.check(area) == []
        assert len(area) == AREA_BYTES
        assert cloud.kernel_complaints(self.id) == self.complaints
        assert cloud.boot_id(self.id) == self.boot
        cloud.wait("the instance to be well", lambda: cloud.told(self.id)[0] == "ok")
        cloud.wait_clean()

    def _same(self) -> bytes:
        """What the storage has; nothing if the guest reads something else."""
        area = self.cloud.exported(self.volume)
        same = self.cloud.read_in_guest(self.id, self.volume) == hashlib.sha256(area).hexdigest()
        return area if same else b""
