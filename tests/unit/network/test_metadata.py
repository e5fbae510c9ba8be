from __future__ import annotations

import json

import msgspec
import pytest

from gureum.hostspec import Metadata, MetadataInterface
from gureum.network.metadata import VERSIONS, render, zone_id

MAC = "06:00:00:00:00:05"
INTERFACE = MetadataInterface(
    id="eni-1",
    mac=MAC,
    private_ip="172.31.0.5",
    private_dns="ip-172-31-0-5.ec2.internal",
    public_ip="198.18.0.5",
    public_dns="ec2-198-18-0-5.compute-1.amazonaws.com",
    subnet="subnet-1",
    subnet_cidr="172.31.0.0/20",
    vpc="vpc-1",
    vpc_cidr="172.31.0.0/16",
    group_ids=("sg-1", "sg-2"),
    group_names=("default", "web"),
    owner="123456789012",
)
SECOND_MAC = "06:00:00:00:00:06"
SECOND = MetadataInterface(
    id="eni-2",
    mac=SECOND_MAC,
    device_index=1,
    private_ip="10.0.16.5",
    private_dns="ip-10-0-16-5.ec2.internal",
    secondary=(("10.0.16.6", "198.18.0.6"), ("10.0.16.7", ""), ("10.0.16.8", "198.18.0.8")),
    ipv6=("fd00:1:0:1::5", "fd00:1:0:1::6"),
    subnet="subnet-2",
    subnet_cidr="10.0.16.0/20",
    subnet_cidr6="fd00:1:0:1::/64",
    vpc="vpc-1",
    vpc_cidr="172.31.0.0/16",
    vpc_cidrs=("172.31.0.0/16", "10.0.0.0/16", "fd00:1::/56"),
    group_ids=("sg-3",),
    group_names=("back",),
    owner="123456789012",
)
METADATA = Metadata(
    instance="i-1",
    image="ami-1",
    type="t3.nano",
    account="123456789012",
    region="us-east-1",
    zone="us-east-1b",
    reservation="r-1",
    launch_index=2,
    launched="2026-01-02T03:04:05Z",
    key_name="my key",
    public_key="ssh-ed25519 AAAA my key",
    user_data=b"#!/bin/sh\n\xff",
    interfaces=(INTERFACE,),
    block_devices={"ami": "/dev/xvda", "root": "/dev/xvda"},
    tags={"Name": "web 1"},
)
TWO = msgspec.structs.replace(METADATA, interfaces=(SECOND, INTERFACE))
BARE = Metadata(
    instance="i-2",
    image="ami-1",
    type="t3.nano",
    account="1",
    region="us-east-1",
    zone="us-east-1a",
    reservation="r",
)


def text(path: str, metadata: Metadata = METADATA) -> str | None:
    body = render(metadata, path)
    return None if body is None else body.decode()


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("ami-id", "ami-1"),
        ("ami-launch-index", "2"),
        ("ami-manifest-path", "(unknown)"),
        ("block-device-mapping", "ami\nroot"),
        ("block-device-mapping/root", "/dev/xvda"),
        ("hostname", "ip-172-31-0-5.ec2.internal"),
        ("instance-action", "none"),
        ("instance-id", "i-1"),
        ("instance-life-cycle", "on-demand"),
        ("instance-type", "t3.nano"),
        ("local-hostname", "ip-172-31-0-5.ec2.internal"),
        ("local-ipv4", "172.31.0.5"),
        ("mac", MAC),
        ("network/", "interfaces/"),
        ("network/interfaces/macs", f"{MAC}/"),
        (f"network/interfaces/macs/{MAC}/device-number", "0"),
        (f"network/interfaces/macs/{MAC}/security-group-ids", "sg-1\nsg-2"),
        (f"network/interfaces/macs/{MAC}/ipv4-associations/", "198.18.0.5"),
        (f"network/interfaces/macs/{MAC}/ipv4-associations/198.18.0.5", "172.31.0.5"),
        (f"network/interfaces/macs/{MAC}/subnet-ipv4-cidr-block", "172.31.0.0/20"),
        ("placement/", "availability-zone\navailability-zone-id\nregion"),
        ("placement/availability-zone-id", "use1-az2"),
        ("public-hostname", "ec2-198-18-0-5.compute-1.amazonaws.com"),
        ("public-ipv4", "198.18.0.5"),
        ("public-keys/", "0=my key"),
        ("public-keys/0", "openssh-key"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA my key"),
        ("reservation-id", "r-1"),
        ("security-groups", "default\nweb"),
        ("services/partition", "aws"),
        ("services/domain", "amazonaws.com"),
        ("tags/instance/", "Name"),
        ("tags/instance/Name", "web 1"),
    ],
)
def test_categories(path: str, wanted: str) -> None:
    assert text(f"/latest/meta-data/{path}") == wanted
    assert text(f"/2021-03-23/meta-data/{path}") == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("device-number", "1"),
        ("interface-id", "eni-2"),
        ("ipv4-associations/", "198.18.0.6\n198.18.0.8"),
        ("ipv4-associations/198.18.0.8", "10.0.16.8"),
        ("ipv6s", "fd00:1:0:1::5\nfd00:1:0:1::6"),
        ("local-hostname", "ip-10-0-16-5.ec2.internal"),
        ("local-ipv4s", "10.0.16.5\n10.0.16.6\n10.0.16.7\n10.0.16.8"),
        ("mac", SECOND_MAC),
        ("owner-id", "123456789012"),
        ("public-ipv4s", "198.18.0.6\n198.18.0.8"),
        ("security-group-ids", "sg-3"),
        ("security-groups", "back"),
        ("subnet-id", "subnet-2"),
        ("subnet-ipv4-cidr-block", "10.0.16.0/20"),
        ("subnet-ipv6-cidr-blocks", "fd00:1:0:1::/64"),
        ("vpc-id", "vpc-1"),
        ("vpc-ipv4-cidr-block", "172.31.0.0/16"),
        ("vpc-ipv4-cidr-blocks", "172.31.0.0/16\n10.0.0.0/16"),
        ("vpc-ipv6-cidr-blocks", "fd00:1::/56"),
    ],
)
def test_second_interface(name: str, wanted: str) -> None:
    assert text(f"/latest/meta-data/network/interfaces/macs/{SECOND_MAC}/{name}", TWO) == wanted


def test_the_first_interface_is_the_instances() -> None:
    assert text("/latest/meta-data/mac", TWO) == MAC
    assert text("/latest/meta-data/ipv6", TWO) is None
    macs = "/latest/meta-data/network/interfaces/macs/"
    assert set((text(macs, TWO) or "").splitlines()) == {f"{MAC}/", f"{SECOND_MAC}/"}
    for absent in ("ipv6s", "subnet-ipv6-cidr-blocks", "vpc-ipv6-cidr-blocks"):
        assert text(f"{macs}{MAC}/{absent}", TWO) is None
    first = msgspec.structs.replace(INTERFACE, ipv6=("fd00:1::5", "fd00:1::6"))
    assert text("/latest/meta-data/ipv6", msgspec.structs.replace(TWO, interfaces=(first,))) == "fd00:1::5"


@pytest.mark.parametrize(
    "path",
    [
        "/nonsense",
        "/latest/nonsense",
        "/latest/meta-data/nonsense",
        "/latest/meta-data/ami-id/",
        "/latest/meta-data/ami-id/x",
        "/latest/meta-data/network/interfaces/macs/06:00:00:00:00:06/mac",
        "/latest/meta-data/public-keys/0=my key",
        "/latest/api/token",
        "/latest/../latest/meta-data",
        "latest",
        "",
    ],
)
def test_not_found(path: str) -> None:
    assert text(path) is None


def test_every_directory_leads_to_leaves() -> None:
    """Walk as cloud-init does: what is listed is there."""

    def walk(path: str) -> int:
        listing = text(path)
        assert listing is not None, path
        count = 0
        for name in listing.splitlines():
            if name.endswith("/"):
                count += walk(path + name)
            elif "=" in name:
                assert text(f"{path}{name.partition('=')[0]}/openssh-key")
                count += 1
            else:
                assert text(path + name) is not None, path + name
                count += 1
        return count

    assert walk("/latest/meta-data/") > 40


def test_versions_and_top() -> None:
    assert text("/") == "\n".join(VERSIONS)
    assert {"1.0", "2009-04-04", "2021-03-23", "latest"} <= set(VERSIONS)
    assert text("/latest") == text("/latest/") == "dynamic/\nmeta-data/\nuser-data"


def test_user_data_is_bytes_and_absent_when_empty() -> None:
    assert render(METADATA, "/latest/user-data") == b"#!/bin/sh\n\xff"
    assert render(BARE, "/latest/user-data") is None


def test_an_instance_with_little() -> None:
    for path in ("public-keys/", "tags/", "public-ipv4", "public-hostname"):
        assert text(f"/latest/meta-data/{path}", BARE) is None
    assert text("/latest/meta-data/instance-id", BARE) == "i-2"


def test_identity_document() -> None:
    document = json.loads(text("/latest/dynamic/instance-identity/document") or "")
    assert document["instanceId"] == "i-1"
    assert document["privateIp"] == "172.31.0.5"
    assert document["pendingTime"] == "2026-01-02T03:04:05Z"
    assert (document["region"], document["availabilityZone"]) == ("us-east-1", "us-east-1b")


@pytest.mark.parametrize(
    ("region", "zone", "wanted"),
    [
        ("us-east-1", "us-east-1a", "use1-az1"),
        ("ap-northeast-2", "ap-northeast-2c", "apne2-az3"),
        ("eu-central-1", "eu-central-1b", "euc1-az2"),
        ("us-gov-west-1", "us-gov-west-1a", "usgw1-az1"),
        ("local", "local-a", ""),
        ("us-east-1", "elsewhere", ""),
    ],
)
def test_zone_ids(region: str, zone: str, wanted: str) -> None:
    assert zone_id(region, zone) == wanted


def test_the_placement_group_is_told() -> None:
    placed = msgspec.structs.replace(METADATA, group="near", partition=2)
    assert text("/latest/meta-data/placement/group-name", placed) == "near"
    assert text("/latest/meta-data/placement/partition-number", placed) == "2"
    assert text("/latest/meta-data/placement/group-name") is None
