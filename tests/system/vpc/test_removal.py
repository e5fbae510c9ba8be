"""The last of these tests by name: all VPCs go, and nothing is left of them."""

from __future__ import annotations

import pytest

from ..realcloud import refused
from .kernel import kernel
from .world import World

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]


def test_nothing_is_left_of_vpcs(world: World) -> None:
    ec2, wait = world.cloud.ec2, world.cloud.wait
    assert kernel(world.cloud) != world.before
    world.cloud.wait_clean()
    for vpc in world.vpcs.values():
        with refused("DependencyViolation"):
            ec2.delete_vpc(VpcId=vpc.id)
        with refused("DependencyViolation"):
            ec2.delete_subnet(SubnetId=vpc.subnets[0])
        with refused("DependencyViolation"):
            ec2.detach_internet_gateway(InternetGatewayId=vpc.gateway, VpcId=vpc.id)
    ids = [guest.id for guest in world.guests.values()]
    ec2.terminate_instances(InstanceIds=ids, SkipOsShutdown=True)
    world.cloud.waiter("instance_terminated", InstanceIds=ids)
    for vpc in world.vpcs.values():
        of_vpc = [{"Name": "vpc-id", "Values": [vpc.id]}]
        for subnet in vpc.subnets:
            ec2.delete_subnet(SubnetId=subnet)
        with refused("DependencyViolation"):
            ec2.delete_vpc(VpcId=vpc.id)
        ec2.detach_internet_gateway(InternetGatewayId=vpc.gateway, VpcId=vpc.id)
        ec2.delete_internet_gateway(InternetGatewayId=vpc.gateway)
        for table in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]:
            if table["RouteTableId"] != vpc.table:
                ec2.delete_route_table(RouteTableId=table["RouteTableId"])
        ec2.delete_vpc(VpcId=vpc.id)
        assert ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"] == []
        assert ec2.describe_network_acls(Filters=of_vpc)["NetworkAcls"] == []
    assert [vpc["IsDefault"] for vpc in ec2.describe_vpcs()["Vpcs"]] == [True]
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    wait("nothing to be left in the kernel", lambda: set(kernel(world.cloud)) == set(world.before))
    assert world.cloud.leaks() == []
