"""Compute hosts."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table

OWN_NAME = re.compile(r"host-\d+")
"""The hosts of the machine that the cloud was made on; other machines' have other names."""


class HostState(StrEnum):
    """``down``: not heard of. ``fencing``: given up; another host sees to it that nothing of it runs or
    writes any more. ``fenced``: that is so, until it says itself that it has nothing left and begins anew.
    """

    up = "up"
    down = "down"
    fencing = "fencing"
    fenced = "fenced"


class FencePower(StrEnum):
    """What is done with the power of a host that is fenced. ``off``: it stays off until somebody wakes it."""

    none = "none"
    off = "off"
    reboot = "reboot"


class Fence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why and since when (Unix time) a host is given up, and which host, ``by``, carries that out; "" while
    none can. ``number`` grows with every fence of a host of this name.
    """

    number: int
    reason: str
    began: float
    by: str = ""
    since: float = 0.0
    """When ``by`` was given the work, Unix time."""
    lives: bool = False
    """Its machine went on renewing its lease then: only its agent was not heard of."""
    power: FencePower = FencePower.none
    """What is still to be done with its power: before that it does not come back."""


class ParkState(StrEnum):
    """``emptying``: what runs on it migrates elsewhere, so that it can be parked. ``parking``: it is about to
    be switched off. ``waking``: it is switched on, and waited for.
    """

    emptying = "emptying"
    parking = "parking"
    parked = "parked"
    waking = "waking"


class Park(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why a host is, or is about to be, off or on, and since when (Unix time).

    ``failures``: how often it did not come when it was switched on. ``again``: when it may be tried next,
    after a call that failed, Unix time; 0 if it may. ``unsure``: such a call may yet switch it off.
    ``boot``: of one that is parked, the boot that its agent said to have ended, until it was not heard of.
    """

    state: ParkState = ParkState.parking
    reason: str
    since: float
    failures: int = 0
    again: float = 0.0
    unsure: bool = False
    boot: str = ""


class Host(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A machine that runs an agent. Capacities are the host's own, before overcommit. ``zone`` "": all zones.

    ``pool_*`` describe the local pool. The lease is the manager's, in memory.
    """

    state: HostState = HostState.down
    zone: str
    cpus: int = 0
    memory_bytes: int = 0
    pool_bytes: int = 0
    pool_free_bytes: int = 0
    accelerator: str = ""
    cpu: str = ""
    """As in HostReport, and the next two."""
    cpu_vendor: str = ""
    cpu_models: tuple[str, ...] = ()
    boot_id: str = ""
    gureum_version: str = ""
    """Of the gureum that its agent runs."""
    number: int = 0
    """Its own in the cloud, 1 to 16383, from its first report on: names it in VXLAN next hops."""
    address: str = ""
    uplink_mtu: int = 1500
    wireguard_key: str = ""
    draining: bool = False
    """Takes no more instances."""
    uplink_down: bool = False
    """It is not connected to the other hosts, though the manager is reached another way."""
    unfit: str = ""
    """Why nothing new can run on it though it is heard, as what follows its name; "" if it can."""
    silent: float = 0.0
    """When it was last heard of, Unix time; 0 while it is heard."""
    watcher: str = ""
    """While it is ``down``: the host that looks whether its lease in the storage cluster is still renewed."""
    fence: Fence | None = None
    """While it is ``fencing`` or ``fenced``."""
    park: Park | None = None
    """While it is off because nothing needs it, or on its way there or back. Nothing runs on it then, unless
    it is being emptied.
    """
    lifted: int = 0
    """The number of the last fence that is over."""
    fenceable: bool = False
    """It has a warden, which ends what runs on it when other hosts say so in a shared pool."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """What its owner says of it. ``rack``: where it stands, for placement groups."""
    cpu_overcommit: float = 0.0
    """How much of its processors it gives away, as a multiple; 0: as FleetSettings says."""
    memory_overcommit: float = 0.0

    @property
    def schedulable(self) -> bool:
        """Whether something new may be put on it."""
        able = self.state is HostState.up and self.park is None
        return able and not (self.draining or self.uplink_down or self.unfit)

    @property
    def emptying(self) -> bool:
        """Whether it is on, and what runs on it leaves it, so that it can be parked."""
        return self.park is not None and self.park.state is ParkState.emptying

    @property
    def wakeable(self) -> bool:
        """Whether something new can be put on it once it was woken, or is emptied no more."""
        return self.park is not None and not (self.park.again or self.draining or self.fence)

    kind: ClassVar[str] = "host"
    transitions: ClassVar[Transitions] = table(
        HostState, up="down", down="up fencing", fencing="fenced", fenced="up down"
    )


class HostCertificate(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A certificate given to another machine that joined. ``id``: its serial number, in hexadecimal digits.

    Only certificates that are here, not revoked and not expired (Unix time) are accepted. ``own``: for a host
    of the machine that the cloud was made on, for when the manager of another one leads. ``key``: the
    fingerprint of the key that it is for, since who has the authority's key can make another of this number;
    "" of those given before 0.8, which end within 30 days.
    """

    host: str
    zone: str
    expires: float
    revoked: bool = False
    own: bool = False
    key: str = ""

    kind: ClassVar[str] = "host-certificate"
    indexes: ClassVar[tuple[str, ...]] = ("host",)


class HostToken(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Lets one machine join until ``expires`` (Unix time). ``id``: the SHA-256 of its secret, in hexadecimal.

    Using it deletes it. ``manager``: not as a host, in ``zone``, but with a manager;
    then ``seal`` is ``transport.token.manager_seal``, as who can write to the store is not the cloud yet.
    """

    zone: str
    expires: float
    manager: bool = False
    seal: str = ""

    kind: ClassVar[str] = "host-token"
