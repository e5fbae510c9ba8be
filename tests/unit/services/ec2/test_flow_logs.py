from __future__ import annotations

from typing import Any

import pytest

from gureum.resources import FlowLog, Vpc
from gureum.services.ec2.flow_logs import DEFAULT_FORMAT


async def create(rig: Any, **values: Any) -> dict[str, Any]:
    vpc = (await rig.find(Vpc))[0]
    given = {"ResourceIds": [vpc.id], "ResourceType": "VPC", "TrafficType": "ALL", **values}
    return await rig.call("CreateFlowLogs", **given)  # type: ignore[no-any-return]


async def test_a_log_is_made_for_each_resource(rig: Any) -> None:
    absent = "vpc-0123456789abcdef0"
    vpc = (await rig.find(Vpc))[0].id
    made = await create(rig, ResourceIds=[vpc, absent], MaxAggregationInterval=60)
    [id] = made["FlowLogIds"]
    [failed] = made["Unsuccessful"]
    assert (failed["ResourceId"], failed["Error"]["Code"]) == (absent, "InvalidVpcID.NotFound")
    [shown] = (await rig.call("DescribeFlowLogs", FlowLogIds=[id]))["FlowLogs"]
    assert shown["ResourceId"] == vpc
    assert shown["LogDestination"] == f"log/flow-logs/{id}.log"
    assert (shown["LogFormat"], shown["MaxAggregationInterval"]) == (DEFAULT_FORMAT, 60)


async def test_a_format_of_known_fields(rig: Any) -> None:
    await create(rig, LogFormat="${srcaddr}  ${action}", LogDestinationType="file")
    [log] = await rig.find(FlowLog)
    assert log.format == "${srcaddr} ${action}"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"LogDestinationType": "s3"}, "UnsupportedOperation"),
        ({"LogGroupName": "x"}, "UnsupportedOperation"),
        ({"ResourceType": "TransitGateway"}, "UnsupportedOperation"),
        ({"TrafficType": "NONE"}, "InvalidParameterValue"),
        ({"MaxAggregationInterval": 61}, "InvalidParameterValue"),
        ({"LogFormat": "${srcaddr} ${no-such}"}, "InvalidParameterValue"),
        ({"LogFormat": "srcaddr"}, "InvalidParameterValue"),
    ],
)
async def test_what_cannot_be_logged(rig: Any, values: dict[str, Any], code: str) -> None:
    vpc = (await rig.find(Vpc))[0]
    given = {"ResourceIds": [vpc.id], "ResourceType": "VPC", "TrafficType": "ALL", **values}
    await rig.fails(code, "CreateFlowLogs", **given)


async def test_logs_are_deleted_one_by_one(rig: Any) -> None:
    [id] = (await create(rig))["FlowLogIds"]
    gone = await rig.call("DeleteFlowLogs", FlowLogIds=[id, "fl-0123456789abcdef0"])
    [failed] = gone["Unsuccessful"]
    assert failed["Error"]["Code"] == "InvalidFlowLogId.NotFound"
    assert (await rig.call("DescribeFlowLogs"))["FlowLogs"] == []


async def test_logs_are_found_by_resource_and_traffic(rig: Any) -> None:
    [id] = (await create(rig))["FlowLogIds"]
    vpc = (await rig.find(Vpc))[0]
    for name, value in (("resource-id", vpc.id), ("traffic-type", "ALL"), ("flow-log-id", id)):
        found = await rig.call("DescribeFlowLogs", Filter=[{"Name": name, "Values": [value]}])
        assert [each["FlowLogId"] for each in found["FlowLogs"]] == [id]
