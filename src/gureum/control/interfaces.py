"""The life of an interface's attachment: the next step, from its record and what its instance's host says.

attaching      ``attached`` here when the machine has it, or its instance is stopped
attached       as long as its instance lives; ``instances`` lets go of it with that one
detaching      free here when the machine no longer has it, or there is none. Until then it keeps its port.
"""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.env import Env
from gureum.hostspec import MachineState
from gureum.resources import Address, Instance, InstanceState, InterfaceAttachment, NetworkInterface
from gureum.services.ec2.allocation import remove_interface
from gureum.store.base import Transaction

UNSETTLED = (InterfaceAttachment.attaching, InterfaceAttachment.detaching)
NO_MACHINE = (InstanceState.stopped, InstanceState.terminated)


def settled(interface: NetworkInterface) -> bool:
    """As ``instances.settled``."""
    return not interface.changing


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the interface, if there is one."""
    interface = await tx.get(NetworkInterface, id)
    if interface is None or settled(interface):
        return
    instance = await tx.get(Instance, interface.instance or "")
    if instance is None:
        await free(tx, interface)
        return
    seen = observed.machine(instance.host, instance.id, instance.generation)
    if interface.attachment_state is InterfaceAttachment.attaching:
        has = seen is not None and seen.state is not MachineState.starting and id in seen.nics
        if has or instance.state in NO_MACHINE:
            await tx.put(replace(interface, attachment_state=InterfaceAttachment.attached))
        return
    gone = seen is not None and id not in seen.nics and seen.revision >= interface.version
    if gone or instance.state in NO_MACHINE or instance.host is None:
        left = tuple(each for each in instance.interfaces if each != id)
        if left != instance.interfaces:
            await tx.put(replace(instance, interfaces=left))
        await free(tx, interface)


async def free(tx: Transaction, interface: NetworkInterface) -> None:
    """It belongs to no instance any more. Its elastic addresses stay with it, an automatic one does not."""
    for address in await tx.find(Address, interface=interface.id):
        await tx.put(replace(address, instance=""))
    await tx.put(
        replace(
            interface,
            instance=None,
            host=None,
            attachment="",
            attachment_state=InterfaceAttachment.attached,
            force_detach=False,
            device_index=0,
            attached=None,
            delete_on_termination=True,
            public_ip=interface.public_ip if interface.address else "",
            auto_public=False,
        )
    )


async def let_go(tx: Transaction, interface: NetworkInterface) -> None:
    """Its instance is terminated."""
    if not interface.delete_on_termination:
        await free(tx, interface)
        return
    await remove_interface(tx, interface)
