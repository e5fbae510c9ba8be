from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_there_are_none(rig: Rig) -> None:
    filters = [
        {"Name": "attachment.vpc-id", "Values": ["vpc-00000001"]},
        {"Name": "tag:Name", "Values": ["*"]},
    ]
    assert await rig.call("DescribeVpnGateways", Filters=filters) == {"VpnGateways": []}
    await rig.fails("InvalidParameterValue", "DescribeVpnGateways", Filters=[{"Name": "x", "Values": ["y"]}])
    await rig.fails("InvalidVpnGatewayID.NotFound", "DescribeVpnGateways", VpnGatewayIds=["vgw-00000001"])
