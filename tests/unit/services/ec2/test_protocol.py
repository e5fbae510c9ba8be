"""All EC2 operations: each one is registered, and marked as one that writes or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gureum
from gureum.services.operation import OPERATIONS

PROMISED = {
    "AllocateAddress",
    "AssociateAddress",
    "AttachVolume",
    "AuthorizeSecurityGroupEgress",
    "AuthorizeSecurityGroupIngress",
    "CreateKeyPair",
    "CreateSecurityGroup",
    "CreateSnapshot",
    "CreateTags",
    "CreateVolume",
    "DeleteKeyPair",
    "DeleteSecurityGroup",
    "DeleteSnapshot",
    "DeleteTags",
    "DeleteVolume",
    "DescribeAccountAttributes",
    "DescribeAddresses",
    "DescribeAddressesAttribute",
    "DescribeAvailabilityZones",
    "DescribeImages",
    "DescribeInstanceAttribute",
    "DescribeInstanceCreditSpecifications",
    "DescribeInstanceStatus",
    "DescribeInstanceTypeOfferings",
    "DescribeInstanceTypes",
    "DescribeInstances",
    "DescribeKeyPairs",
    "DescribeNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
    "DescribeRegions",
    "DescribeSecurityGroupRules",
    "DescribeSecurityGroups",
    "DescribeSnapshots",
    "DescribeSubnets",
    "DescribeTags",
    "DescribeVolumeAttribute",
    "DescribeVolumeStatus",
    "DescribeVolumes",
    "DescribeVolumesModifications",
    "DescribeVpcAttribute",
    "DescribeVpcs",
    "DetachVolume",
    "DisassociateAddress",
    "GetConsoleOutput",
    "ImportKeyPair",
    "ModifyInstanceAttribute",
    "ModifyInstanceCreditSpecification",
    "ModifyInstanceMetadataOptions",
    "ModifySecurityGroupRules",
    "ModifyVolume",
    "RebootInstances",
    "ReleaseAddress",
    "RevokeSecurityGroupEgress",
    "RevokeSecurityGroupIngress",
    "RunInstances",
    "StartInstances",
    "StopInstances",
    "TerminateInstances",
    "UpdateSecurityGroupRuleDescriptionsEgress",
    "UpdateSecurityGroupRuleDescriptionsIngress",
}
READING = ("Check", "Describe", "Explain", "Get", "List", "Test", "Trace")
TO_HOSTS = ("PutSnapshotBlock", "RepairPool")
"""What changes data on a host, and nothing in the store."""


def test_registered() -> None:
    assert {name for service, name in OPERATIONS if service == "ec2"} >= PROMISED
    assert ("sts", "GetCallerIdentity") in OPERATIONS


def test_what_writes_is_marked() -> None:
    for (_, name), operation in OPERATIONS.items():
        assert operation.write is not name.startswith((*READING, *TO_HOSTS)), name


def test_start_is_light() -> None:
    """What only some calls need is not imported with the services."""
    package = Path(gureum.__file__).parent.parent
    code = (
        f"import sys; sys.path.insert(0, {str(package)!r});"
        "import gureum.services.ec2, gureum.services.sts;"
        "heavy = {'botocore', 'cryptography', 'lxml', 'uvicorn'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
