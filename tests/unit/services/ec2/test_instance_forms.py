"""What a form makes is, byte for byte, what is made without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gureum.gateway.call import Fragment
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.protocols import Codecs
from gureum.resources import (
    Attachment,
    AttachmentState,
    BlockDevice,
    Instance,
    InstanceState,
    NetworkInterface,
    SecurityGroup,
    StateReason,
    Volume,
    VolumeState,
    Vpc,
)
from gureum.services.ec2 import describe, instance_forms
from gureum.services.ec2.parts import Parts
from gureum.services.operation import Cloud

START = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="eu-west-1",
    zones=("eu-west-1a",),
    public_cidr="198.18.0.0/16",
)
CODECS = Codecs(Catalogue.open(), Limits(), ())
VPC = Vpc(id="vpc-1", cidr="172.31.0.0/16", network_id=1)
GROUPS = (
    SecurityGroup(id="sg-1", name="one", description="", vpc="vpc-1"),
    SecurityGroup(id="sg-2", name="100% <two> & more", description="", vpc="vpc-1"),
)

ODD = (
    "",
    "web",
    "50% & <more>",
    "%s",
    "\ue000000.\ue001",
    "2000000005",
    "0001-01-01T00:00:00.004Z",
    "\x00\r",
)
texts = st.sampled_from(ODD)
times = st.integers(0, 10_000).map(lambda n: START + timedelta(milliseconds=7 * n))
addresses = st.one_of(st.just(""), st.integers(0, 255).map(lambda n: f"172.31.4.{n}"))


def render(service: str, shape: str, value: Any) -> Fragment:
    return CODECS.fragment(service, shape, value)


@st.composite
def kinds(draw: st.DrawFn) -> dict[str, Any]:
    """What instances of one form have in common."""
    return {
        "state": draw(st.sampled_from(InstanceState)),
        "reason": draw(st.sampled_from((None, StateReason(code="Client.X", message="<x>")))),
        "key_name": draw(texts),
        "tags": draw(st.lists(texts, unique=True, max_size=3)),
        "devices": draw(st.integers(0, 3)),
        "groups": draw(st.integers(0, 2)),
        "vpc": draw(st.sampled_from((VPC, replace(VPC, dns_hostnames=False), None))),
        "public": draw(st.booleans()),
        "elastic": draw(st.booleans()),
        "interfaces": draw(st.sampled_from((1, 1, 1, 0, 2))),
        "attached": draw(st.booleans()),
    }


@st.composite
def parts_of(draw: st.DrawFn, kind: dict[str, Any]) -> Parts:
    n = draw(st.integers(0, 999))
    groups = GROUPS[: kind["groups"]]
    cards = tuple(
        NetworkInterface(
            id=f"eni-{n}{card}",
            account="123456789012",
            zone="eu-west-1a",
            vpc="vpc-1",
            subnet="subnet-1",
            mac=f"0a:00:00:00:00:{n % 100:02}",
            private_ip=draw(addresses),
            public_ip=f"198.18.0.{n % 256}" if kind["public"] else "",
            address="eipalloc-1" if kind["elastic"] else "",
            groups=tuple(group.id for group in groups),
            attachment=f"eni-attach-{n}",
            attached=draw(times) if kind["attached"] else None,
            description=draw(texts),
        )
        for card in range(kind["interfaces"])
    )
    volumes = tuple(
        Volume(
            id=f"vol-{n}{index}",
            zone="eu-west-1a",
            state=VolumeState.in_use,
            size_bytes=2**30,
            created=START,
            attachments=(
                Attachment(
                    instance=f"i-{n}",
                    device=f"/dev/{index}",
                    state=AttachmentState.attached,
                    attached=draw(times),
                ),
            ),
        )
        for index in range(kind["devices"])
    )
    instance = Instance(
        id=f"i-{n}",
        zone="eu-west-1a",
        state=kind["state"],
        state_reason=kind["reason"],
        transition_reason=draw(texts),
        reservation="r-1",
        launch_index=draw(st.integers(0, 2000)),
        type="t3.nano",
        image="ami-1",
        key_name=kind["key_name"],
        launched=draw(times),
        vpc="vpc-1",
        subnet="subnet-1",
        private_ip=draw(addresses),
        interfaces=tuple(card.id for card in cards),
        devices=tuple(BlockDevice(device=f"/dev/{i}", volume=v.id) for i, v in enumerate(volumes)),
        client_token=draw(texts),
        tags={key: draw(texts) for key in kind["tags"]},
    )
    return Parts(instance, cards, volumes, groups, kind["vpc"])


def plainly(parts: Parts) -> str:
    return render("ec2", "Instance", describe.item(parts, CLOUD)).text


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_same_bytes(data: st.DataObject) -> None:
    views = describe.Views()
    views.render = render
    for kind in data.draw(st.lists(kinds(), min_size=1, max_size=2)):
        for _ in range(instance_forms.WORTH + 3):
            parts = data.draw(parts_of(kind))
            answer = views.get(parts, CLOUD)
            assert isinstance(answer, Fragment)
            assert answer.text == plainly(parts)


def many(count: int, **changes: Any) -> list[Parts]:
    """Instances that differ in their ids and addresses, and in ``changes`` by their number."""
    found = []
    for n in range(count):
        card = NetworkInterface(
            id=f"eni-{n}",
            zone="a",
            vpc="vpc-1",
            subnet="s",
            mac="0a:00",
            private_ip=f"10.0.0.{n}",
            groups=("sg-1",),
        )
        instance = Instance(
            id=f"i-{n}", zone="a", reservation="r", type="t3.nano", image="ami", launched=START, vpc="vpc-1",
            subnet="s", private_ip=f"10.0.0.{n}", interfaces=(card.id,),
            **{name: make(n) for name, make in changes.items()},
        )  # fmt: skip
        found.append(Parts(instance, (card,), (), GROUPS[:1], VPC))
    return found


def described(instances: list[Parts]) -> tuple[list[str], int]:
    """What forms make of them, and how many of them were serialised."""
    forms, written = instance_forms.Forms(), []

    def write(parts: Parts) -> str:
        written.append(parts.instance.id)
        return plainly(parts)

    return [forms.text(parts, (), write) for parts in instances], len(written)


def test_many_alike_are_serialised_a_few_times() -> None:
    instances = many(100)
    texts, written = described(instances)
    assert texts == [plainly(parts) for parts in instances]
    assert written == instance_forms.WORTH + 2


@pytest.mark.parametrize("text", [text for text in ODD if text])
def test_a_common_text_that_looks_like_a_mark(text: str) -> None:
    instances = many(30, key_name=lambda n: text, tags=lambda n: {text: f"{n}{text}"})
    assert described(instances)[0] == [plainly(parts) for parts in instances]


def test_forms_are_bounded() -> None:
    forms = instance_forms.Forms()
    for parts in many(instance_forms.FORMS_MAX + 5, key_name=lambda n: f"key-{n}"):
        forms.text(parts, (), plainly)
    assert len(forms) == 5
