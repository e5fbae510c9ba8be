"""What is the same for many calls: wrong input, dry runs, client tokens, pages, credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from .realcloud import RealCloud, refused

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

NONE = "0123456789abcdef0"

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("describe_instances", {"InstanceIds": [f"i-{NONE}"]}, "InvalidInstanceID.NotFound"),
    ("describe_instances", {"InstanceIds": ["i-1"]}, "InvalidInstanceID.Malformed"),
    ("describe_instances", {"Filters": [{"Name": "no-such", "Values": ["1"]}]}, "InvalidParameterValue"),
    ("describe_instances", {"MaxResults": 2}, "InvalidParameterValue"),
    ("describe_instances", {"NextToken": "garbage"}, "InvalidNextToken"),
    ("start_instances", {"InstanceIds": [f"i-{NONE}"]}, "InvalidInstanceID.NotFound"),
    ("terminate_instances", {"InstanceIds": ["vol-1"]}, "InvalidInstanceID.Malformed"),
    ("get_console_output", {"InstanceId": f"i-{NONE}"}, "InvalidInstanceID.NotFound"),
    ("describe_volumes", {"VolumeIds": [f"vol-{NONE}"]}, "InvalidVolume.NotFound"),
    ("describe_volumes", {"VolumeIds": ["v"]}, "InvalidParameterValue"),
    ("delete_volume", {"VolumeId": f"vol-{NONE}"}, "InvalidVolume.NotFound"),
    ("create_volume", {"AvailabilityZone": "mars-1a", "Size": 1}, "InvalidZone.NotFound"),
    ("create_volume", {"AvailabilityZone": "us-east-1a"}, "MissingParameter"),
    ("create_volume", {"AvailabilityZone": "us-east-1a", "Size": 99999999}, "InvalidParameterValue"),
    ("create_snapshot", {"VolumeId": f"vol-{NONE}"}, "InvalidVolume.NotFound"),
    ("delete_snapshot", {"SnapshotId": f"snap-{NONE}"}, "InvalidSnapshot.NotFound"),
    ("describe_images", {"ImageIds": [f"ami-{NONE}"]}, "InvalidAMIID.NotFound"),
    ("describe_images", {"ImageIds": ["tiny"]}, "InvalidAMIID.Malformed"),
    ("describe_security_groups", {"GroupIds": [f"sg-{NONE}"]}, "InvalidGroup.NotFound"),
    ("describe_key_pairs", {"KeyNames": ["absent"]}, "InvalidKeyPair.NotFound"),
    ("create_key_pair", {"KeyName": "system-test"}, "InvalidKeyPair.Duplicate"),
    ("release_address", {"AllocationId": f"eipalloc-{NONE}"}, "InvalidAllocationID.NotFound"),
    ("disassociate_address", {"AssociationId": f"eipassoc-{NONE}"}, "InvalidAssociationID.NotFound"),
    ("create_tags", {"Resources": [f"i-{NONE}"], "Tags": [{"Key": "a", "Value": "b"}]},
     "InvalidInstanceID.NotFound"),
]  # fmt: skip

LAUNCH_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ImageId": f"ami-{NONE}"}, "InvalidAMIID.NotFound"),
    ({"ImageId": "tiny"}, "InvalidAMIID.Malformed"),
    ({"InstanceType": "t3.colossal"}, "InvalidParameterValue"),
    ({"KeyName": "absent"}, "InvalidKeyPair.NotFound"),
    ({"SecurityGroupIds": [f"sg-{NONE}"]}, "InvalidGroup.NotFound"),
    ({"SubnetId": f"subnet-{NONE}"}, "InvalidSubnetID.NotFound"),
    ({"MinCount": 0, "MaxCount": 0}, "InvalidParameterValue"),
    ({"MinCount": 3, "MaxCount": 2}, "InvalidParameterValue"),
]


@pytest.mark.parametrize(("operation", "parameters", "code"), WRONG)
def test_wrong_input(cloud: RealCloud, operation: str, parameters: dict[str, Any], code: str) -> None:
    with refused(code):
        getattr(cloud.ec2, operation)(**parameters)


@pytest.mark.parametrize(("parameters", "code"), LAUNCH_WRONG)
def test_wrong_launch_leaves_nothing(cloud: RealCloud, parameters: dict[str, Any], code: str) -> None:
    with refused(code):
        cloud.launch(**parameters)
    assert instances(cloud) == []
    assert cloud.ec2.describe_volumes()["Volumes"] == []


def instances(cloud: RealCloud) -> list[str]:
    found = cloud.ec2.describe_instances()["Reservations"]
    return [item["InstanceId"] for reservation in found for item in reservation["Instances"]]


def test_dry_run_changes_nothing(cloud: RealCloud) -> None:
    with refused("DryRunOperation"):
        cloud.launch(DryRun=True)
    with refused("DryRunOperation"):
        cloud.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1, DryRun=True)
    with refused("InvalidKeyPair.NotFound"):
        cloud.launch(DryRun=True, KeyName="absent")
    assert instances(cloud) == []
    assert cloud.ec2.describe_volumes()["Volumes"] == []


def test_wrong_credentials_are_refused(cloud: RealCloud) -> None:
    for key, secret in (
        (cloud.config.access_key_id, "x" * 40),
        ("GUABSENT", cloud.config.secret_access_key),
    ):
        client = boto3.client(
            "ec2",
            endpoint_url=cloud.config.endpoint,
            region_name=cloud.config.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )
        with refused("AuthFailure"):
            client.describe_instances()


def test_client_token_makes_one_of_many_calls(cloud: RealCloud) -> None:
    asked = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "the same"}
    made = {cloud.ec2.create_volume(**asked)["VolumeId"] for _ in range(3)}
    assert len(made) == 1
    with refused("IdempotentParameterMismatch"):
        cloud.ec2.create_volume(**{**asked, "Size": 2})
    [volume] = made
    cloud.waiter("volume_available", VolumeIds=[volume])
    assert [item["VolumeId"] for item in cloud.ec2.describe_volumes()["Volumes"]] == [volume]
    cloud.ec2.delete_volume(VolumeId=volume)
    cloud.waiter("volume_deleted", VolumeIds=[volume])


@pytest.fixture
def volumes(cloud: RealCloud) -> Iterator[list[str]]:
    zone = f"{cloud.config.region}b"
    made = [
        cloud.ec2.create_volume(
            AvailabilityZone=zone,
            Size=1,
            TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "number", "Value": str(number)}]}],
        )["VolumeId"]
        for number in range(12)
    ]
    cloud.waiter("volume_available", VolumeIds=made)
    yield made
    for volume in made:
        cloud.ec2.delete_volume(VolumeId=volume)
    cloud.waiter("volume_deleted", VolumeIds=made)
    cloud.wait_clean()


def test_pages_hold_everything_once(cloud: RealCloud, volumes: list[str]) -> None:
    paginator = cloud.ec2.get_paginator("describe_volumes")
    pages = list(paginator.paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Volumes"]) for page in pages] == [5, 5, 2]
    assert sorted(item["VolumeId"] for page in pages for item in page["Volumes"]) == sorted(volumes)
    filters = [{"Name": "tag:number", "Values": ["1?"]}]
    pages = list(paginator.paginate(Filters=filters, PaginationConfig={"PageSize": 5}))
    assert sorted(item["VolumeId"] for page in pages for item in page["Volumes"]) == sorted(volumes[10:])
