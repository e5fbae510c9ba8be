from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Snapshot, Volume, VolumeKey

if TYPE_CHECKING:
    from ..conftest import Rig

ARN = "arn:aws:kms:us-east-1:123456789012:alias/aws/ebs"
BASE = {"AvailabilityZone": "us-east-1a"}


async def test_by_default(rig: Rig) -> None:
    assert await rig.call("GetEbsEncryptionByDefault") == {
        "EbsEncryptionByDefault": False,
        "SseType": "none",
    }
    assert await rig.call("EnableEbsEncryptionByDefault") == {"EbsEncryptionByDefault": True}
    assert (await rig.call("GetEbsEncryptionByDefault"))["EbsEncryptionByDefault"]
    assert (await rig.call("CreateVolume", **BASE, Size=1))["Encrypted"]
    assert (await rig.call("CreateVolume", **BASE, Size=1, Encrypted=False))["Encrypted"]
    assert await rig.call("DisableEbsEncryptionByDefault") == {"EbsEncryptionByDefault": False}
    assert not (await rig.call("CreateVolume", **BASE, Size=1))["Encrypted"]
    assert await rig.call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": ARN}


async def test_each_volume_has_a_key_of_its_own(rig: Rig) -> None:
    one = await rig.get(Volume, (await rig.call("CreateVolume", **BASE, Size=1, Encrypted=True))["VolumeId"])
    other = await rig.get(Volume, await rig.volume(Encrypted=True, KmsKeyId="alias/aws/ebs"))
    keys = {each.id: each for each in await rig.find(VolumeKey)}
    assert set(keys) == {one.key, other.key}
    assert len({rig.keys.unwrap(key) for key in keys.values()}) == 2


async def test_what_is_made_of_it_shares_the_key(rig: Rig) -> None:
    volume = await rig.volume(Encrypted=True, KmsKeyId=ARN)
    key = (await rig.get(Volume, volume)).key
    snapshot = await rig.snapshot(volume)
    [shown] = (await rig.call("DescribeSnapshots", SnapshotIds=[snapshot]))["Snapshots"]
    assert (shown["Encrypted"], shown["KmsKeyId"]) == (True, ARN)
    clone = await rig.call("CreateVolume", **BASE, SnapshotId=snapshot)
    assert (clone["Encrypted"], clone["KmsKeyId"]) == (True, ARN)
    answer = await rig.call("CopySnapshot", SourceSnapshotId=snapshot, SourceRegion="us-east-1")
    copy = await rig.get(Snapshot, answer["SnapshotId"])
    staged = await rig.get(Volume, copy.staging)
    assert {(await rig.get(Volume, clone["VolumeId"])).key, copy.key, staged.key} == {key}
    assert len(await rig.find(VolumeKey)) == 1
    [volume_shown] = (await rig.call("DescribeVolumes", VolumeIds=[volume]))["Volumes"]
    assert (volume_shown["Encrypted"], volume_shown["KmsKeyId"]) == (True, ARN)
    filters = [{"Name": "encrypted", "Values": ["true"]}]
    assert len((await rig.call("DescribeVolumes", Filters=filters))["Volumes"]) == 2


async def test_of_an_instance(rig: Rig) -> None:
    extra = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "Encrypted": True}}]
    await rig.launch(BlockDeviceMappings=extra, MinCount=2, MaxCount=2)
    encrypted = [each for each in await rig.find(Volume) if each.encrypted]
    assert len({each.key for each in encrypted}) == 2


async def test_refuses(rig: Rig) -> None:
    wrong = {**BASE, "Size": 1, "Encrypted": True, "KmsKeyId": "k"}
    message = await rig.fails("InvalidParameterValue", "CreateVolume", **wrong)
    assert "alias/aws/ebs" in message
    for unset in ({}, {"Encrypted": False}):
        await rig.fails("InvalidParameterDependency", "CreateVolume", **BASE, Size=1, KmsKeyId=ARN, **unset)
    encrypted = await rig.snapshot(await rig.volume(Encrypted=True))
    await rig.fails(
        "InvalidParameterCombination", "CreateVolume", **BASE, SnapshotId=encrypted, Encrypted=False
    )


async def test_what_is_not_encrypted_is_copied(rig: Rig) -> None:
    plain = await rig.snapshot(await rig.volume())
    clone = await rig.call("CreateVolume", **BASE, SnapshotId=plain, Encrypted=True)
    volume = await rig.get(Volume, clone["VolumeId"])
    assert (volume.encrypted, volume.encrypts, volume.source) == (True, True, plain)
    answer = await rig.call("CopySnapshot", SourceSnapshotId=plain, SourceRegion="us-east-1", Encrypted=True)
    copy = await rig.get(Snapshot, answer["SnapshotId"])
    staged = await rig.get(Volume, copy.staging)
    assert copy.encrypted
    assert (staged.encrypts, staged.key) == (True, copy.key)
    assert copy.key != volume.key
    await rig.call("EnableEbsEncryptionByDefault")
    instance = (await rig.launch())["InstanceId"]
    [root] = await rig.find(Volume, instances=instance)
    assert (root.encrypted, root.encrypts, root.source) == (True, True, "ami-00000000000000001")
