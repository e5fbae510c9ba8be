"""The rules of security groups: authorize, revoke, describe, modify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import PeeringConnection, PeeringState, Permission, PrefixList, SecurityGroup
from gureum.services.ec2 import limits, lookup, pagination, permissions
from gureum.services.ec2.faults import invalid_combination, invalid_value, missing
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.placement import named_groups
from gureum.services.ec2.security_groups import requested_group
from gureum.services.ec2.tagging import specified_tags
from gureum.services.operation import Context, Handler, Input, Output, operation

_FLAT = ("CidrIp", "IpProtocol", "FromPort", "ToPort", "SourceSecurityGroupName")


async def _requested_rules(
    ctx: Context, group: SecurityGroup, input: Input, *, egress: bool
) -> list[Permission]:
    """The rules of IpPermissions, or of the older parameters for a single rule."""
    given = input.get("IpPermissions") or ()
    flat = {name: input[name] for name in _FLAT if input.get(name) is not None}
    if given and flat:
        raise invalid_combination(f"The parameter {next(iter(flat))} cannot be used with ipPermissions")
    if flat:
        given = [_flat_permission(input)]
    if not given:
        raise missing("ipPermissions")
    for pair in (pair for entry in given for pair in entry.get("UserIdGroupPairs") or ()):
        if pair.get("VpcPeeringConnectionId"):
            await lookup.one(ctx, lookup.PEERING, pair["VpcPeeringConnectionId"])
    rules = permissions.parse(given, egress=egress)
    return [await _with_peer(ctx, group, rule) for rule in rules]


def _flat_permission(input: Input) -> Mapping[str, Any]:
    if input.get("SourceSecurityGroupName"):
        # The oldest form: all traffic from a group of that name.
        pair = {
            "GroupName": input["SourceSecurityGroupName"],
            "UserId": input.get("SourceSecurityGroupOwnerId"),
        }
        return {
            "IpProtocol": input.get("IpProtocol") or permissions.ANY,
            "FromPort": input.get("FromPort"),
            "ToPort": input.get("ToPort"),
            "UserIdGroupPairs": [pair],
        }
    return {
        "IpProtocol": input.get("IpProtocol"),
        "FromPort": input.get("FromPort"),
        "ToPort": input.get("ToPort"),
        "IpRanges": [{"CidrIp": input.get("CidrIp")}],
    }


async def _with_peer(ctx: Context, group: SecurityGroup, rule: Permission) -> Permission:
    """The rule with its prefix list or peer group checked; a name becomes an id."""
    if rule.prefix_list:
        await lookup.one(ctx, lookup.PREFIX_LIST, rule.prefix_list)
    if not rule.group:
        return rule
    if rule.group.startswith("sg-"):
        peer = await lookup.one(ctx, lookup.GROUP, rule.group)
    else:
        peer = (await named_groups(ctx, [rule.group], group.vpc))[0]
    near = peer.vpc == group.vpc or await _are_peered(ctx, peer.vpc, group.vpc)
    if not near or rule.group_account not in ("", peer.account):
        raise ApiError(
            "InvalidGroup.NotFound",
            f"You have specified two resources that belong to different networks: {group.id}, {peer.id}",
        )
    return replace(rule, group=peer.id, group_account=peer.account)


async def _are_peered(ctx: Context, one: str, other: str) -> bool:
    active = await ctx.tx.find(PeeringConnection, vpcs=one, state=str(PeeringState.active))
    return any(other in peering.vpcs for peering in active)


async def _weight(ctx: Context, rules: Sequence[Permission]) -> int:
    """How much of the quota they take: a prefix list as much as it can have entries, as in EC2."""
    ids = {rule.prefix_list for rule in rules if rule.prefix_list}
    sizes = {each.id: each.max_entries for each in await ctx.tx.get_many(PrefixList, ids)}
    return sum(sizes.get(rule.prefix_list, 1) for rule in rules)


def _authorize(egress: bool) -> Handler:
    async def authorize(ctx: Context, input: Input) -> Output:
        group = await requested_group(ctx, input)
        rules = await _requested_rules(ctx, group, input, egress=egress)
        tags = specified_tags(input, "security-group-rule")["security-group-rule"]
        added = permissions.numbered(ctx.env, await _checked_new(ctx, group, rules), tags)
        await ctx.tx.put(replace(group, rules=(*group.rules, *added)))
        region = ctx.cloud.region
        shown = [permissions.rule_item(group, rule, region) for rule in added]
        return {"Return": True, "SecurityGroupRules": shown}

    return authorize


async def _checked_new(
    ctx: Context, group: SecurityGroup, rules: Sequence[Permission]
) -> Sequence[Permission]:
    known = {permissions.key(rule) for rule in group.rules}
    new = [permissions.key(rule) for rule in rules]
    if len(set(new)) < len(new):
        raise invalid_value("The same permission must not appear multiple times")
    for rule in rules:
        if permissions.key(rule) in known:
            raise ApiError(
                "InvalidPermission.Duplicate",
                f'the specified rule "{permissions.text(rule)}" already exists',
            )
    egress = rules[0].egress
    together = [*(rule for rule in group.rules if rule.egress is egress), *rules]
    if await _weight(ctx, together) > limits.RULES_PER_GROUP_MAX:
        raise ApiError(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        )
    return rules


operation("ec2", "AuthorizeSecurityGroupIngress", write=True)(_authorize(egress=False))
operation("ec2", "AuthorizeSecurityGroupEgress", write=True)(_authorize(egress=True))


def _revoke(egress: bool) -> Handler:
    async def revoke(ctx: Context, input: Input) -> Output:
        group = await requested_group(ctx, input)
        ids = input.get("SecurityGroupRuleIds") or ()
        if ids:
            if input.get("IpPermissions"):
                raise invalid_combination(
                    "The parameter securityGroupRuleIds cannot be used with ipPermissions"
                )
            leaving = {rule.id for rule in rules_by_id(group, ids, egress=egress)}
        else:
            wanted = await _requested_rules(ctx, group, input, egress=egress)
            leaving = {_existing(group, rule).id for rule in wanted}
        revoked = [permissions.revoked_item(group, rule) for rule in group.rules if rule.id in leaving]
        remaining = tuple(rule for rule in group.rules if rule.id not in leaving)
        await ctx.tx.put(replace(group, rules=remaining))
        return {"Return": True, "RevokedSecurityGroupRules": revoked}

    return revoke


operation("ec2", "RevokeSecurityGroupIngress", write=True)(_revoke(egress=False))
operation("ec2", "RevokeSecurityGroupEgress", write=True)(_revoke(egress=True))


def rules_by_id(group: SecurityGroup, ids: Sequence[str], *, egress: bool | None = None) -> list[Permission]:
    """The group's rules of these ids, and of this direction if one is given."""
    by_id = {rule.id: rule for rule in group.rules if egress is None or rule.egress is egress}
    absent = [id for id in ids if id not in by_id]
    if absent:
        raise no_rules(absent)
    return [by_id[id] for id in ids]


def no_rules(ids: Sequence[str]) -> ApiError:
    text = "ID '{}' does not exist" if len(ids) == 1 else "IDs '{}' do not exist"
    return ApiError(
        "InvalidSecurityGroupRuleId.NotFound", "The security group rule " + text.format(", ".join(ids))
    )


def _existing(group: SecurityGroup, wanted: Permission) -> Permission:
    key = permissions.key(wanted)
    for rule in group.rules:
        if permissions.key(rule) == key:
            return rule
    raise ApiError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")


_RULE_FILTERS = Filters({"group-id": lambda rule: (), "security-group-rule-id": "id"})


@operation("ec2", "DescribeSecurityGroupRules")
async def describe_security_group_rules(ctx: Context, input: Input) -> Output:
    page = pagination.page(input, "DescribeSecurityGroupRules", ids="SecurityGroupRuleIds")
    given = input.get("Filters") or ()
    query = _RULE_FILTERS.parse([entry for entry in given if entry.get("Name") != "group-id"])
    groups = await _filtered_groups(ctx, given)
    rules = sorted(
        ((rule, group) for group in groups for rule in group.rules if query.admits(rule)),
        key=lambda pair: pair[0].id,
    )
    if ids := set(input.get("SecurityGroupRuleIds") or ()):
        absent = sorted(ids - {rule.id for group in groups for rule in group.rules})
        if absent:
            raise no_rules(absent)
        rules = [pair for pair in rules if pair[0].id in ids]
    rules = [pair for pair in rules if pair[0].id > page.after]
    shown = [permissions.rule_item(group, rule, ctx.cloud.region) for rule, group in rules[: page.limit]]
    output: dict[str, Any] = {"SecurityGroupRules": shown}
    if len(rules) > page.limit:
        last = rules[page.limit - 1][0].id
        output["NextToken"] = pagination.encode(last, "DescribeSecurityGroupRules")
    return output


async def _filtered_groups(ctx: Context, filters: Sequence[Mapping[str, Any]]) -> list[SecurityGroup]:
    """The groups that the group-id filters leave, all if there are none. Raises for what is no id."""
    for id in (id for each in filters if each.get("Name") == "group-id" for id in each.get("Values") or ()):
        if not id.startswith("sg-") and not set(id) & {"*", "?"}:
            raise ApiError("InvalidGroupId.Malformed", f"The security group ID '{id}' is malformed")
    wanted = [Filters({"group-id": "id"}).parse([f]) for f in filters if f.get("Name") == "group-id"]
    groups = await ctx.tx.find(SecurityGroup, account=ctx.caller.account)
    return [group for group in groups if all(query.admits(group) for query in wanted)]


@operation("ec2", "ModifySecurityGroupRules", write=True)
async def modify_security_group_rules(ctx: Context, input: Input) -> Output:
    group = await requested_group(ctx, input)
    rules = {rule.id: rule for rule in group.rules}
    for update in input["SecurityGroupRules"]:
        [rule] = rules_by_id(group, [update["SecurityGroupRuleId"]])
        rules[rule.id] = await _modified(ctx, group, rule, update.get("SecurityGroupRule") or {})
    keys = [permissions.key(rule) for rule in rules.values()]
    for rule in rules.values():
        if keys.count(permissions.key(rule)) > 1:
            raise ApiError(
                "InvalidPermission.Duplicate",
                f'the specified rule "{permissions.text(rule)}" already exists',
            )
    await ctx.tx.put(replace(group, rules=tuple(rules.values())))
    return {"Return": True}


async def _modified(
    ctx: Context, group: SecurityGroup, rule: Permission, request: Mapping[str, Any]
) -> Permission:
    readers: dict[str, tuple[str, Callable[[str], str]]] = {
        "CidrIpv4": ("cidr", permissions.cidr),
        "CidrIpv6": ("cidr6", permissions.cidr6),
        "PrefixListId": ("prefix_list", str),
        "ReferencedGroupId": ("group", str),
    }
    peers = {field: read(request[name]) for name, (field, read) in readers.items() if request.get(name)}
    if not peers:
        raise ApiError(
            "MissingParameter",
            "The request must contain exactly one of: cidrIp, cidrIpv6, prefixListId, or referencedGroupId",
        )
    if len(peers) > 1:
        raise invalid_combination(
            "Only one of cidrIp, cidrIpv6, prefixListId, or referencedGroupId can be specified"
        )
    protocol, from_port, to_port = permissions.traffic(
        request.get("IpProtocol"), request.get("FromPort"), request.get("ToPort")
    )
    modified = Permission(
        id=rule.id,
        egress=rule.egress,
        protocol=protocol,
        from_port=from_port,
        to_port=to_port,
        description=permissions.description(request.get("Description")),
        tags=rule.tags,
        **peers,
    )
    return await _with_peer(ctx, group, modified)


def _describe_rules(egress: bool) -> Handler:
    async def update(ctx: Context, input: Input) -> Output:
        group = await requested_group(ctx, input)
        texts: dict[str, str] = {}
        for entry in input.get("SecurityGroupRuleDescriptions") or ():
            id = entry.get("SecurityGroupRuleId") or ""
            rules_by_id(group, [id], egress=egress)
            texts[id] = permissions.description(entry.get("Description"))
        if input.get("IpPermissions"):
            for rule in await _requested_rules(ctx, group, input, egress=egress):
                texts[_existing(group, rule).id] = rule.description
        if not texts:
            raise missing("ipPermissions or securityGroupRuleDescriptions")
        rules = tuple(replace(rule, description=texts.get(rule.id, rule.description)) for rule in group.rules)
        await ctx.tx.put(replace(group, rules=rules))
        return {"Return": True}

    return update


operation("ec2", "UpdateSecurityGroupRuleDescriptionsIngress", write=True)(_describe_rules(egress=False))
operation("ec2", "UpdateSecurityGroupRuleDescriptionsEgress", write=True)(_describe_rules(egress=True))
