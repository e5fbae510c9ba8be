"""What a host's report (``hostspec``) says of how much a machine has."""

from __future__ import annotations

import msgspec


class MachineSize(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a running machine has now of vCPUs and memory, and between what that can change while it runs.

    What its guest was told to take or give up it may not have yet. ``stuck``: why it will not get there
    before it is stopped, "" if it may.
    """

    vcpus: int
    memory_bytes: int
    vcpus_min: int = 1
    vcpus_max: int
    memory_min_bytes: int
    memory_max_bytes: int
    stuck: str = ""

    def is_tied(self, accelerator: str) -> bool:
        """Whether it can't be copied: it is emulated, and got memory while it ran. See
        ``hypervisors.qemu.growth.memory``.
        """
        return accelerator == "tcg" and self.memory_bytes > self.memory_min_bytes

    @property
    def absent_bytes(self) -> int:
        """Of memory that it could have besides."""
        return self.memory_max_bytes - self.memory_bytes
