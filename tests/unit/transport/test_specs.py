"""Specs as changes: whatever changes, the other end must have the same document."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gureum.errors import TransportError
from gureum.hostspec import (
    AddressSpec,
    GroupSpec,
    HostSpec,
    NetworkSpec,
    PortSpec,
    RemoteSpec,
    RuleSpec,
    VolumeSpec,
)
from gureum.transport.messages import Items, Report, Spec, SpecChange, decode, encode
from gureum.transport.specs import Receiver, Sender


def remote(number: int, host: str = "host-1") -> RemoteSpec:
    addresses = (AddressSpec(private_ip=f"10.0.{number >> 8}.{number & 255}"),)
    return RemoteSpec(id=f"eni-{number:04}", vpc="vpc-1", host=host, addresses=addresses)


def spec(revision: int, remotes: int = 100) -> HostSpec:
    port = PortSpec(
        id="eni-1", vpc="vpc-1", subnet="subnet-1", mac="02:00:00:00:00:01", private_ip="10.0.0.1"
    )
    network = NetworkSpec(
        ports=(port,),
        remotes=tuple(map(remote, range(remotes))),
        groups=(GroupSpec(id="sg-1", rules=(RuleSpec(cidr="10.0.0.0/8"),)),),
    )
    return HostSpec(
        cloud="c",
        host="host-0",
        revision=revision,
        volumes=(VolumeSpec(id="vol-1", size_bytes=1),),
        network=network,
    )


def over_the_wire(message: Spec | SpecChange) -> Spec | SpecChange:
    received = decode(encode(message)[4:])
    assert isinstance(received, Spec | SpecChange)
    return received


def test_the_first_is_whole_and_a_newer_revision_is_small() -> None:
    sender, receiver = Sender(), Receiver()
    first = over_the_wire(sender.message(spec(5)))
    assert isinstance(first, Spec)
    before = receiver.take(first)
    second = sender.message(spec(6))
    assert isinstance(second, SpecChange)
    assert len(encode(second)) < 100
    after = receiver.take(over_the_wire(second))
    assert after == spec(6)
    assert before is not None
    assert after is not None
    assert after.network is before.network


def test_only_what_changed_is_sent() -> None:
    sender = Sender()
    sender.message(spec(1))
    old = spec(1)
    changed = (*old.network.remotes[:50], remote(50, "host-2"), *old.network.remotes[51:99], remote(200))
    message = sender.message(replace(old, revision=2, network=replace(old.network, remotes=changed)))
    assert isinstance(message, SpecChange)
    assert list(message.items) == ["remotes"]
    come = msgspec.msgpack.decode(message.items["remotes"].come)
    assert [each["id"] for each in come] == ["eni-0050", "eni-0200"]
    assert message.items["remotes"].gone == ("eni-0099",)
    assert message.parts == {}
    message = sender.message(replace(old, revision=3, network=replace(old.network, members={"sg-1": ()})))
    assert isinstance(message, SpecChange)
    assert list(message.parts) == ["network.members"]
    assert list(message.items) == ["remotes"]


def group(number: int, port: int) -> GroupSpec:
    rule = RuleSpec(protocol="tcp", from_port=port, to_port=port, cidr="10.0.0.0/8")
    return GroupSpec(id=f"sg-{number:04}", rules=(rule,))


def test_a_group_that_changed_is_sent_alone_and_the_others_are_the_same() -> None:
    sender, receiver = Sender(), Receiver()
    groups = tuple(group(number, 80) for number in range(100))
    old = replace(spec(1), network=replace(spec(1).network, groups=groups))
    before = receiver.take(over_the_wire(sender.message(old)))
    changed = (*groups[:50], group(50, 443), *groups[51:99], group(200, 22))
    new = replace(old, revision=2, network=replace(old.network, groups=changed))
    message = sender.message(new)
    assert len(encode(message)) < 500
    after = receiver.take(over_the_wire(message))
    assert after == new
    assert before is not None
    assert after is not None
    same = [one is other for one, other in zip(before.network.groups, after.network.groups, strict=True)]
    assert [number for number, each in enumerate(same) if not each] == [50, 99]
    assert after.network.ports is before.network.ports


def test_what_has_no_order_is_sent_whole() -> None:
    sender, receiver = Sender(), Receiver()
    groups = tuple(group(number, 80) for number in range(5))
    for revision, order in enumerate((groups, groups[::-1], (groups[2], *groups), groups), 1):
        now = replace(spec(revision), network=replace(spec(revision).network, groups=order))
        assert receiver.take(over_the_wire(sender.message(now))) == now


def test_random_changes_arrive() -> None:
    rng = random.Random(1)
    sender, receiver, now = Sender(), Receiver(), spec(1)
    for revision in range(1, 80):
        network = now.network
        match rng.randrange(5):
            case 0:
                chosen = sorted(rng.sample(range(300), rng.randrange(120)))
                network = replace(
                    network, remotes=tuple(remote(n, f"host-{rng.randrange(3)}") for n in chosen)
                )
            case 1 if rng.random() < 0.5:
                chosen = sorted(rng.sample(range(20), rng.randrange(10)))
                network = replace(network, groups=tuple(group(n, rng.randrange(3)) for n in chosen))
            case 1:
                network = replace(network, members={"sg-1": (f"10.0.0.{revision}",)})
            case 2:
                network = replace(network, mtu=1500 - revision, ports=network.ports[: rng.randrange(2)])
            case 3:
                now = replace(now, volumes=(VolumeSpec(id="vol-1", size_bytes=revision),))
            case _ if rng.random() < 0.3:
                sender.forget()
        now = replace(now, revision=revision, network=network)
        message = over_the_wire(sender.message(now))
        assert receiver.take(message) == now
        if isinstance(message, SpecChange) and rng.random() < 0.3:
            assert receiver.take(message) in (None, now)


def test_a_missing_change_is_noticed() -> None:
    sender, receiver = Sender(), Receiver()
    receiver.take(sender.message(spec(1)))
    sender.message(spec(2))
    with pytest.raises(TransportError, match="the last one is 1"):
        receiver.take(sender.message(spec(3)))
    with pytest.raises(TransportError, match="never sent"):
        Receiver().take(sender.message(spec(4)))
    sender.forget()
    assert receiver.take(sender.message(spec(5))) == spec(5)


def test_what_an_older_agent_does_not_say_has_the_meaning_that_it_had() -> None:
    machine = {"id": "i-1", "generation": 1, "state": "paused"}
    said = {"cloud": "c", "host": "h", "boot_id": "b", "revision": 1, "machines": [machine]}
    message = decode(msgspec.msgpack.encode({"type": "report", "report": said}))
    assert isinstance(message, Report)
    report = message.report
    assert (report.version, report.started, report.cpu_models, report.cpu_vendor) == ("", 0.0, (), "")
    assert not report.machines[0].hung


def test_what_a_newer_manager_tells_of_is_passed_over() -> None:
    """In a whole spec too: there are no two ends of a link that have to be upgraded at once."""
    whole = msgspec.msgpack.decode(encode(Spec(spec(1)))[4:], type=dict[str, Any])
    whole["spec"] |= {"wires": 1, "network": {"wires": [], **whole["spec"].get("network", {})}}
    receiver = Receiver()
    told = decode(msgspec.msgpack.encode(whole))
    assert isinstance(told, Spec)
    assert receiver.take(told) == spec(1)
    parts = {"wires": b"\x01", "network.wires": b"\x90", "cloud": b"\xa1x"}
    change = SpecChange(base=1, revision=2, parts=parts, items={"cables": Items(msgspec.Raw(b"\x90"))})  # type: ignore[arg-type]
    assert receiver.take(over_the_wire(change)) == spec(2)


def test_what_is_not_a_change_is_refused() -> None:
    receiver = Receiver()
    receiver.take(Spec(spec(1)))
    for parts in ({"network.vpcs": b"\xc3"}, {"volumes": b"\xc3"}):
        message = over_the_wire(SpecChange(base=1, revision=2, parts=parts))  # type: ignore[arg-type]
        with pytest.raises(TransportError, match="not a change of a spec"):
            receiver.take(message)
    for items in ({"vpcs": Items(msgspec.Raw(b"\x90"))}, {"ports": Items(msgspec.Raw(b"\xc3"))}):
        message = over_the_wire(SpecChange(base=1, revision=2, items=items))
        with pytest.raises(TransportError, match="not a change of a spec"):
            receiver.take(message)
