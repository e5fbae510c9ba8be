"""Instances."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


class InstanceState(StrEnum):
    """EC2's instance states. ``pending`` wants to run, ``stopping`` and ``shutting_down`` want to be off."""

    pending = "pending"
    running = "running"
    stopping = "stopping"
    stopped = "stopped"
    shutting_down = "shutting-down"
    terminated = "terminated"

    @property
    def code(self) -> int:
        """EC2's numeric state code."""
        return STATE_CODES[self]


STATE_CODES = {
    InstanceState.pending: 0,
    InstanceState.running: 16,
    InstanceState.shutting_down: 32,
    InstanceState.terminated: 48,
    InstanceState.stopping: 64,
    InstanceState.stopped: 80,
}


class StateReason(msgspec.Struct, frozen=True):
    """As EC2's StateReason, e.g. ``Client.UserInitiatedShutdown``."""

    code: str
    message: str


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A volume that the instance has, by its device name. The attachment's state is the volume's."""

    device: str
    volume: str
    delete_on_termination: bool = False


class MetadataOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """As EC2's instance metadata options."""

    tokens_required: bool = True
    hop_limit: int = 1
    enabled: bool = True
    tags_enabled: bool = False


class RecoveryPolicy(StrEnum):
    """What becomes of an instance whose host is lost, whose machine dies or whose guest hangs: it runs again,
    elsewhere if need be; it is stopped; it is terminated (if it is protected from that, stopped); or nothing,
    and it waits for its host.
    """

    restart = "restart"
    stop = "stop"
    terminate = "terminate"
    none = "none"


class Recovery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """``priority``: 0 to 100. Those with more are started first."""

    policy: RecoveryPolicy = RecoveryPolicy.restart
    priority: int = 50


class Resize(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Of an instance that got another type while it runs: what its machine, of this ``generation``, may have
    besides what the type has. ``message``: why it does not get there, "" while it may. ``since``: Unix time.
    """

    generation: int
    vcpus: int
    memory_bytes: int
    since: float
    message: str = ""


class Growth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Of a running instance that is to have another ``type``, as was asked for at ``since`` (Unix time), when
    a host that is woken for it is there.
    """

    type: str
    since: float


class AutosizeMode(StrEnum):
    """What becomes of it if an instance is too small, or larger than it needs to be. ``recommend``: it is
    said which type it should have; ``automatic``: it gets that.
    """

    recommend = "recommend"
    automatic = "automatic"


class Autosize(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Between which types an instance is to be, and how busy: ``target`` is a percentage, of its processors
    and of its memory. After a change it is left alone for ``cooldown`` seconds. ``changed``: when the last
    one was begun for this, Unix time.
    """

    mode: AutosizeMode
    target: int
    smallest: str
    largest: str
    cooldown: int
    changed: float = 0.0


class Instance(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``host`` is where it is or was last; None before placement and when it may be placed anew.

    ``generation`` grows with every start: a machine on a host is this instance only with this number.
    ``generations`` is the highest ever given out, if that is more: to a machine that did not become it.
    ``reboots`` counts the reboots asked for; ``force`` powers off without asking the guest.
    ``purge_at`` (Unix time): when a terminated instance disappears from the store.
    """

    state: InstanceState = InstanceState.pending
    state_reason: StateReason | None = None
    transition_reason: str = ""
    reservation: str
    launch_index: int = 0
    type: str
    image: str
    zone: str
    host: str | None = None
    generation: int = 1
    generations: int = 0
    reboots: int = 0
    force: bool = False
    purge_at: float = 0.0
    key_name: str = ""
    public_key: str = ""
    user_data: bytes = b""
    launched: datetime
    vpc: str
    subnet: str
    private_ip: str = ""
    interfaces: tuple[str, ...] = ()
    devices: tuple[BlockDevice, ...] = ()
    root_device: str = "/dev/xvda"
    metadata: MetadataOptions = MetadataOptions()
    disable_api_termination: bool = False
    disable_api_stop: bool = False
    shutdown_behavior: str = "stop"
    source_dest_check: bool = True
    ebs_optimized: bool = False
    monitoring: bool = False
    client_token: str = ""
    instance_profile: str = ""
    group: str = ""
    """The id of its placement group."""
    group_name: str = ""
    partition: int = 0
    """In a group of the strategy partition; 0 in others."""
    tenancy: str = "default"
    """``dedicated``: on hosts with nobody else's instances."""
    cpu: str = ""
    """The CPU model that its machine has since it was placed, "" for its host's own."""
    cpu_credits: str = ""
    """The credit option that was asked for: standard or unlimited, "" for the type's default."""
    capturing: tuple[str, ...] = ()
    """Images that are being made of it: its machine is off until their snapshots are taken."""
    migration: str = ""
    """The id of the migration that is under way, "" for none."""
    impaired: str = ""
    """Why the instance does not make progress now (e.g. its pool is full), for status checks."""
    recovery: Recovery = Recovery()
    recovers: float = 0.0
    """Since when (Unix time) it is to run again, after its host was lost or its machine died; 0 if it is not.
    """
    leaving: bool = False
    """Its machine is ended where it is, and starts elsewhere when that is done."""
    restart_at: float = 0.0
    """Its machine is not started before (Unix time): it died not long ago."""
    crashes: tuple[float, ...] = ()
    """When its machine died and was started again, lately (Unix time)."""

    resize: Resize | None = None
    """Its machine does not have the size of its type yet."""
    growth: Growth | None = None
    autosize: Autosize | None = None

    @property
    def resizing(self) -> str | None:
        """For the index: most are not."""
        return "yes" if self.resize is not None else None

    @property
    def growing(self) -> str | None:
        """For the index: most are not."""
        return "yes" if self.growth is not None else None

    @property
    def autosized(self) -> str | None:
        """For the index: most are not."""
        return "yes" if self.autosize is not None else None

    @property
    def next_generation(self) -> int:
        """What no machine of it has had."""
        return max(self.generation, self.generations) + 1

    @property
    def groups(self) -> tuple[str, ...]:
        """For the index: most instances have none."""
        return (self.group,) if self.group else ()

    kind: ClassVar[str] = "instance"
    indexes: ClassVar[tuple[str, ...]] = (
        "account",
        "host",
        "state",
        "reservation",
        "vpc",
        "subnet",
        "private_ip",
        "groups",
        "resizing",
        "growing",
        "autosized",
    )
    transitions: ClassVar[Transitions] = table(
        InstanceState,
        pending="running stopping stopped shutting_down terminated",
        running="pending stopping stopped shutting_down terminated",
        stopping="stopped shutting_down terminated",
        stopped="pending shutting_down terminated",
        shutting_down="terminated",
    )
