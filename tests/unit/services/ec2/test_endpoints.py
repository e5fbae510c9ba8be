from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import InternetGateway, PrefixList, RouteTable, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

S3 = "com.amazonaws.us-east-1.s3"
ABSENT = "vpce-00000001"


@pytest.fixture
async def vpc(rig: Rig) -> str:
    [vpc] = await rig.find(Vpc)
    return vpc.id


@pytest.fixture
async def table(rig: Rig, vpc: str) -> str:
    [table] = await rig.find(RouteTable, vpc=vpc)
    return table.id


async def new(rig: Rig, vpc: str, **input: Any) -> dict[str, Any]:
    answer = await rig.call("CreateVpcEndpoint", **{"VpcId": vpc, "ServiceName": S3, **input})
    shown: dict[str, Any] = answer["VpcEndpoint"]
    return shown


async def routes(rig: Rig, table: str) -> list[dict[str, Any]]:
    [shown] = (await rig.call("DescribeRouteTables", RouteTableIds=[table]))["RouteTables"]
    return [route for route in shown["Routes"] if "DestinationPrefixListId" in route]


async def test_create(rig: Rig, vpc: str, table: str) -> None:
    tags = [{"ResourceType": "vpc-endpoint", "Tags": [{"Key": "a", "Value": "b"}]}]
    shown = await new(rig, vpc, RouteTableIds=[table], TagSpecifications=tags, ClientToken="once")
    id = shown["VpcEndpointId"]
    policy = json.loads(shown.pop("PolicyDocument"))
    assert policy["Statement"] == [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]
    assert shown == {
        "VpcEndpointId": id,
        "VpcEndpointType": "Gateway",
        "VpcId": vpc,
        "ServiceName": S3,
        "State": "available",
        "RouteTableIds": [table],
        "SubnetIds": [],
        "Groups": [],
        "NetworkInterfaceIds": [],
        "DnsEntries": [],
        "IpAddressType": "ipv4",
        "PrivateDnsEnabled": False,
        "RequesterManaged": False,
        "CreationTimestamp": rig.env.utcnow(),
        "OwnerId": "123456789012",
        "LastError": {
            "Code": "ServiceNotServed",
            "Message": f"This cloud has no service behind {S3}: the route takes no traffic.",
        },
        "Tags": [{"Key": "a", "Value": "b"}],
    }
    [described] = (await rig.call("DescribeVpcEndpoints", VpcEndpointIds=[id]))["VpcEndpoints"]
    described.pop("PolicyDocument")
    assert described == shown
    [prefix_list] = await rig.find(PrefixList, name=S3)
    # The route is shown, and shown to lead nowhere.
    assert await routes(rig, table) == [
        {
            "DestinationPrefixListId": prefix_list.id,
            "GatewayId": id,
            "Origin": "CreateRoute",
            "State": "blackhole",
        }
    ]
    await rig.fails(
        "RouteAlreadyExists",
        "CreateRoute",
        RouteTableId=table,
        DestinationPrefixListId=prefix_list.id,
        GatewayId=(await rig.find(InternetGateway))[0].id,
    )
    message = await rig.fails(
        "InvalidParameterValue",
        "DeleteRoute",
        RouteTableId=table,
        DestinationPrefixListId=prefix_list.id,
    )
    assert message.startswith(f"cannot remove VPC endpoint route {prefix_list.id} in route table {table}")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"ServiceName": ""}),
        ("InvalidServiceName", {"ServiceName": "com.amazonaws.us-east-1.sqs"}),
        ("InvalidServiceName", {"ServiceName": "com.amazonaws.us-west-1.s3"}),
        ("InvalidVpcID.NotFound", {"VpcId": "vpc-00000001"}),
        ("UnsupportedOperation", {"VpcEndpointType": "Interface"}),
        ("UnsupportedOperation", {"VpcEndpointType": "GatewayLoadBalancer"}),
        ("UnsupportedOperation", {"SubnetIds": ["subnet-00000001"]}),
        ("UnsupportedOperation", {"SecurityGroupIds": ["sg-00000001"]}),
        ("UnsupportedOperation", {"PrivateDnsEnabled": True}),
        ("UnsupportedOperation", {"IpAddressType": "dualstack"}),
        ("UnsupportedOperation", {"ServiceRegion": "us-west-1"}),
        ("InvalidRouteTableID.NotFound", {"RouteTableIds": ["rtb-00000001"]}),
        ("InvalidParameterValue", {"PolicyDocument": "my policy document"}),
        ("InvalidParameterValue", {"PolicyDocument": "[" * 20000}),
        ("InvalidParameterValue", {"PolicyDocument": '{"a":"' + "x" * 20_480 + '"}'}),
    ],
)
async def test_create_refuses(rig: Rig, vpc: str, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "CreateVpcEndpoint", **{"VpcId": vpc, "ServiceName": S3, **input})


async def test_a_table_has_one_route_for_a_service(rig: Rig, vpc: str, table: str) -> None:
    await new(rig, vpc, RouteTableIds=[table])
    again = {"VpcId": vpc, "ServiceName": S3, "RouteTableIds": [table]}
    await rig.fails("RouteAlreadyExists", "CreateVpcEndpoint", **again)
    await new(rig, vpc, ServiceName="com.amazonaws.us-east-1.dynamodb", RouteTableIds=[table])
    other = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    await rig.fails("InvalidParameterValue", "CreateVpcEndpoint", **{**again, "VpcId": other})


async def test_there_is_a_limit(rig: Rig, vpc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GATEWAY_ENDPOINTS_PER_VPC_MAX", 1)
    await new(rig, vpc)
    await rig.fails("VpcEndpointLimitExceeded", "CreateVpcEndpoint", VpcId=vpc, ServiceName=S3)


async def test_modify(rig: Rig, vpc: str, table: str) -> None:
    second = (await rig.call("CreateRouteTable", VpcId=vpc))["RouteTable"]["RouteTableId"]
    id = (await new(rig, vpc, RouteTableIds=[table]))["VpcEndpointId"]
    policy = '{"Statement": []}'
    for _ in range(2):  # what is there already may be asked for again
        await rig.call(
            "ModifyVpcEndpoint", VpcEndpointId=id, AddRouteTableIds=[second], PolicyDocument=policy
        )
    [shown] = (await rig.call("DescribeVpcEndpoints"))["VpcEndpoints"]
    assert (shown["RouteTableIds"], shown["PolicyDocument"]) == ([table, second], policy)
    await rig.fails("DependencyViolation", "DeleteRouteTable", RouteTableId=second)
    await rig.call("ModifyVpcEndpoint", VpcEndpointId=id, RemoveRouteTableIds=[table], ResetPolicy=True)
    [shown] = (await rig.call("DescribeVpcEndpoints"))["VpcEndpoints"]
    assert shown["RouteTableIds"] == [second]
    assert shown["PolicyDocument"] != policy
    assert await routes(rig, table) == []
    await rig.fails("InvalidVpcEndpointId.NotFound", "ModifyVpcEndpoint", VpcEndpointId=ABSENT)
    await rig.fails("UnsupportedOperation", "ModifyVpcEndpoint", VpcEndpointId=id, AddSubnetIds=["x"])
    both = {"VpcEndpointId": id, "PolicyDocument": policy, "ResetPolicy": True}
    await rig.fails("InvalidParameterCombination", "ModifyVpcEndpoint", **both)


async def test_delete(rig: Rig, vpc: str, table: str) -> None:
    id = (await new(rig, vpc, RouteTableIds=[table]))["VpcEndpointId"]
    answer = await rig.call("DeleteVpcEndpoints", VpcEndpointIds=[id, ABSENT])
    [failed] = answer["Unsuccessful"]
    assert (failed["ResourceId"], failed["Error"]["Code"]) == (ABSENT, "InvalidVpcEndpointId.NotFound")
    assert (await rig.call("DescribeVpcEndpoints"))["VpcEndpoints"] == []
    assert await routes(rig, table) == []
    await rig.fails("InvalidVpcEndpointId.NotFound", "DescribeVpcEndpoints", VpcEndpointIds=[table])


async def test_filters(rig: Rig, vpc: str) -> None:
    id = (await new(rig, vpc))["VpcEndpointId"]
    await new(rig, vpc, ServiceName="com.amazonaws.us-east-1.dynamodb")
    for name, value, found in (
        ("ip-address-type", "ipv4", 2),
        ("service-name", S3, 1),
        ("service-region", "us-east-1", 2),
        ("vpc-endpoint-id", id, 1),
        ("vpc-endpoint-state", "available", 2),
        ("vpc-endpoint-type", "Gateway", 2),
        ("vpc-id", vpc, 2),
        ("vpc-id", "vpc-00000001", 0),
    ):
        answer = await rig.call("DescribeVpcEndpoints", Filters=[{"Name": name, "Values": [value]}])
        assert len(answer["VpcEndpoints"]) == found, name


async def test_prefix_lists_of_the_system(rig: Rig) -> None:
    await rig.put(PrefixList(id="pl-00000001", account="123456789012", name="own", max_entries=1))
    shown = (await rig.call("DescribePrefixLists"))["PrefixLists"]
    assert {each["PrefixListName"] for each in shown} == {S3, "com.amazonaws.us-east-1.dynamodb"}
    [s3] = [each for each in shown if each["PrefixListName"] == S3]
    assert s3["Cidrs"] == []
    for input in (
        {"PrefixListIds": [s3["PrefixListId"]]},
        {"Filters": [{"Name": "prefix-list-name", "Values": [S3]}]},
        {"Filters": [{"Name": "prefix-list-id", "Values": [s3["PrefixListId"]]}]},
    ):
        assert (await rig.call("DescribePrefixLists", **input))["PrefixLists"] == [s3]
    await rig.fails("InvalidPrefixListID.NotFound", "DescribePrefixLists", PrefixListIds=["pl-00000009"])
    await rig.fails("InvalidPrefixListId.Malformed", "DescribePrefixLists", PrefixListIds=["x"])
