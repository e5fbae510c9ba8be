from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import DhcpOptions, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ABSENT = "dopt-00000001"
DOMAIN = {"Key": "domain-name", "Values": ["example.com"]}
SERVERS = {"Key": "domain-name-servers", "Values": ["10.0.0.6", "AmazonProvidedDNS"]}


async def new(rig: Rig, *options: dict[str, Any], **input: Any) -> dict[str, Any]:
    answer = await rig.call("CreateDhcpOptions", DhcpConfigurations=list(options or (DOMAIN,)), **input)
    shown: dict[str, Any] = answer["DhcpOptions"]
    return shown


async def test_create(rig: Rig) -> None:
    tags = [{"ResourceType": "dhcp-options", "Tags": [{"Key": "a", "Value": "b"}]}]
    others = [
        {"Key": "ntp-servers", "Values": ["10.0.0.7"]},
        {"Key": "netbios-name-servers", "Values": ["10.0.0.8"]},
        {"Key": "netbios-node-type", "Values": ["2"]},
    ]
    shown = await new(rig, DOMAIN, SERVERS, *others, TagSpecifications=tags)
    assert shown == {
        "DhcpOptionsId": shown["DhcpOptionsId"],
        "OwnerId": "123456789012",
        "DhcpConfigurations": [
            {"Key": "domain-name", "Values": [{"Value": "example.com"}]},
            {
                "Key": "domain-name-servers",
                "Values": [{"Value": "10.0.0.6"}, {"Value": "AmazonProvidedDNS"}],
            },
            {"Key": "ntp-servers", "Values": [{"Value": "10.0.0.7"}]},
            {"Key": "netbios-name-servers", "Values": [{"Value": "10.0.0.8"}]},
            {"Key": "netbios-node-type", "Values": [{"Value": "2"}]},
        ],
        "Tags": [{"Key": "a", "Value": "b"}],
    }
    answer = await rig.call("DescribeDhcpOptions", DhcpOptionsIds=[shown["DhcpOptionsId"]])
    assert answer["DhcpOptions"] == [shown]


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("MissingParameter", []),
        ("InvalidParameterValue", [{"Key": "invalid-key", "Values": ["x"]}]),
        ("InvalidParameterValue", [{"Key": "domain-name"}]),
        ("InvalidParameterValue", [{"Key": "domain-name", "Values": ["a.com", "b.com"]}]),
        ("InvalidParameterValue", [{"Key": "domain-name", "Values": ["a\nserver=1.2.3.4"]}]),
        ("InvalidParameterValue", [{"Key": "domain-name", "Values": ["-a.com"]}]),
        ("InvalidParameterValue", [{"Key": "domain-name", "Values": ["a." * 127 + "com"]}]),
        ("InvalidParameterValue", [{"Key": "netbios-node-type", "Values": ["0"]}]),
        ("InvalidParameterValue", [{"Key": "domain-name-servers", "Values": ["10.0.0.6"] * 5}]),
        ("InvalidParameterValue", [{"Key": "domain-name-servers", "Values": ["x"]}]),
        ("InvalidParameterValue", [{"Key": "ntp-servers", "Values": ["AmazonProvidedDNS"]}]),
        ("InvalidParameterValue", [DOMAIN, DOMAIN]),
        ("UnsupportedOperation", [{"Key": "ntp-servers", "Values": ["fd00::1"]}]),
        ("UnsupportedOperation", [{"Key": "ipv6-address-preferred-lease-time", "Values": ["140"]}]),
    ],
)
async def test_create_refuses(rig: Rig, code: str, options: list[dict[str, Any]]) -> None:
    await rig.fails(code, "CreateDhcpOptions", DhcpConfigurations=options)


async def test_associate(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    id = (await new(rig))["DhcpOptionsId"]
    await rig.call("AssociateDhcpOptions", DhcpOptionsId=id, VpcId=vpc.id)
    assert (await rig.get(Vpc, vpc.id)).dhcp_options == id
    message = await rig.fails("DependencyViolation", "DeleteDhcpOptions", DhcpOptionsId=id)
    assert message == f"The dhcpOptions '{id}' has dependencies and cannot be deleted."
    await rig.call("AssociateDhcpOptions", DhcpOptionsId="default", VpcId=vpc.id)
    [shown] = (await rig.call("DescribeVpcs"))["Vpcs"]
    assert shown["DhcpOptionsId"] == "default"
    await rig.call("DeleteDhcpOptions", DhcpOptionsId=id)
    await rig.fails("InvalidDhcpOptionID.NotFound", "DeleteDhcpOptions", DhcpOptionsId=id)
    [own] = await rig.find(DhcpOptions)
    await rig.fails("InvalidVpcID.NotFound", "AssociateDhcpOptions", DhcpOptionsId=own.id, VpcId="vpc-1")
    await rig.fails(
        "InvalidDhcpOptionID.NotFound", "AssociateDhcpOptions", DhcpOptionsId=ABSENT, VpcId=vpc.id
    )


async def test_ids(rig: Rig) -> None:
    await rig.fails("InvalidDhcpOptionsId.Malformed", "DeleteDhcpOptions", DhcpOptionsId="foo-abcd1234")
    await rig.fails("InvalidDhcpOptionID.NotFound", "DescribeDhcpOptions", DhcpOptionsIds=[ABSENT])


async def test_a_deleted_default_set_is_made_anew(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    await rig.call("AssociateDhcpOptions", DhcpOptionsId="default", VpcId=vpc.id)
    await rig.call("DeleteDhcpOptions", DhcpOptionsId=vpc.dhcp_options)
    made = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["DhcpOptionsId"]
    assert (await rig.get(DhcpOptions, made)).options["domain-name-servers"] == ("AmazonProvidedDNS",)


async def test_there_is_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DHCP_OPTIONS_MAX", 1)
    await rig.fails("DhcpOptionsLimitExceeded", "CreateDhcpOptions", DhcpConfigurations=[DOMAIN])


async def test_filters(rig: Rig) -> None:
    id = (await new(rig, DOMAIN, {"Key": "ntp-servers", "Values": ["10.0.0.7"]}))["DhcpOptionsId"]
    for name, value in (
        ("dhcp-options-id", id),
        ("key", "ntp-servers"),
        ("value", "example.com"),
        ("value", "10.0.*.7"),
    ):
        answer = await rig.call("DescribeDhcpOptions", Filters=[{"Name": name, "Values": [value]}])
        assert [each["DhcpOptionsId"] for each in answer["DhcpOptions"]] == [id], name
    answer = await rig.call("DescribeDhcpOptions", Filters=[{"Name": "owner-id", "Values": ["123456789012"]}])
    assert len(answer["DhcpOptions"]) == 2
