"""DescribeAccountAttributes."""

from __future__ import annotations

from gureum.services.ec2 import limits
from gureum.services.ec2.defaults import default_vpc
from gureum.services.ec2.faults import invalid_value
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "DescribeAccountAttributes")
async def describe_account_attributes(ctx: Context, input: Input) -> Output:
    vpc = await default_vpc(ctx.tx, ctx.caller.account)
    values = {
        "supported-platforms": "VPC",
        "default-vpc": vpc.id if vpc is not None else "none",
        "max-instances": str(limits.INSTANCES_MAX),
        "vpc-max-security-groups-per-interface": str(limits.GROUPS_PER_INTERFACE_MAX),
        "max-elastic-ips": str(limits.ADDRESSES_MAX),
        "vpc-max-elastic-ips": str(limits.ADDRESSES_MAX),
    }
    names = input.get("AttributeNames") or list(values)
    for name in names:
        if name not in values:
            raise invalid_value(f"Invalid attribute: {name}")
    return {
        "AccountAttributes": [
            {"AttributeName": name, "AttributeValues": [{"AttributeValue": values[name]}]} for name in names
        ]
    }
