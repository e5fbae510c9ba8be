"""Flow logs: what passed interfaces and what was refused, as lines of files on the hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.resources import FlowLog
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.faults import invalid_parameter_value, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

FILE = "file"
"""The destination that gureum has instead of Amazon's: a file STATE/log/flow-logs/ID.log on each host."""
TRAFFIC = ("ACCEPT", "REJECT", "ALL")
INTERVALS = (60, 600)
INTERVAL_DEFAULT = 600
DEFAULT_FORMAT = (
    "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} "
    "${packets} ${bytes} ${start} ${end} ${action} ${log-status}"
)
FIELDS = frozenset(
    (
        "version", "account-id", "interface-id", "srcaddr", "dstaddr", "srcport", "dstport", "protocol",
        "packets", "bytes", "start", "end", "action", "log-status", "vpc-id", "subnet-id", "instance-id",
        "type", "pkt-srcaddr", "pkt-dstaddr", "region", "az-id", "flow-direction", "tcp-flags",
    )
)  # fmt: skip
"""VPC User Guide, "Available fields"; those that need what gureum does not have are left out."""
_FORMAT = re.compile(r"\$\{([a-z0-9-]+)\}")
_NOUNS: dict[str, lookup.Noun[Any]] = {
    "VPC": lookup.VPC,
    "Subnet": lookup.SUBNET,
    "NetworkInterface": lookup.INTERFACE,
}


@operation("ec2", "CreateFlowLogs", write=True)
async def create_flow_logs(ctx: Context, input: Input) -> Output:
    _check_destination(input)
    noun = _NOUNS.get(input["ResourceType"])
    if noun is None:
        raise unsupported(
            f"Flow logs of a {input['ResourceType']} are not supported by gureum. "
            f"Expected: {', '.join(_NOUNS)}."
        )
    traffic = input.get("TrafficType")
    if not traffic:
        raise missing("TrafficType")
    if traffic not in TRAFFIC:
        raise invalid_parameter_value(traffic, "trafficType", f"Expected: {', '.join(TRAFFIC)}.")
    interval = input.get("MaxAggregationInterval") or INTERVAL_DEFAULT
    if interval not in INTERVALS:
        raise invalid_parameter_value(interval, "maxAggregationInterval", "Expected: 60, 600.")
    text = _checked_format(input.get("LogFormat") or DEFAULT_FORMAT)
    tags = specified_tags(input, "vpc-flow-log")["vpc-flow-log"]
    made: list[str] = []
    failed: list[dict[str, Any]] = []
    for resource in dict.fromkeys(input["ResourceIds"]):
        try:
            await lookup.one(ctx, noun, resource)
            await _check_room(ctx, resource)
        except ApiError as error:
            failed.append(_unsuccessful(resource, error))
            continue
        log = FlowLog(
            id=ctx.env.new_id("fl"),
            account=ctx.caller.account,
            tags=tags,
            resource=resource,
            traffic=traffic,
            interval_seconds=interval,
            format=text,
            created=ctx.env.utcnow(),
        )
        made.append((await ctx.tx.put(log)).id)
    return {"ClientToken": input.get("ClientToken"), "FlowLogIds": made, "Unsuccessful": failed}


def _check_destination(input: Input) -> None:
    type = input.get("LogDestinationType") or FILE
    if type != FILE:
        raise unsupported(
            f"Flow logs to {type} are not supported by gureum yet: leave LogDestinationType out, or say "
            f"'{FILE}'; they are then written to log/flow-logs/ in each host's state directory."
        )
    for member in ("LogGroupName", "LogDestination", "DeliverLogsPermissionArn", "DeliverCrossAccountRole"):
        if input.get(member):
            raise unsupported(f"{member} belongs to a destination that gureum does not have yet.")
    for member in ("DestinationOptions", "TagFieldSpecifications"):
        if input.get(member):
            raise unsupported(f"{member} is not supported by gureum.")


def _checked_format(text: str) -> str:
    names = _FORMAT.findall(text)
    rest = _FORMAT.sub("", text).strip()
    if rest or not names:
        raise invalid_parameter_value(text, "logFormat", "Expected: ${field}, separated by spaces.")
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise invalid_parameter_value(text, "logFormat", f"Unknown fields: {', '.join(unknown)}.")
    return " ".join(f"${{{name}}}" for name in names)


async def _check_room(ctx: Context, resource: str) -> None:
    if await ctx.tx.count(FlowLog, resource=resource) >= limits.FLOW_LOGS_PER_RESOURCE_MAX:
        raise ApiError(
            "FlowLogsLimitExceeded",
            f"{resource} has {limits.FLOW_LOGS_PER_RESOURCE_MAX} flow logs, the most that there may be.",
        )


def _unsuccessful(resource: str, error: ApiError) -> dict[str, Any]:
    return {"ResourceId": resource, "Error": {"Code": error.code, "Message": str(error.message)}}


@operation("ec2", "DeleteFlowLogs", write=True)
async def delete_flow_logs(ctx: Context, input: Input) -> Output:
    """What was written stays."""
    failed: list[dict[str, Any]] = []
    for id in dict.fromkeys(input["FlowLogIds"]):
        try:
            log = await lookup.one(ctx, lookup.FLOW_LOG, id)
            await ctx.tx.delete(log)
        except ApiError as error:
            failed.append(_unsuccessful(id, error))
    return {"Unsuccessful": failed}


async def _items(ctx: Context, logs: Sequence[FlowLog]) -> list[dict[str, Any]]:
    return [
        {
            "FlowLogId": log.id,
            "ResourceId": log.resource,
            "TrafficType": log.traffic,
            "CreationTime": log.created,
            "FlowLogStatus": "ACTIVE",
            "DeliverLogsStatus": "SUCCESS",
            "LogDestination": f"log/flow-logs/{log.id}.log",
            "LogFormat": log.format,
            "MaxAggregationInterval": log.interval_seconds,
            "Tags": tag_list(log.tags) or [],
        }
        for log in logs
    ]


FLOW_LOGS = Listing(
    operation="DescribeFlowLogs",
    noun=lookup.FLOW_LOG,
    ids="FlowLogIds",
    items="FlowLogs",
    filters=Filters(
        {
            "deliver-log-status": "DeliverLogsStatus",
            "flow-log-id": "id",
            "log-destination-type": lambda log: (FILE,),
            "log-group-name": lambda log: (),
            "traffic-type": "traffic",
        },
        index={"resource-id": "resource"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeFlowLogs")
async def describe_flow_logs(ctx: Context, input: Input) -> Output:
    # This one operation calls its list of filters Filter.
    return await FLOW_LOGS.answer(ctx, {**input, "Filters": input.get("Filter")})
