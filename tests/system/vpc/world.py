"""Tenants on two hosts, the same ones for all tests of VPCs.

Red and blue have the same network and guests with the same addresses, on the same host and across hosts.
Green and amber can be peers of red.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from gureum.images.manifest import ImageManifest

from ..realcloud import RealCloud, opened
from .guests import Guest, Vpc, booted, launch
from .kernel import prepared
from .outside import outside_world
from .shells import Shells, shells

SAME_CIDR = "10.0.0.0/16"
HOSTS = 2


class World(NamedTuple):
    """``private_subnet`` of red has the route table ``private_table``. ``before``: what was in the kernel
    before there were VPCs.
    """

    cloud: RealCloud
    shells: Shells
    vpcs: dict[str, Vpc]
    guests: dict[str, Guest]
    private_subnet: str
    private_table: str
    before: list[str]


@contextlib.contextmanager
def made_world(image: ImageManifest) -> Iterator[World]:
    with opened(image, HOSTS) as cloud, outside_world(), shells(cloud) as logins:
        cloud.start()
        before = cloud.wait("the hosts to be prepared", lambda: prepared(cloud))
        cidrs = {"red": SAME_CIDR, "blue": SAME_CIDR, "green": "10.1.0.0/16", "amber": "10.2.0.0/16"}
        vpcs = {name: Vpc(cloud, cidr) for name, cidr in cidrs.items()}
        ids: dict[str, str] = {}
        tables: dict[str, str] = {}
        for name in ("red", "blue"):
            public, private = vpcs[name].subnet("10.0.1.0/24", "a"), vpcs[name].subnet("10.0.2.0/24", "b")
            tables[name] = vpcs[name].private_table(private)
            ids[f"{name}-1"] = launch(cloud, f"{name}-1", public, "10.0.1.10")
            ids[f"{name}-2"] = launch(cloud, f"{name}-2", private, "10.0.2.10", public=False)
        ids["green-1"] = launch(cloud, "green-1", vpcs["green"].subnet("10.1.1.0/24", "b"), "10.1.1.10")
        ids["amber-1"] = launch(cloud, "amber-1", vpcs["amber"].subnet("10.2.1.0/24", "a"), "10.2.1.10")
        guests = booted(cloud, ids, {"red-2": "red-1", "blue-2": "blue-1"})
        yield World(cloud, logins, vpcs, guests, vpcs["red"].subnets[1], tables["red"], before)


@contextlib.contextmanager
def member_of(world: World, guest: Guest, *groups: str) -> Iterator[None]:
    """Has the guest in these groups, instead of its VPC's default one, while the block runs."""

    def change(wanted: list[str]) -> None:
        world.cloud.ec2.modify_instance_attribute(InstanceId=guest.id, Groups=wanted)

    change([*groups])
    try:
        yield
    finally:
        change([world.vpcs[guest.name.partition("-")[0]].group])
