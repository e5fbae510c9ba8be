"""CreateTags, DeleteTags, DescribeTags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Permission, Record, SecurityGroup
from gureum.services.ec2 import lookup, pagination, tagging
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.filters import Filters, Query
from gureum.services.ec2.lookup import Noun
from gureum.services.ec2.security_group_rules import no_rules
from gureum.services.operation import Context, Input, Output, operation

RESOURCES_MAX = 1000
RULE_PREFIX = "sgr"
RULE_TYPE = "security-group-rule"
SCAN = 1000

NOUNS: dict[str, Noun[Any]] = {
    "dhcp-options": lookup.DHCP_OPTIONS,
    "egress-only-internet-gateway": lookup.EGRESS_GATEWAY,
    "elastic-ip": lookup.ADDRESS,
    "image": lookup.IMAGE,
    "instance": lookup.INSTANCE,
    "internet-gateway": lookup.INTERNET_GATEWAY,
    "key-pair": lookup.KEY_PAIR,
    "natgateway": lookup.NAT_GATEWAY,
    "network-acl": lookup.NETWORK_ACL,
    "network-interface": lookup.INTERFACE,
    "placement-group": lookup.PLACEMENT_GROUP,
    "prefix-list": lookup.PREFIX_LIST,
    "route-table": lookup.ROUTE_TABLE,
    "security-group": lookup.GROUP,
    "snapshot": lookup.SNAPSHOT,
    "subnet": lookup.SUBNET,
    "volume": lookup.VOLUME,
    "vpc": lookup.VPC,
    "vpc-endpoint": lookup.VPC_ENDPOINT,
    "vpc-flow-log": lookup.FLOW_LOG,
    "vpc-peering-connection": lookup.PEERING,
}
TYPES = sorted([*NOUNS, RULE_TYPE])
_BY_PREFIX = {noun.prefix: noun for noun in NOUNS.values()}

Change = Callable[[Mapping[str, str]], dict[str, str]]


async def _retag(ctx: Context, ids: Sequence[str], change: Change) -> None:
    """Change the tags of all these resources."""
    if len(ids) > RESOURCES_MAX:
        raise invalid_value(f"At most {RESOURCES_MAX} resources can be tagged at once.")
    by_prefix: dict[str, list[str]] = {}
    for id in dict.fromkeys(ids):
        prefix = id.partition("-")[0]
        if prefix != RULE_PREFIX and (prefix not in _BY_PREFIX or not _BY_PREFIX[prefix].well_formed(id)):
            raise ApiError("InvalidID", f"The ID '{id}' is not valid")
        by_prefix.setdefault(prefix, []).append(id)
    for prefix, wanted in by_prefix.items():
        if prefix == RULE_PREFIX:
            await _retag_rules(ctx, wanted, change)
            continue
        for record in await lookup.many(ctx, _BY_PREFIX[prefix], wanted):
            if record.account != ctx.caller.account:
                raise ApiError("UnauthorizedOperation", f"You do not own the resource {record.id}.", 403)
            tags = change(record.tags)
            if tags != record.tags:
                await ctx.tx.put(replace(record, tags=tags))


async def _retag_rules(ctx: Context, ids: Sequence[str], change: Change) -> None:
    left = set(ids)
    for group in await ctx.tx.find(SecurityGroup, account=ctx.caller.account):
        own = {rule.id for rule in group.rules} & left
        if own:
            rules = tuple(
                replace(rule, tags=change(rule.tags)) if rule.id in own else rule for rule in group.rules
            )
            await ctx.tx.put(replace(group, rules=rules))
            left -= own
    if left:
        raise no_rules(sorted(left))


@operation("ec2", "CreateTags", write=True)
async def create_tags(ctx: Context, input: Input) -> Output:
    new = tagging.parse_tags(input["Tags"])

    def change(tags: Mapping[str, str]) -> dict[str, str]:
        merged = {**tags, **new}
        tagging.check_count(merged)
        return merged

    await _retag(ctx, input["Resources"], change)
    return {}


@operation("ec2", "DeleteTags", write=True)
async def delete_tags(ctx: Context, input: Input) -> Output:
    """A tag goes if its key is named, and its value too if one is given; without Tags, all go."""
    given = input.get("Tags")
    leaving: dict[str, str | None] = {}
    for entry in given or ():
        tagging.check_key(entry.get("Key"))
        leaving[entry["Key"]] = entry.get("Value")

    def change(tags: Mapping[str, str]) -> dict[str, str]:
        if not given:
            return {}
        return {
            key: value
            for key, value in tags.items()
            if key not in leaving or leaving[key] not in (None, value)
        }

    await _retag(ctx, input["Resources"], change)
    return {}


class Tag(NamedTuple):
    """One tag of one resource, as the filters see it."""

    type: str
    id: str
    key: str
    value: str

    @property
    def tags(self) -> Mapping[str, str]:
        return {self.key: self.value}

    @property
    def position(self) -> str:
        return f"{self.type}\n{self.id}\n{self.key}"


_FILTERS = Filters({"key": "key", "resource-id": "id", "resource-type": "type", "value": "value"})


@operation("ec2", "DescribeTags")
async def describe_tags(ctx: Context, input: Input) -> Output:
    page = pagination.page(input, "DescribeTags")
    given = input.get("Filters") or ()
    query = _FILTERS.parse(given)
    of_type = _FILTERS.parse([entry for entry in given if entry.get("Name") == "resource-type"])
    ids = [set(entry["Values"]) for entry in given if entry.get("Name") == "resource-id"]
    plain = [values for values in ids if not any("*" in v or "?" in v or "\\" in v for v in values)]
    start = page.after.split("\n")[0] if page.after else ""
    found: list[Tag] = []
    for type in TYPES:
        if type >= start and of_type.admits(Tag(type, "", "", "")):
            room = page.limit + 1 - len(found)
            found += await _tags(ctx, type, plain[0] if plain else None, query, page.after, room)
        if len(found) > page.limit:
            break
    shown = [
        {"Key": tag.key, "ResourceId": tag.id, "ResourceType": tag.type, "Value": tag.value}
        for tag in found[: page.limit]
    ]
    output: dict[str, Any] = {"Tags": shown}
    if len(found) > page.limit:
        output["NextToken"] = pagination.encode(found[page.limit - 1].position, "DescribeTags")
    return output


async def _tags(
    ctx: Context, type: str, ids: set[str] | None, query: Query, after: str, limit: int
) -> list[Tag]:
    """The first ``limit`` tags of one type of resource after a position, of these ids only if given."""
    found: list[Tag] = []
    last = ""
    after_type, after_id, _ = after.split("\n", 2) if after else ("", "", "")
    if after_type == type:
        # The resource of the last tag may have more of them: find() starts after an id, so go back a little.
        last = after_id[:-1]
    while len(found) < limit:
        resources, complete, last = await _resources(ctx, type, ids, last)
        for resource in resources:
            tags = [Tag(type, resource.id, key, resource.tags[key]) for key in sorted(resource.tags)]
            found += [tag for tag in tags if tag.position > after and query.admits(tag)]
        if complete:
            break
    return found[:limit]


async def _resources(
    ctx: Context, type: str, ids: set[str] | None, after: str
) -> tuple[list[Record | Permission], bool, str]:
    """Some resources in the order of their ids, whether these were the last, and where to go on."""
    account = ctx.caller.account
    if type == RULE_TYPE:
        groups = await ctx.tx.find(SecurityGroup, account=account)
        rules = (rule for group in groups for rule in group.rules if ids is None or rule.id in ids)
        return sorted(rules, key=lambda rule: rule.id), True, ""
    noun = NOUNS[type]
    if ids is not None:
        records = await ctx.tx.get_many(noun.record, [id for id in ids if noun.well_formed(id)])
        return [record for record in records if record.account == account], True, ""
    records = await ctx.tx.find(noun.record, account=account, after=after or None, limit=SCAN)
    complete = len(records) < SCAN
    return [record for record in records if noun.visible(record)], complete, records[-1].id if records else ""
