"""VPCs and guests under test: made through the API. Guests say who they are, and whom they saw, over HTTP."""

from __future__ import annotations

from typing import NamedTuple

from ..realcloud import Item, RealCloud

PORT = 8080

USER_DATA = f"""#!/bin/sh
mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/who <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' NAME "$REMOTE_ADDR"
END
chmod 755 /tmp/www/cgi-bin/who
httpd -p 0.0.0.0:{PORT} -h /tmp/www
echo serving >/dev/console
"""


class Guest(NamedTuple):
    """``jump`` is the guest through which it is logged in to, None for one with a public address."""

    id: str
    name: str
    private: str
    interface: str
    public: str = ""
    jump: Guest | None = None


class Vpc:
    """A VPC with a way to the Internet in its main route table; its default group lets everything in."""

    def __init__(self, cloud: RealCloud, cidr: str) -> None:
        self._ec2 = cloud.ec2
        self.cidr = cidr
        self.id: str = self._ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        of_vpc = [{"Name": "vpc-id", "Values": [self.id]}]
        self.table: str = self._ec2.describe_route_tables(Filters=of_vpc)["RouteTables"][0]["RouteTableId"]
        self.group: str = self._ec2.describe_security_groups(Filters=of_vpc)["SecurityGroups"][0]["GroupId"]
        self.gateway: str = self._ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self._ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.id)
        self._ec2.create_route(
            RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", GatewayId=self.gateway
        )
        self._ec2.authorize_security_group_ingress(
            GroupId=self.group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        )
        self.subnets: list[str] = []

    def subnet(self, cidr: str, zone: str) -> str:
        made = self._ec2.create_subnet(VpcId=self.id, CidrBlock=cidr, AvailabilityZone=f"us-east-1{zone}")
        self.subnets.append(made["Subnet"]["SubnetId"])
        return self.subnets[-1]

    def private_table(self, subnet: str) -> str:
        """A route table of the subnet's own, without any way out."""
        table: str = self._ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"]
        self._ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return table

    def new_group(self, name: str, *permissions: Item) -> str:
        """A security group with these ingress rules."""
        made = self._ec2.create_security_group(GroupName=name, Description=name, VpcId=self.id)
        if permissions:
            self._ec2.authorize_security_group_ingress(GroupId=made["GroupId"], IpPermissions=permissions)
        return str(made["GroupId"])


def allow(protocol: str, ports: tuple[int, int] = (-1, -1), *, cidr: str = "", group: str = "") -> Item:
    """A permission as EC2 writes it."""
    found: Item = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1]}
    if cidr:
        found["IpRanges"] = [{"CidrIp": cidr}]
    if group:
        found["UserIdGroupPairs"] = [{"GroupId": group}]
    return found


def launch(cloud: RealCloud, name: str, subnet: str, private: str, *, public: bool = True) -> str:
    """An instance in the subnet with this private address."""
    card = {
        "DeviceIndex": 0,
        "SubnetId": subnet,
        "PrivateIpAddress": private,
        "AssociatePublicIpAddress": public,
    }
    [id] = cloud.launch(NetworkInterfaces=[card], UserData=USER_DATA.replace("NAME", name))
    return id


def booted(cloud: RealCloud, names: dict[str, str], jumps: dict[str, str]) -> dict[str, Guest]:
    """The guests by name once all of them serve. ``names``: their ids; ``jumps``: by name the jump's name."""
    cloud.waiter("instance_running", InstanceIds=list(names.values()))
    guests: dict[str, Guest] = {}
    for name in sorted(names, key=lambda name: name in jumps):
        shown = cloud.instance(names[name])
        guests[name] = Guest(
            id=names[name],
            name=name,
            private=shown["PrivateIpAddress"],
            interface=shown["NetworkInterfaces"][0]["NetworkInterfaceId"],
            public=shown.get("PublicIpAddress", ""),
            jump=guests[jumps[name]] if name in jumps else None,
        )
    for name, id in names.items():
        cloud.wait(f"{name} to serve", lambda id=id: "serving" in cloud.console(id))
    return guests
