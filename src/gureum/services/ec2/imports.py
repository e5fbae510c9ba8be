"""ImportImage and ImportSnapshot, and their tasks, of which there are none.

What EC2 imports is in S3, which gureum does not have yet. Fetching a URL of the client's choice instead would
let it reach what the manager reaches, and read the machine's files: that is not done.
"""

from __future__ import annotations

from collections.abc import Sequence

from gureum.errors import ApiError
from gureum.services.ec2 import pagination
from gureum.services.ec2.faults import unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.operation import Context, Input, Output, operation

_FILTERS = Filters({"task-state": "state"})
_NO_S3 = "Importing is from S3, which this cloud does not have yet, and gureum fetches no other URL."
_BLOCKS = "the EBS direct APIs take a disk in blocks (StartSnapshot, PutSnapshotBlock, CompleteSnapshot)"


@operation("ec2", "ImportImage", write=True)
async def import_image(ctx: Context, input: Input) -> Output:
    raise unsupported(f"{_NO_S3} What works: {_BLOCKS}, and RegisterImage makes an image of it.")


@operation("ec2", "ImportSnapshot", write=True)
async def import_snapshot(ctx: Context, input: Input) -> Output:
    raise unsupported(f"{_NO_S3} What works: {_BLOCKS}.")


@operation("ec2", "DescribeImportImageTasks")
async def describe_import_image_tasks(ctx: Context, input: Input) -> Output:
    _check(input, "DescribeImportImageTasks", "import-ami")
    return {"ImportImageTasks": []}


@operation("ec2", "DescribeImportSnapshotTasks")
async def describe_import_snapshot_tasks(ctx: Context, input: Input) -> Output:
    _check(input, "DescribeImportSnapshotTasks", "import-snap")
    return {"ImportSnapshotTasks": []}


def _check(input: Input, operation: str, prefix: str) -> None:
    """Raises for what no list of tasks can be asked with, and for the ids of tasks."""
    pagination.page(input, operation, ids="ImportTaskIds", low=1)
    _FILTERS.parse(input.get("Filters"))
    ids: Sequence[str] = input.get("ImportTaskIds") or ()
    for id in ids:
        if not id.startswith(f"{prefix}-"):
            raise ApiError("InvalidConversionTaskId.Malformed", f"The import task id '{id}' is malformed")
    if ids:
        raise ApiError("InvalidConversionTaskId", f"The import task id '{ids[0]}' does not exist")
