from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_nothing_is_fetched(rig: Rig) -> None:
    for url in ("file:///etc/shadow", "http://169.254.169.254/", "s3://bucket/disk.raw"):
        container = {"Url": url, "Format": "raw"}
        message = await rig.fails("UnsupportedOperation", "ImportSnapshot", DiskContainer=container)
        assert "StartSnapshot" in message
        message = await rig.fails("UnsupportedOperation", "ImportImage", DiskContainers=[container])
        assert "StartSnapshot" in message


async def test_there_are_no_tasks(rig: Rig) -> None:
    assert await rig.call("DescribeImportImageTasks") == {"ImportImageTasks": []}
    assert await rig.call("DescribeImportSnapshotTasks", MaxResults=1) == {"ImportSnapshotTasks": []}
    for kind, prefix in (("Image", "ami"), ("Snapshot", "snap")):
        operation = f"DescribeImport{kind}Tasks"
        await rig.fails("InvalidConversionTaskId.Malformed", operation, ImportTaskIds=["x"])
        await rig.fails("InvalidConversionTaskId", operation, ImportTaskIds=[f"import-{prefix}-0123"])
        await rig.fails("InvalidParameterValue", operation, Filters=[{"Name": "x", "Values": ["y"]}])
