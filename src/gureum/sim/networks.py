"""The part of a simulated client that asks for random networks: VPCs, and all that is in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from gureum.resources import (
    Address,
    Image,
    Instance,
    InstanceState,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    PrefixList,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.sim.world import CLOUD, World

R = TypeVar("R", bound=Record)
Asked = tuple[str, Mapping[str, Any]]
NOTHING: Asked = ("", {})

VPCS_MAX = 5
SUBNETS_MAX = 12
INTERFACES_MAX = 40
LIVE_MAX = 10
NAT_GATEWAYS_MAX = 4
CIDRS = ("10.0.0.0/16", "10.0.0.0/16", "10.1.0.0/16", "10.0.0.0/20")
"""Of new VPCs: they overlap."""
OUTSIDE = ("0.0.0.0/0", "192.0.2.0/24", "10.0.0.0/8")
PORTS = (22, 80, 443)


class NetworkCalls:
    """Random calls over the networks that the store has now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self._count = 0

    async def choose(self) -> Asked:
        makers: tuple[tuple[Callable[[], Awaitable[Asked]], int], ...] = (
            (self._vpc, 7),
            (self._subnet, 8),
            (self._gateway, 8),
            (self._table, 8),
            (self._route, 10),
            (self._run, 10),
            (self._interface, 12),
            (self._attachment, 12),
            (self._interface_change, 10),
            (self._address, 8),
            (self._nat, 8),
            (self._peering, 8),
            (self._acl, 8),
            (self._group, 6),
            (self._rule, 10),
            (self._prefix_list, 3),
            (self._describe, 3),
        )
        chosen = self.random.choices([maker for maker, _ in makers], [weight for _, weight in makers])[0]
        return await chosen()

    async def _all(self, kind: type[R], **index: Any) -> list[R]:
        async with self.world.store.read() as reader:
            return await reader.find(kind, **index)

    async def _any(self, kind: type[R], **index: Any) -> R | None:
        found = await self._all(kind, **index)
        return self.random.choice(found) if found else None

    def _often(self, chance: float) -> bool:
        return self.random.random() < chance

    def _name(self) -> str:
        self._count += 1
        return f"name-{self._count}"

    async def _vpc(self) -> Asked:
        vpcs = await self._all(Vpc)
        if len(vpcs) < VPCS_MAX and self._often(0.7):
            return "CreateVpc", {"CidrBlock": self.random.choice(CIDRS)}
        own = [vpc for vpc in vpcs if not vpc.default]
        return ("DeleteVpc", {"VpcId": self.random.choice(own).id}) if own else NOTHING

    async def _subnet(self) -> Asked:
        subnets = [each for each in await self._all(Subnet) if not each.default_for_az]
        vpc = await self._any(Vpc)
        if vpc is None:
            return NOTHING
        if subnets and (len(subnets) >= SUBNETS_MAX or self._often(0.4)):
            return "DeleteSubnet", {"SubnetId": self.random.choice(subnets).id}
        first = vpc.cidr.rpartition(".")[0].rpartition(".")[0]
        return "CreateSubnet", {
            "VpcId": vpc.id,
            "CidrBlock": f"{first}.{self.random.randrange(12)}.0/24",
            "AvailabilityZone": self.random.choice(CLOUD.zones),
        }

    async def _gateway(self) -> Asked:
        gateway, vpc = await self._any(InternetGateway), await self._any(Vpc)
        if gateway is None or self._often(0.3):
            return "CreateInternetGateway", {}
        if not gateway.vpc and vpc is not None and self._often(0.8):
            return "AttachInternetGateway", {"InternetGatewayId": gateway.id, "VpcId": vpc.id}
        if gateway.vpc and self._often(0.5):
            return "DetachInternetGateway", {"InternetGatewayId": gateway.id, "VpcId": gateway.vpc}
        return "DeleteInternetGateway", {"InternetGatewayId": gateway.id}

    async def _table(self) -> Asked:
        vpc = await self._any(Vpc)
        if vpc is None:
            return NOTHING
        table = await self._any(RouteTable, vpc=vpc.id)
        subnet = await self._any(Subnet, vpc=vpc.id)
        if table is None or self._often(0.3):
            return "CreateRouteTable", {"VpcId": vpc.id}
        if self._often(0.2):
            return "DeleteRouteTable", {"RouteTableId": table.id}
        if subnet is None:
            return NOTHING
        if subnet.route_association and self._often(0.4):
            return "DisassociateRouteTable", {"AssociationId": subnet.route_association}
        if subnet.route_association:
            return "ReplaceRouteTableAssociation", {
                "AssociationId": subnet.route_association,
                "RouteTableId": table.id,
            }
        return "AssociateRouteTable", {"RouteTableId": table.id, "SubnetId": subnet.id}

    async def _route(self) -> Asked:
        table = await self._any(RouteTable)
        if table is None:
            return NOTHING
        if table.routes and self._often(0.3):
            destination = self.random.choice(table.routes).destination
            field = "DestinationPrefixListId" if destination.startswith("pl-") else "DestinationCidrBlock"
            return "DeleteRoute", {"RouteTableId": table.id, field: destination}
        target = await self._target(table.vpc)
        if not target:
            return NOTHING
        peer = await self._any(Vpc)
        lists = await self._all(PrefixList, account=CLOUD.account)
        to: dict[str, str] = {
            "DestinationCidrBlock": self.random.choice([*OUTSIDE, peer.cidr if peer else ""])
        }
        if lists and self._often(0.2):
            to = {"DestinationPrefixListId": self.random.choice(lists).id}
        name = "ReplaceRoute" if self._often(0.3) else "CreateRoute"
        return name, {"RouteTableId": table.id, **to, **target}

    async def _target(self, vpc: str) -> dict[str, str]:
        choice = self.random.choice(("gateway", "nat", "interface", "peering"))
        match choice:
            case "gateway":
                gateway = await self._any(InternetGateway, vpc=vpc)
                return {"GatewayId": gateway.id} if gateway else {}
            case "nat":
                nat = await self._any(NatGateway, vpc=vpc)
                return {"NatGatewayId": nat.id} if nat else {}
            case "interface":
                interface = await self._any(NetworkInterface, vpc=vpc)
                return {"NetworkInterfaceId": interface.id} if interface else {}
            case _:
                peering = await self._any(PeeringConnection, vpcs=vpc)
                return {"VpcPeeringConnectionId": peering.id} if peering else {}

    async def _run(self) -> Asked:
        live = [str(state) for state in InstanceState if state is not InstanceState.terminated]
        if len(await self._all(Instance, state=live)) >= LIVE_MAX:
            return NOTHING
        image, subnet = await self._any(Image), await self._any(Subnet)
        if image is None or subnet is None:
            return NOTHING
        groups = [each.id for each in await self._all(SecurityGroup, vpc=subnet.vpc)]
        return "RunInstances", {
            "ImageId": image.id,
            "InstanceType": self.random.choice(["t3.nano", "t3.small", "m5.large"]),
            "MinCount": 1,
            "MaxCount": self.random.randint(1, 3),
            "SubnetId": subnet.id,
            "SecurityGroupIds": self.random.sample(groups, min(len(groups), 2)),
        }

    async def _interface(self) -> Asked:
        free = [each for each in await self._all(NetworkInterface) if each.instance is None]
        if free and self._often(0.3):
            return "DeleteNetworkInterface", {"NetworkInterfaceId": self.random.choice(free).id}
        subnet = await self._any(Subnet)
        if subnet is None or len(await self._all(NetworkInterface)) >= INTERFACES_MAX:
            return NOTHING
        groups = [each.id for each in await self._all(SecurityGroup, vpc=subnet.vpc)]
        return "CreateNetworkInterface", {
            "SubnetId": subnet.id,
            "Groups": self.random.sample(groups, min(len(groups), 2)),
            "SecondaryPrivateIpAddressCount": self.random.choice([0, 0, 2]),
        }

    async def _attachment(self) -> Asked:
        interfaces = await self._all(NetworkInterface, account=CLOUD.account)
        held = [each for each in interfaces if each.attachment and each.device_index]
        if held and self._often(0.4):
            detach = {"AttachmentId": self.random.choice(held).attachment, "Force": self._often(0.2)}
            return "DetachNetworkInterface", detach
        free = [each for each in interfaces if each.instance is None and each.type == "interface"]
        if not free:
            return NOTHING
        interface = self.random.choice(free)
        states = [str(InstanceState.running), str(InstanceState.stopped)]
        able = [each for each in await self._all(Instance, state=states) if each.zone == interface.zone]
        if not able:
            return NOTHING
        return "AttachNetworkInterface", {
            "NetworkInterfaceId": interface.id,
            "InstanceId": self.random.choice(able).id,
            "DeviceIndex": self.random.choice([1, 1, 2]),
        }

    async def _interface_change(self) -> Asked:
        interfaces = await self._all(NetworkInterface)
        if not interfaces:
            return NOTHING
        several = [each for each in interfaces if each.secondary]
        interface = self.random.choice(several if several and self._often(0.3) else interfaces)
        named: dict[str, Any] = {"NetworkInterfaceId": interface.id}
        match self.random.choice(("assign", "unassign", "groups", "check")):
            case "assign":
                return "AssignPrivateIpAddresses", {**named, "SecondaryPrivateIpAddressCount": 1}
            case "unassign" if interface.secondary:
                gone = self.random.choice(interface.secondary).private_ip
                return "UnassignPrivateIpAddresses", {**named, "PrivateIpAddresses": [gone]}
            case "groups":
                groups = [each.id for each in await self._all(SecurityGroup, vpc=interface.vpc)]
                wanted = self.random.sample(groups, min(len(groups), self.random.randint(1, 3)))
                return "ModifyNetworkInterfaceAttribute", {**named, "Groups": wanted}
            case "check":
                check = {"SourceDestCheck": {"Value": self._often(0.5)}}
                return "ModifyNetworkInterfaceAttribute", {**named, **check}
        return NOTHING

    async def _address(self) -> Asked:
        address, interface = await self._any(Address), await self._any(NetworkInterface)
        if address is None or self._often(0.3):
            return "AllocateAddress", {"Domain": "vpc"}
        if address.association and self._often(0.4):
            return "DisassociateAddress", {"AssociationId": address.association}
        if interface is not None and self._often(0.8):
            private = self.random.choice([interface.private_ip, *(e.private_ip for e in interface.secondary)])
            return "AssociateAddress", {
                "AllocationId": address.id,
                "NetworkInterfaceId": interface.id,
                "PrivateIpAddress": private,
            }
        return "ReleaseAddress", {"AllocationId": address.id}

    async def _nat(self) -> Asked:
        working = [str(NatGatewayState.pending), str(NatGatewayState.available)]
        nats = await self._all(NatGateway, state=working)
        if nats and (len(nats) >= NAT_GATEWAYS_MAX or self._often(0.4)):
            return "DeleteNatGateway", {"NatGatewayId": self.random.choice(nats).id}
        subnet = await self._any(Subnet)
        free = [each for each in await self._all(Address) if not each.association]
        if subnet is None:
            return NOTHING
        if not free or self._often(0.2):
            return "CreateNatGateway", {"SubnetId": subnet.id, "ConnectivityType": "private"}
        return "CreateNatGateway", {
            "SubnetId": subnet.id,
            "AllocationId": self.random.choice(free).id,
            "ClientToken": self._name(),
        }

    async def _peering(self) -> Asked:
        peering, vpcs = await self._any(PeeringConnection), await self._all(Vpc)
        if peering is not None and self._often(0.7):
            name = self.random.choices(["Accept", "Reject", "Delete"], [6, 1, 3])[0]
            return f"{name}VpcPeeringConnection", {"VpcPeeringConnectionId": peering.id}
        if len(vpcs) < 2:
            return NOTHING
        one, other = self.random.sample(vpcs, 2)
        return "CreateVpcPeeringConnection", {"VpcId": one.id, "PeerVpcId": other.id}

    async def _acl(self) -> Asked:
        vpc = await self._any(Vpc)
        acl = await self._any(NetworkAcl, vpc=vpc.id) if vpc is not None else None
        if vpc is None or acl is None or self._often(0.2):
            return ("CreateNetworkAcl", {"VpcId": vpc.id}) if vpc else NOTHING
        if self._often(0.1):
            return "DeleteNetworkAcl", {"NetworkAclId": acl.id}
        subnet = await self._any(Subnet, vpc=vpc.id)
        if subnet is not None and self._often(0.3):
            associate = {"AssociationId": subnet.acl_association, "NetworkAclId": acl.id}
            return "ReplaceNetworkAclAssociation", associate
        entry = {
            "NetworkAclId": acl.id,
            "RuleNumber": self.random.choice([50, 100, 200]),
            "Egress": self._often(0.5),
        }
        if self._often(0.3):
            return "DeleteNetworkAclEntry", entry
        rule = {
            "Protocol": "6",
            "RuleAction": self.random.choice(["allow", "deny"]),
            "CidrBlock": self.random.choice(OUTSIDE),
            "PortRange": {"From": self.random.choice(PORTS), "To": 1000},
        }
        return self.random.choice(["CreateNetworkAclEntry", "ReplaceNetworkAclEntry"]), {**entry, **rule}

    async def _group(self) -> Asked:
        vpc, groups = await self._any(Vpc), await self._all(SecurityGroup)
        own = [each for each in groups if each.name != "default"]
        if own and self._often(0.3):
            return "DeleteSecurityGroup", {"GroupId": self.random.choice(own).id}
        if vpc is None:
            return NOTHING
        return "CreateSecurityGroup", {"GroupName": self._name(), "Description": "Random", "VpcId": vpc.id}

    async def _rule(self) -> Asked:
        group = await self._any(SecurityGroup)
        if group is None:
            return NOTHING
        egress = self._often(0.3)
        side = "Egress" if egress else "Ingress"
        old = [rule.id for rule in group.rules if rule.egress == egress]
        if old and self._often(0.3):
            revoked = {"GroupId": group.id, "SecurityGroupRuleIds": [self.random.choice(old)]}
            return f"RevokeSecurityGroup{side}", revoked
        port = self.random.choice(PORTS)
        permission: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        peer = await self._any(SecurityGroup, vpc=group.vpc)
        lists = await self._all(PrefixList, account=CLOUD.account)
        if peer is not None and self._often(0.5):
            permission["UserIdGroupPairs"] = [{"GroupId": peer.id}]
        elif lists and self._often(0.4):
            permission["PrefixListIds"] = [{"PrefixListId": self.random.choice(lists).id}]
        else:
            permission["IpRanges"] = [{"CidrIp": self.random.choice(OUTSIDE)}]
        return f"AuthorizeSecurityGroup{side}", {"GroupId": group.id, "IpPermissions": [permission]}

    async def _prefix_list(self) -> Asked:
        lists = await self._all(PrefixList, account=CLOUD.account)
        if not lists or self._often(0.4):
            return "CreateManagedPrefixList", {
                "PrefixListName": self._name(),
                "MaxEntries": 5,
                "AddressFamily": "IPv4",
                "Entries": [{"Cidr": self.random.choice(OUTSIDE[1:])}],
            }
        chosen = self.random.choice(lists)
        if self._often(0.3):
            return "DeleteManagedPrefixList", {"PrefixListId": chosen.id}
        return "ModifyManagedPrefixList", {
            "PrefixListId": chosen.id,
            "CurrentVersion": chosen.revision,
            "AddEntries": [{"Cidr": f"192.0.2.{self.random.randrange(8)}/32"}],
        }

    async def _describe(self) -> Asked:
        names = (
            "DescribeVpcs",
            "DescribeSubnets",
            "DescribeRouteTables",
            "DescribeNatGateways",
            "DescribeVpcPeeringConnections",
            "DescribeNetworkInterfaces",
        )
        return self.random.choice(names), {}
