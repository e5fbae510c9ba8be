"""The two documents between the manager and a host's agent.

A ``HostSpec`` goes down: everything that should be on this host, whole, at a revision. A ``HostReport`` comes
up: everything that is. Both are levels, not events: a lost, late or repeated one does no harm.

What a spec does not mention: a machine, port or VPC must not be on the host, and is removed. Data is never
removed by omission: a volume or snapshot goes only where it is named with ``present=False``.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from gureum.fencespec import FenceReport, FenceSpec, WardenReport
from gureum.loadspec import HostLoad
from gureum.migrationspec import IncomingSpec, MigrationReport, OutgoingSpec
from gureum.sizespec import MachineSize

LOCAL = "local"
"""The pool that each host has for itself. All others are shared."""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class MetadataInterface(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One interface as the metadata service shows it."""

    id: str
    mac: str
    device_index: int = 0
    private_ip: str
    private_dns: str
    public_ip: str = ""
    public_dns: str = ""
    secondary: tuple[tuple[str, str], ...] = ()
    """Further private addresses, each with its public one, "" for none."""
    ipv6: tuple[str, ...] = ()
    subnet: str
    subnet_cidr: str
    subnet_cidr6: str = ""
    vpc: str
    vpc_cidr: str
    vpc_cidrs: tuple[str, ...] = ()
    """All its networks, IPv4 and IPv6."""
    group_ids: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    owner: str = ""


class Metadata(Document, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance may learn about itself at 169.254.169.254."""

    instance: str
    image: str
    type: str
    account: str
    region: str
    zone: str
    reservation: str
    launch_index: int = 0
    launched: str = ""
    """ISO 8601, for the identity document."""
    key_name: str = ""
    public_key: str = ""
    user_data: bytes = b""
    interfaces: tuple[MetadataInterface, ...] = ()
    block_devices: dict[str, str] = {}
    """As in block-device-mapping/: ami, root, ebs1 ... to device names."""
    tags: dict[str, str] = {}
    group: str = ""
    """The name of its placement group."""
    partition: int = 0
    enabled: bool = True
    tokens_required: bool = True
    hop_limit: int = 1


class DiskSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A volume of a machine. ``index`` 0 is the root disk; others are numbered as they were attached."""

    volume: str
    device: str
    index: int


class NicSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    interface: str
    mac: str
    index: int = 0


class MachineSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """An instance on this host. ``run`` False: off, but its console log and traces are kept.

    ``reboots`` counts all reboots asked for. ``shutdown_seconds`` is how long the guest has to answer the
    power button before it is powered off; 0 powers off at once.
    """

    id: str
    generation: int
    run: bool
    shutdown_seconds: float = 0.0
    reboots: int = 0
    vcpus: int
    threads: int = 1
    """Of the vCPUs, how many are one core."""
    memory_bytes: int
    vcpus_max: int = 0
    """To what it may grow while it runs, from when it is started; as ``memory_max_bytes``. 0: not at all."""
    memory_max_bytes: int = 0
    cpu: str = ""
    """The CPU model that it is started with, "" for the host's own."""
    machine: str = "q35"
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    disks: tuple[DiskSpec, ...] = ()
    force_detach: tuple[str, ...] = ()
    """Volumes that leave without the guest being asked."""
    nics: tuple[NicSpec, ...] = ()
    force_detach_nics: tuple[str, ...] = ()
    """Interfaces that leave without the guest being asked."""
    incoming: IncomingSpec | None = None
    outgoing: OutgoingSpec | None = None
    metadata: Metadata


class VolumeSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A volume of this host's ``pool``, or of a shared one that this host is to look after or to open now.

    ``source`` is "", an image id or a snapshot id; ``source_volume`` the volume of that snapshot. ``key``:
    what its data is encrypted with, LUKS in the hypervisor; b"" for not.

    ``made``: the pool had it already. Where it is missing nonetheless its data is lost, and it is not made
    anew in silence.
    """

    id: str
    size_bytes: int
    pool: str = LOCAL
    source: str = ""
    source_volume: str = ""
    key: bytes = b""
    encrypts: bool = False
    """Its source is not encrypted: it is copied into it."""
    source_bytes: int = 0
    """How much of it that is, from the beginning; 0 for all. The rest begins as an empty volume does."""
    iops: int = 0
    throughput: int = 0
    machine: str = ""
    """The instance that has it, gets it or gives it up; "" for none."""
    multi_attach: bool = False
    """Machines of several hosts may have it open at the same time."""
    keeper: bool = True
    """Whether this host looks after it; else it only opens it, for its machines, and another one does."""
    receives: bool = False
    """Its machine is to come here, and has it open elsewhere until then. What a volume of the host's own pool
    contains comes with it: until then it is empty here, and not complete.
    """
    takes: bool = False
    """Its machine came here: nobody else is to have it any more."""
    evict: tuple[str, ...] = ()
    """Hosts that are lost for good: what one of them still has of the volume is taken from it first."""
    evict_at: dict[str, int] = {}
    """Of these, the revision at which one had been lost: what it opened by the word of a later spec it has
    anew, and keeps. Of those that are not named it is this spec's.
    """
    made: bool = False
    present: bool = True
    target: str = ""
    """The pool that it is to be copied to, and to be kept the same as here; "" for none."""
    leaves: tuple[str, ...] = ()
    """Pools in which no copy of it is to be. One of them has its data until ``pool`` has all of it."""
    releases: tuple[str, ...] = ()
    """Pools in which this host, that looked after it before, is to let go of it, and nothing else."""


def source_clone(volume: str) -> str:
    """The id of the clone of its source that a volume is copied from, which has no record of its own."""
    return "vol-" + hashlib.sha256(f"source of {volume}".encode()).hexdigest()[:17]


class SnapshotSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``made`` as in VolumeSpec.

    ``zeros``: its volume was made for it, and is encrypted. Of one that is a clone of nothing, what was never
    written is to be zeros to a machine, before it is taken.
    """

    id: str
    volume: str
    pool: str = LOCAL
    zeros: bool = False
    made: bool = False
    present: bool = True


class ImageSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """An image that this host may clone. ``disk``: a path on the host; ``size_bytes``: its virtual size.

    ``pools``: those shared ones that this host brings it into before anybody asks, or takes it out of if it
    is not to be ``present``.
    """

    id: str
    disk: str
    format: str
    size_bytes: int
    pools: tuple[str, ...] = ()
    present: bool = True


class RuleSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One security group rule. ``protocol`` is tcp, udp, icmp, icmpv6, a number as text, or "-1".

    Ports as in ``resources.Permission``. The peer is ``cidr`` (IPv4 or IPv6), ``group`` (its members are in
    the spec's ``members``) or ``prefix_list`` (its networks are in the spec's ``prefixes``).
    """

    egress: bool = False
    protocol: str = "-1"
    from_port: int = -1
    to_port: int = -1
    cidr: str = ""
    group: str = ""
    prefix_list: str = ""


class GroupSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A security group with a member port on this host."""

    id: str
    rules: tuple[RuleSpec, ...] = ()


class AddressSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A private IPv4 address, and the public one that is translated to it and back, "" for none."""

    private_ip: str
    public_ip: str = ""


class PortKind(StrEnum):
    """What is behind a port: a machine's tap, or a NAT gateway, which the network itself makes."""

    machine = "machine"
    nat = "nat"


class PortSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """An interface on this host. ``public_ip`` is translated one to one to ``private_ip``.

    ``secondary``: further addresses. ``ipv6``: its IPv6 addresses. For ``nat`` there is no instance, and what
    it sends on is translated to ``public_ip``, or to ``private_ip`` where it has none.
    """

    id: str
    kind: PortKind = PortKind.machine
    instance: str = ""
    vpc: str
    subnet: str
    mac: str
    private_ip: str
    public_ip: str = ""
    secondary: tuple[AddressSpec, ...] = ()
    ipv6: tuple[str, ...] = ()
    hostname: str = ""
    groups: tuple[str, ...] = ()
    source_dest_check: bool = True


class RemoteSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """An interface of a VPC of this spec that is on another host, ``host`` (in the spec's ``hosts``)."""

    id: str
    vpc: str
    host: str
    addresses: tuple[AddressSpec, ...]
    ipv6: tuple[str, ...] = ()


class RouteKind(StrEnum):
    """Where a route leads: the VPC's Internet gateway, its egress-only one (IPv6, and what begins inside), an
    interface, a peering connection, or nowhere.
    """

    internet = "internet"
    egress = "egress"
    port = "port"
    peering = "peering"
    blackhole = "blackhole"


class RouteSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``destination``: a CIDR, IPv4 or IPv6. ``target``: the id of the interface or the peering connection.

    An interface may be a port of this host, or a remote one.
    """

    destination: str
    kind: RouteKind
    target: str = ""


class RouteTableSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Without the local routes, which every table has. ``number`` is its own in the VPC, 1 to 65535."""

    id: str
    number: int
    routes: tuple[RouteSpec, ...] = ()


class AclEntrySpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """As in ``resources.AclEntry``; sorted by number. What no entry decides is denied."""

    number: int
    egress: bool = False
    protocol: str = "-1"
    allow: bool = True
    cidr: str
    from_port: int = -1
    to_port: int = -1


class AclSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    entries: tuple[AclEntrySpec, ...] = ()


class SubnetSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``route_table`` and ``acl`` are ids in the VPC's; "" for none: then only local routes, and no ACL."""

    id: str
    cidr: str
    cidr6: str = ""
    route_table: str = ""
    acl: str = ""


class DhcpSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """What the VPC's DHCP options set says. ``servers``: addresses; "" among them is the VPC's resolver.

    ``netbios_type`` 0 for none.
    """

    domain: str = ""
    servers: tuple[str, ...] = ("",)
    ntp: tuple[str, ...] = ()
    netbios: tuple[str, ...] = ()
    netbios_type: int = 0


class VpcSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A VPC with ports on this host, or a peer of one. ``network_id`` is unique in the cloud (the VXLAN id).

    ``internet``: has a gateway. ``cidr`` is the first network, ``cidrs`` further ones, IPv4 and IPv6.
    ``domain``: of the private DNS names that the resolver knows.
    """

    id: str
    network_id: int
    cidr: str
    cidrs: tuple[str, ...] = ()
    subnets: tuple[SubnetSpec, ...] = ()
    route_tables: tuple[RouteTableSpec, ...] = ()
    acls: tuple[AclSpec, ...] = ()
    internet: bool = True
    domain: str = "ec2.internal"
    dns_support: bool = True
    dns_hostnames: bool = True
    dhcp: DhcpSpec = DhcpSpec()


class PeeringSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """An active peering connection of two VPCs of this spec. ``number`` is unique in the cloud."""

    id: str
    number: int
    vpcs: tuple[str, str]


class PeerHostSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Another host of the cloud, or this one. ``number`` (1 to 16383) is its own in the cloud.

    ``address``: where it takes VXLAN packets. ``key``: its WireGuard public key, "" without encryption.
    """

    id: str
    number: int
    address: str
    key: str = ""


class FlowLogSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``ports``: ids of the ports of this host that it covers. ``traffic``: ALL, ACCEPT or REJECT.
    ``zone_ids``: by port, those of their zones.
    """

    id: str
    account: str
    ports: tuple[str, ...]
    traffic: str
    interval_seconds: int
    format: str = ""
    region: str = ""
    zone_ids: dict[str, str] = {}


class NetworkSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``members``: for each group that some rule names, the addresses of its ports on all hosts.
    ``prefixes``: for each prefix list that some rule names, its networks. ``remotes`` are sorted by id.

    ``number`` is this host's own (0: the cloud has only this host, nothing of VXLAN is made), ``hosts`` are
    the other ones. ``mtu``: of all guests' interfaces. ``encrypted``: between hosts only over WireGuard.

    ``networks6``: what the IPv6 networks of all VPCs of the cloud are parts of. ``hidden6``: those of them
    that nobody leads to the hosts, so that guests go out with their host's own address.

    ``standby``: ports that are still another host's (and among ``remotes``), and will perhaps be this one's.
    They can be opened, and nothing else is true of them here yet.
    """

    number: int = 0
    hosts: tuple[PeerHostSpec, ...] = ()
    mtu: int = 1500
    encrypted: bool = False
    networks6: tuple[str, ...] = ()
    hidden6: tuple[str, ...] = ()
    vpcs: tuple[VpcSpec, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    standby: tuple[PortSpec, ...] = ()
    remotes: tuple[RemoteSpec, ...] = ()
    peerings: tuple[PeeringSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    members: dict[str, tuple[str, ...]] = {}
    prefixes: dict[str, tuple[str, ...]] = {}
    flow_logs: tuple[FlowLogSpec, ...] = ()


class HostSpec(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``cloud`` guards against a spec of another cloud. ``lifted``: fences of this host up to this number are
    over, 0 if it never had one. ``managers``: ADDRESS:PORT of each machine that a manager may lead on, if
    there can be several; where there are, each report is answered by a Word. ``manager_keys``: the
    fingerprints of the keys of those that are accepted; none if that is not to be looked at.
    """

    cloud: str
    host: str
    revision: int
    machines: tuple[MachineSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    snapshots: tuple[SnapshotSpec, ...] = ()
    images: tuple[ImageSpec, ...] = ()
    network: NetworkSpec = NetworkSpec()
    fences: tuple[FenceSpec, ...] = ()
    lifted: int = 0
    managers: tuple[str, ...] = ()
    manager_keys: tuple[str, ...] = ()


class MachineState(StrEnum):
    """What a machine on a host is doing.

    ``shutdown``: the guest powered itself off. ``crashed``: the hypervisor process ended by itself, or the
    guest could not be started. ``off``: stopped as asked. ``paused``: held, e.g. for lack of disk space.
    """

    starting = "starting"
    running = "running"
    paused = "paused"
    shutdown = "shutdown"
    crashed = "crashed"
    off = "off"


class MachineReport(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``disks`` and ``nics`` are the volumes and interfaces that the guest has now. ``message`` says why, for
    people.

    ``revision`` is that of the spec which this thing was last found to agree with, nothing left to do; so
    what the report does not say was not there at that revision. The same in the other reports.
    """

    id: str
    revision: int = 0
    generation: int
    state: MachineState
    message: str = ""
    reboots: int = 0
    disks: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    migration: MigrationReport | None = None
    size: MachineSize | None = None
    """None if it cannot change while the machine runs, or is not known yet."""
    hung: bool = False
    """Its guest let its watchdog run out, and it is paused for that."""
    ended: int = 0
    """The revision of a spec that no longer wants it, and by which it has ended, though volumes are still
    held here for it: their pool cannot be told. 0 for none.
    """


class VolumeReport(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``error`` is empty if the volume is as its spec wants it, as far as the report goes."""

    id: str
    revision: int = 0
    size_bytes: int = 0
    present: bool = True
    error: str = ""
    full: bool = False
    """The error is for lack of space."""
    copied: str = ""
    """The pool that has all of it, too, what is written now included: it can go on there."""
    done_bytes: int = 0
    total_bytes: int = 0
    """Of the copy that is being made."""
    stuck: str = ""
    """Why the copy is not made: for good, as long as the spec is the same."""
    leaves: tuple[str, ...] = ()
    """Of the spec's, those in which there may still be a copy."""


class PoolReport(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A shared pool as this host sees it. ``error``: why it cannot be used now, "" if it can.

    ``full``: nothing new is to be made in it, and ``message`` says why.
    """

    name: str
    size_bytes: int = 0
    free_bytes: int = 0
    full: bool = False
    message: str = ""
    error: str = ""


class SnapshotReport(Document, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    revision: int = 0
    present: bool = True
    error: str = ""


class HostReport(Document, frozen=True, kw_only=True, omit_defaults=True):
    """``revision`` is the spec's that the agent last took in; 0 for none since it started."""

    cloud: str
    host: str
    boot_id: str
    revision: int
    sequence: int = 0
    version: str = ""
    """The agent's gureum, "" before 0.6."""
    started: float = 0.0
    """When the agent started, by the host's clock: another agent says another number."""
    zone: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    pool_bytes: int = 0
    pool_free_bytes: int = 0
    pools: tuple[PoolReport, ...] = ()
    """The shared ones; ``pool_bytes`` is of the host's own."""
    accelerator: str = ""
    cpu: str = ""
    """What guests without a CPU model see as their CPU: running ones can go to hosts where it is the same."""
    cpu_vendor: str = ""
    """Whose CPU guests with a model see: running ones can go to hosts where it is the same."""
    cpu_models: tuple[str, ...] = ()
    """Those of ``cpus.MODELS`` that guests can have here."""
    address: str = ""
    """Where it takes VXLAN packets, "" if it is the cloud's only host."""
    uplink_mtu: int = 1500
    wireguard_key: str = ""
    """Its public key, "" where the kernel has no WireGuard."""
    network_revision: int = 0
    """The revision of the last spec whose network is in effect here, whole."""
    machines: tuple[MachineReport, ...] = ()
    volumes: tuple[VolumeReport, ...] = ()
    snapshots: tuple[SnapshotReport, ...] = ()
    fences: tuple[FenceReport, ...] = ()
    """Of the spec's, those that were begun."""
    warden: WardenReport | None = None
    """None for a host without shared pools: nobody can fence it."""
    uplink_down: bool = False
    """The device that leads to the other hosts has no carrier, or is off."""
    load: HostLoad | None = None
    """None until it was measured."""
    problems: tuple[str, ...] = ()
