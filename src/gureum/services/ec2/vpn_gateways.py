"""Virtual private gateways: there are none here, so there is nothing to describe."""

from __future__ import annotations

from gureum.errors import ApiError
from gureum.services.ec2.filters import Filters, Source
from gureum.services.operation import Context, Input, Output, operation

_NAMES = (
    "amazon-side-asn",
    "attachment.state",
    "attachment.vpc-id",
    "availability-zone",
    "state",
    "type",
    "vpn-gateway-id",
)
_nothing: Source = lambda gateway: ()  # noqa: E731
_FILTERS = Filters(dict.fromkeys(_NAMES, _nothing))


@operation("ec2", "DescribeVpnGateways")
async def describe_vpn_gateways(ctx: Context, input: Input) -> Output:
    _FILTERS.parse(input.get("Filters"))
    if ids := input.get("VpnGatewayIds"):
        raise ApiError("InvalidVpnGatewayID.NotFound", f"The vpnGateway ID '{', '.join(ids)}' does not exist")
    return {"VpnGateways": []}
