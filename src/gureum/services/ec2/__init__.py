"""Amazon EC2: the operations, and what each of them writes.

An operation changes desired state only; the reconcilers in ``gureum.control`` do the rest. What they can rely
on, by record (fields that are not named stay as they are):

Instance
    RunInstances    new: ``pending``, host None, generation 1, reboots 0, private_ip, interfaces, devices
    StartInstances  ``stopped`` -> ``pending``: generation + 1, reboots 0, force False, launched now,
                    reasons cleared. Needs a device at root_device. The host stays as it was.
    StopInstances   ``running`` -> ``stopping``: Client.UserInitiatedShutdown; force True if forced, also
                    again while ``stopping``. ``pending`` is refused.
    Reboot          ``running``: reboots + 1
    Terminate       anything but ``terminated`` -> ``shutting-down``: as StopInstances, also forced again.
    ModifyInstanceAttribute, ModifyInstanceMetadataOptions
                    type, user_data and ebs_optimized while ``stopped`` only; protections, shutdown_behavior,
                    source_dest_check, metadata and devices' delete_on_termination in any state that lives
    AttachVolume    devices grows by one. It shrinks only by the reconcilers, when a detachment is done.
    tags            in any state

NetworkInterface
    RunInstances    new, with its instance. public_ip is set at once if it is to have one.
                    ``auto_public`` is the wish for an automatic address: it stays True while the instance is
                    stopped (public_ip "") and while an elastic address takes its place (``address`` set).
    StartInstances  a new public_ip if auto_public and there is none
    AssociateAddress, DisassociateAddress
                    public_ip and address; after the latter a new automatic public_ip if the instance runs.
                    What lets go of an automatic address (``public_ip and not address``) is the reconcilers,
                    when the instance is stopped; they disassociate elastic ones when it is terminated.
    ModifyInstanceAttribute
                    groups, source_dest_check

Volume
    RunInstances    new: ``creating`` with an attachment that is ``attaching``; host None. To be made by the
                    pool (from ``source``: an image or snapshot id, or ""), then ``in-use``.
    CreateVolume    new: ``creating``, no attachment, host None. Then ``available`` or ``error``.
                    ``iops`` and ``throughput`` are 0 unless they were asked for: what EC2 shows for a type's
                    defaults is not a limit here.
    AttachVolume    ``available`` -> ``in-use``, attachment ``attaching``; instance ``running`` or ``stopped``
    DetachVolume    attachment -> ``detaching``, with force as asked (again with force while ``detaching``).
                    The root volume only while its instance is ``stopped``.
    ModifyVolume    ``available`` or ``in-use``: size_bytes (never smaller), type, iops, throughput, and a
                    modification ``modifying``, to become ``completed`` or ``failed``
    DeleteVolume    ``available`` or ``error`` -> ``deleting``. A snapshot of it may still be ``pending``:
                    that one has to be taken first.

Snapshot
    CreateSnapshot  new: ``pending``, with the volume's pool and host; volume ``available`` or ``in-use``
    DeleteSnapshot  -> ``deleting`` (from any state); not while an image needs it or a volume is made of it

Address             AllocateAddress new, ReleaseAddress deletes; association, interface, instance and
                    private_ip are set and cleared together, with the interface's public_ip and address
SecurityGroup       new, deleted when no interface has it and no other group's rule names it; rules, tags
KeyPair             new, deleted. Instances keep their own copy of the public key.
Vpc, Subnet         by ``defaults.ensure_defaults`` only; tags

RunInstances, StartInstances and the rest change all the instances of a request or none.
"""

from gureum.services.ec2 import (
    account,
    addresses,
    attachments,
    attributes,
    console,
    images,
    instances,
    interfaces,
    key_pairs,
    launch,
    lifecycle,
    network,
    regions,
    security_group_rules,
    security_groups,
    snapshots,
    tags,
    type_queries,
    volumes,
)

__all__ = [
    "account",
    "addresses",
    "attachments",
    "attributes",
    "console",
    "images",
    "instances",
    "interfaces",
    "key_pairs",
    "launch",
    "lifecycle",
    "network",
    "regions",
    "security_group_rules",
    "security_groups",
    "snapshots",
    "tags",
    "type_queries",
    "volumes",
]
