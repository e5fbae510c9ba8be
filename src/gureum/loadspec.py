"""What a host's report (``hostspec``) says of how busy the host and its machines are."""

from __future__ import annotations

import msgspec


class MachineLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, array_like=True, gc=False):
    """``cpus``: processors that it used; ``waiting``: that it wanted besides, and did not get.
    ``memory_bytes``: what of the host's it has now. ``used_bytes``: what its guest uses of its memory,
    without what it would give up for programs (caches), as the guest says itself; -1 if it doesn't.
    """

    cpus: float = 0.0
    waiting: float = 0.0
    memory_bytes: int = 0
    used_bytes: int = -1


class HostLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A measurement, the mean over some seconds; reported again until there is the next.

    ``number`` grows with each one of an agent. ``cpus``: processors that all of the host used, its machines
    included; ``memory_bytes``: likewise, what is swapped out included. The pressures are shares of the time
    in which something waited, for a processor or for memory (PSI), 0 where the kernel does not say.
    """

    number: int
    cpus: float = 0.0
    memory_bytes: int = 0
    cpu_pressure: float = 0.0
    memory_pressure: float = 0.0
    machines: dict[str, MachineLoad] = {}
