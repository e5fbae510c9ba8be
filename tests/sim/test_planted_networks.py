"""Faults that are put into the network's control on purpose: the simulation must find each of them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.agent import Agent
from gureum.control import interfaces, manager, nat_gateways
from gureum.control.session import Session
from gureum.hostspec import NetworkSpec
from gureum.network.base import PortsMade
from gureum.network.fake import FakeNetwork
from gureum.resources import InterfaceAttachment, NetworkInterface
from gureum.services.ec2 import addresses
from gureum.store.base import Change, Transaction

from .planted import first, violation

SEEDS_MAX = 150
"""How many runs may go by before one finds it."""
STEPS = 100


def found(pattern: str, steps: int = STEPS, **options: Any) -> None:
    """The first run that finds anything must find this."""
    runs = (violation(seed, steps, 3, networks=True, **options) for seed in range(SEEDS_MAX))
    first(pattern, runs)


@pytest.mark.parametrize("kind", ["security-group", "route-table"])
def test_a_host_hears_nothing_of_a_kind(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    right = Session.note

    def note(self: Session, change: Change) -> None:
        if change.kind != kind:
            right(self, change)

    monkeypatch.setattr(Session, "note", note)
    found("is not what its spec says", steps=40, crash_at="none")


def test_a_host_hears_nothing_of_what_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Session.note

    def note(self: Session, change: Change) -> None:
        if change.record is not None:
            right(self, change)

    monkeypatch.setattr(Session, "note", note)
    found("is not what its spec says", steps=30, crash_at="none")


def test_the_agent_says_that_a_network_is_in_effect_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def revision(self: Agent) -> int:
        return self._spec.revision if self._spec is not None and self._fresh else 0

    monkeypatch.setattr(Agent, "_network_revision", revision)
    found("which left it at")


def test_an_interface_is_free_before_its_machine_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interfaces.reconcile

    async def reconcile(tx: Transaction, env: Any, observed: Any, id: str) -> None:
        interface = await tx.get(NetworkInterface, id)
        if interface is None or interface.attachment_state is not InterfaceAttachment.detaching:
            await right(tx, env, observed, id)
        else:
            await interfaces.free(tx, interface)

    monkeypatch.setitem(manager.STEPS, "network-interface", reconcile)
    found("which the store gives to|does not have it|shows .* and has")


def test_a_network_keeps_ports_that_its_spec_does_not_mention(monkeypatch: pytest.MonkeyPatch) -> None:
    async def apply(self: FakeNetwork, spec: NetworkSpec, made: PortsMade) -> None:
        await self._step()
        self._wires.ports.setdefault(self._host, {}).update({port.id: port for port in spec.ports})
        self._wires.rules[self._host] = spec

    monkeypatch.setattr(FakeNetwork, "apply", apply)
    found("which left it at|is on host-|on one side only")


def test_a_gateway_leaves_its_interface_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nat_gateways._deleting

    async def deleting(tx: Transaction, env: Any, observed: Any, nat: Any, interface: Any) -> None:
        await right(tx, env, observed, nat, None if interface and interface.host is None else interface)

    monkeypatch.setattr(nat_gateways, "_deleting", deleting)
    found("but not so its interface")


def test_a_detached_interface_keeps_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interfaces.free

    async def free(tx: Transaction, interface: NetworkInterface) -> None:
        await right(tx, interface)
        freed = await tx.get(NetworkInterface, interface.id)
        assert freed is not None
        await tx.put(replace(freed, host=interface.host))

    monkeypatch.setattr(interfaces, "free", free)
    found(r"is on host-\d instead of")


def test_an_address_says_nothing_of_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """AssociateAddress writes one side only."""
    right: Any = replace

    def half(record: Any, **changes: Any) -> Any:
        changed = right(record, **changes)
        if isinstance(changed, NetworkInterface) and changed.address:
            return right(changed, address="", auto_public=False, public_ip="")
        return changed

    monkeypatch.setattr(addresses, "replace", half)
    found("on one side only|does not have it")
