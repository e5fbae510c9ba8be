"""Security groups: create, describe, delete. Their rules are in ``security_group_rules``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.resources import NetworkInterface, Permission, SecurityGroup
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.defaults import GROUP_NAME, default_vpc, everything_out
from gureum.services.ec2.faults import dependency_violation, invalid_value, missing
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.permissions import permission_items
from gureum.services.ec2.placement import named_groups
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

_TEXT = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}\Z")


def arn(group: SecurityGroup, region: str) -> str:
    return f"arn:aws:ec2:{region}:{group.account}:security-group/{group.id}"


async def _items(ctx: Context, groups: Sequence[SecurityGroup]) -> list[dict[str, Any]]:
    return [
        {
            "GroupId": group.id,
            "GroupName": group.name,
            "Description": group.description,
            "OwnerId": group.account,
            "VpcId": group.vpc,
            "SecurityGroupArn": arn(group, ctx.cloud.region),
            "IpPermissions": permission_items(group.rules, egress=False),
            "IpPermissionsEgress": permission_items(group.rules, egress=True),
            "Tags": tag_list(group.tags),
        }
        for group in groups
    ]


def _rules(egress: bool, value: Callable[[Permission], object]) -> Callable[[SecurityGroup], list[str]]:
    """A filter's values from the rules of one direction."""

    def source(group: SecurityGroup) -> list[str]:
        found = (value(rule) for rule in group.rules if rule.egress is egress)
        return [str(each) for each in found if each not in (None, "")]

    return source


_RULE_VALUES: dict[str, Callable[[Permission], object]] = {
    "cidr": lambda rule: rule.cidr,
    "from-port": lambda rule: rule.from_port,
    "group-id": lambda rule: rule.group,
    "group-name": lambda rule: None,
    "ipv6-cidr": lambda rule: rule.cidr6,
    "prefix-list-id": lambda rule: rule.prefix_list,
    "protocol": lambda rule: rule.protocol,
    "to-port": lambda rule: rule.to_port,
    "user-id": lambda rule: rule.group_account,
}

GROUPS = Listing(
    operation="DescribeSecurityGroups",
    noun=lookup.GROUP,
    ids="GroupIds",
    items="SecurityGroups",
    filters=Filters(
        {
            "description": "description",
            "group-id": "id",
            "owner-id": "account",
            **{f"ip-permission.{name}": _rules(False, value) for name, value in _RULE_VALUES.items()},
            **{f"egress.ip-permission.{name}": _rules(True, value) for name, value in _RULE_VALUES.items()},
        },
        index={"group-name": "name", "vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeSecurityGroups")
async def describe_security_groups(ctx: Context, input: Input) -> Output:
    if input.get("GroupNames"):
        vpc = await default_vpc(ctx.tx, ctx.caller.account)
        found = await named_groups(ctx, input["GroupNames"], vpc.id if vpc is not None else "")
        input = {**input, "GroupIds": [*(input.get("GroupIds") or ()), *(group.id for group in found)]}
    return await GROUPS.answer(ctx, input)


@operation("ec2", "CreateSecurityGroup", write=True)
async def create_security_group(ctx: Context, input: Input) -> Output:
    name, description = input["GroupName"], input["Description"]
    _check_text(name, "groupName")
    _check_text(description, "groupDescription")
    if name.startswith("sg-"):
        raise invalid_value("Group names may not be in the format sg-*")
    if name == GROUP_NAME:
        raise invalid_value(f"Cannot use reserved security group name: {name}")
    if input.get("VpcId"):
        network = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    else:
        default = await default_vpc(ctx.tx, ctx.caller.account)
        if default is None:
            raise ApiError("VPCIdNotSpecified", "No default VPC for this user.")
        network = default
    vpc = network.id
    if await ctx.tx.count(SecurityGroup, account=ctx.caller.account, vpc=vpc, name=name):
        raise ApiError(
            "InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc}'"
        )
    if await ctx.tx.count(SecurityGroup, vpc=vpc) >= limits.GROUPS_PER_VPC_MAX:
        raise ApiError(
            "SecurityGroupLimitExceeded",
            f"The maximum number of security groups for VPC '{vpc}' has been reached.",
        )
    everywhere = ("0.0.0.0/0", "::/0") if network.cidrs6 else ("0.0.0.0/0",)
    rules = tuple([everything_out(ctx.env, cidr) for cidr in everywhere])
    group = await ctx.tx.put(
        SecurityGroup(
            id=ctx.env.new_id("sg"),
            account=ctx.caller.account,
            tags=specified_tags(input, "security-group")["security-group"],
            name=name,
            description=description,
            vpc=vpc,
            rules=rules,
        )
    )
    return {
        "GroupId": group.id,
        "Tags": tag_list(group.tags),
        "SecurityGroupArn": arn(group, ctx.cloud.region),
    }


def _check_text(value: str, parameter: str) -> None:
    """Raises for a text that is empty, too long, or in other characters."""
    if not value:
        raise missing(parameter[0].upper() + parameter[1:])
    if not _TEXT.match(value):
        raise invalid_value(
            f"Value ({value}) for parameter {parameter} is invalid. Character sets beyond ASCII are not "
            "supported; 1 to 255 characters of a-z, A-Z, 0-9, spaces and ._-:/()#,@[]+=&;{}!$* are."
        )


async def requested_group(ctx: Context, input: Input) -> SecurityGroup:
    """The group that a request names by id, or by name in the default VPC."""
    if input.get("GroupId"):
        return await lookup.one(ctx, lookup.GROUP, input["GroupId"])
    if not input.get("GroupName"):
        raise missing("groupName or groupId")
    vpc = await default_vpc(ctx.tx, ctx.caller.account)
    found = await named_groups(ctx, [input["GroupName"]], vpc.id if vpc is not None else "")
    return found[0]


@operation("ec2", "DeleteSecurityGroup", write=True)
async def delete_security_group(ctx: Context, input: Input) -> Output:
    group = await requested_group(ctx, input)
    if group.name == GROUP_NAME:
        raise ApiError(
            "CannotDelete", f'the specified group: "{group.id}" name: "default" cannot be deleted by a user'
        )
    others = [
        other for other in await ctx.tx.find(SecurityGroup, referenced=group.id) if other.id != group.id
    ]
    if others or await ctx.tx.count(NetworkInterface, groups=group.id):
        raise dependency_violation(f"resource {group.id} has a dependent object")
    await ctx.tx.delete(group)
    return {"Return": True, "GroupId": group.id}
