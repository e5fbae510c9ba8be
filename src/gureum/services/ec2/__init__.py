"""Amazon EC2: the operations, and what each of them writes.

An operation changes desired state only; the reconcilers in ``gureum.control`` do the rest. What they can rely
on, by record (fields that are not named stay as they are):

Instance
    RunInstances    new: ``pending``, host None, generation 1, reboots 0, private_ip, interfaces, devices
                    Refused while the hosts of the zone have no room (``capacity``), as StartInstances is.
    StartInstances  ``stopped`` -> ``pending``: generation + 1, reboots 0, force False, launched now,
                    reasons cleared. Needs a device at root_device. The host stays as it was.
    StopInstances   ``running`` -> ``stopping``: Client.UserInitiatedShutdown; force True if forced, also
                    again while ``stopping``. ``pending`` is refused.
    Reboot          ``running``: reboots + 1
    Terminate       anything but ``terminated`` -> ``shutting-down``: as StopInstances, also forced again.
    ModifyInstanceAttribute, ModifyInstanceMetadataOptions
                    type, user_data and ebs_optimized while ``stopped`` only; protections, shutdown_behavior,
                    source_dest_check, metadata and devices' delete_on_termination in any state that lives
    AttachVolume, AttachNetworkInterface
                    devices, interfaces (by device index, the primary one first) grow by one. They shrink only
                    by the reconcilers, when a detachment is done.
    tags            in any state

NetworkInterface
    CreateNetworkInterface
                    new, without an instance. DeleteNetworkInterface deletes one that has none.
    AttachNetworkInterface
                    instance, device_index, attachment ``attaching``, host if the instance wants ports now;
                    instance ``running`` or ``stopped``
    DetachNetworkInterface
                    attachment ``detaching``, force_detach as asked. It keeps instance and host, and so its
                    port, until the reconcilers let it go.
    AssignPrivateIpAddresses, AssignIpv6Addresses and their opposites
                    secondary, ipv6, in any state
    RunInstances    new, with its instance, or one that there is; attachment ``attached`` from the start.
                    public_ip is set at once if it is to have one.
                    ``auto_public`` is the wish for an automatic address: it stays True while the instance is
                    stopped (public_ip "") and while an elastic address takes its place (``address`` set).
    StartInstances  a new public_ip if auto_public and there is none
    AssociateAddress, DisassociateAddress
                    public_ip and address, or those of a secondary address; after the latter a new automatic
                    public_ip if the instance runs.
                    What lets go of an automatic address (``public_ip and not address``) is the reconcilers,
                    when the instance is stopped or the interface detached. An elastic one stays with its
                    interface until that is deleted.
    ModifyInstanceAttribute
                    groups, source_dest_check of an instance's only interface
    ModifyNetworkInterfaceAttribute
                    groups, source_dest_check (the primary one's is the instance's too), description,
                    delete_on_termination, auto_public

Volume
    RunInstances    new: ``creating`` with an attachment that is ``attaching``; host None. To be made by the
                    pool (from ``source``: an image or snapshot id, or ""), then ``in-use``.
    CreateVolume    new: ``creating``, no attachment, host None. Then ``available`` or ``error``.
                    ``iops`` and ``throughput`` are 0 unless they were asked for: what EC2 shows for a type's
                    defaults is not a limit here.
    AttachVolume    ``available`` -> ``in-use``, attachment ``attaching``; instance ``running`` or
                    ``stopped``. With multi_attach also of one that is ``in-use``: one more attachment
    DetachVolume    attachment -> ``detaching``, with force as asked (again with force while ``detaching``).
                    The root volume only while its instance is ``stopped``.
    ModifyVolume    ``available`` or ``in-use``: size_bytes (never smaller), type, iops, throughput, and a
                    modification ``modifying``, to become ``completed`` or ``failed``
    DeleteVolume    ``available`` or ``error`` -> ``deleting``. A snapshot of it may still be ``pending``:
                    that one has to be taken first.

Snapshot
    CreateSnapshot, CreateSnapshots
                    new: ``pending``, with the volume's pool and host; volume ``available`` or ``in-use``
    CopySnapshot    new: ``pending`` and host None, with a new Volume that nobody sees (``staged``,
                    ``staging``): it is made, the snapshot taken of it, and it goes
    StartSnapshot (of the service ebs)
                    the same, but not to be taken yet: timeout_seconds is above 0 until CompleteSnapshot
    CreateImage     as CreateSnapshot; with ``after`` set and host None if the machine has to be off first
    DeleteSnapshot  -> ``deleting`` (from any state); not while an image needs it or a volume is made of it

Image
    CreateImage     new: ``pending``, with a new Snapshot for each volume; then ``available`` or ``failed``.
                    The instance's ``capturing`` has its id while its machine is to be off for it
    CopyImage       new: ``pending``, with a CopySnapshot for each snapshot
    RegisterImage   new: ``available``
    DeregisterImage -> ``deregistered``; ``pending`` with ``cancelled`` for one that is still being made

VolumeKey           new for each encrypted volume that is not made of something encrypted; deleted with the
                    last Volume or Snapshot that has it

Address             AllocateAddress new, ReleaseAddress deletes; association, interface, instance and
                    private_ip are set and cleared together, with the interface's public_ip and address
SecurityGroup       new, deleted when no interface has it and no other group's rule names it; rules, tags
PlacementGroup      new, deleted when no instance is in it. RunInstances, and ModifyInstancePlacement while
                    ``stopped``, set an instance's group, group_name, partition and tenancy
KeyPair             new, deleted. Instances keep their own copy of the public key.
Vpc                 CreateVpc, CreateDefaultVpc new, with what every VPC has (``defaults.furnish``): the main
                    RouteTable (number 1), the default NetworkAcl and SecurityGroup. DeleteVpc deletes it with
                    these and its flow logs, when nothing else is in it. associations, dns_support,
                    dns_hostnames, dhcp_options ("default" for none) in place
Subnet              CreateSubnet, CreateDefaultSubnet new, always with acl and acl_association. DeleteSubnet
                    when no interface is in it, with its flow logs. route_table and route_association are set
                    and cleared together; ipv6, map_public_ip, assign_ipv6 and the dns_ flags in place
InternetGateway     new, deleted when detached; vpc, "" when detached (not while the VPC has public addresses)
EgressGateway       new, deleted
RouteTable          new with the VPC's lowest free number, deleted when not main, not a subnet's and not an
                    endpoint's; routes; main and main_association move from one table of the VPC to another.
                    A target may disappear at any time: ``routing.resolve`` tells what a route is then
DhcpOptions         new, deleted when no VPC has it; never changed, but for tags
VpcEndpoint         new, deleted; route_tables, policy. Shown as routes, nothing is behind them

RunInstances, StartInstances and the rest change all the instances of a request or none.
"""

from gureum.services.ec2 import (
    account,
    addresses,
    attachments,
    attributes,
    console,
    credits,
    dhcp_options,
    egress_gateways,
    encryption,
    endpoints,
    flow_logs,
    image_attributes,
    image_copies,
    image_creation,
    images,
    imports,
    instances,
    interface_addresses,
    interface_attachments,
    interface_changes,
    interfaces,
    internet_gateways,
    key_pairs,
    launch,
    lifecycle,
    nat_gateways,
    network_acls,
    peering,
    placement_groups,
    prefix_lists,
    regions,
    registration,
    route_tables,
    routes,
    security_group_rules,
    security_groups,
    snapshot_attributes,
    snapshot_copies,
    snapshot_sets,
    snapshots,
    subnets,
    tags,
    type_queries,
    volume_attributes,
    volumes,
    vpc_cidrs,
    vpcs,
    vpn_gateways,
)

__all__ = [
    "account",
    "addresses",
    "attachments",
    "attributes",
    "console",
    "credits",
    "dhcp_options",
    "egress_gateways",
    "encryption",
    "endpoints",
    "flow_logs",
    "image_attributes",
    "image_copies",
    "image_creation",
    "images",
    "imports",
    "instances",
    "interface_addresses",
    "interface_attachments",
    "interface_changes",
    "interfaces",
    "internet_gateways",
    "key_pairs",
    "launch",
    "lifecycle",
    "nat_gateways",
    "network_acls",
    "peering",
    "placement_groups",
    "prefix_lists",
    "regions",
    "registration",
    "route_tables",
    "routes",
    "security_group_rules",
    "security_groups",
    "snapshot_attributes",
    "snapshot_copies",
    "snapshot_sets",
    "snapshots",
    "subnets",
    "tags",
    "type_queries",
    "volume_attributes",
    "volumes",
    "vpc_cidrs",
    "vpcs",
    "vpn_gateways",
]
