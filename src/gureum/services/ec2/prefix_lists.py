"""Managed prefix lists: networks under one name, for rules and routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import PrefixEntry, PrefixList, RouteTable, SecurityGroup
from gureum.services.ec2 import limits, lookup, pagination
from gureum.services.ec2.cidrs import parse4, parse6
from gureum.services.ec2.faults import (
    dependency_violation,
    invalid_parameter_value,
    invalid_value,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

FAMILIES = ("IPv4", "IPv6")
NAME_LENGTH_MAX = 255
RESERVED_NAME = "com.amazonaws"
DESCRIPTION_LENGTH_MAX = 255


@operation("ec2", "CreateManagedPrefixList", write=True)
async def create_managed_prefix_list(ctx: Context, input: Input) -> Output:
    family = input["AddressFamily"]
    if family not in FAMILIES:
        raise invalid_parameter_value(family, "addressFamily", "Expected: IPv4, IPv6.")
    if await ctx.tx.count(PrefixList, account=ctx.caller.account) >= limits.PREFIX_LISTS_MAX:
        raise ApiError("PrefixListLimitExceeded", "The maximum number of prefix lists has been reached.")
    most = _checked_max(input["MaxEntries"])
    entries = _added((), input.get("Entries") or (), family, most)
    made = await ctx.tx.put(
        PrefixList(
            id=ctx.env.new_id("pl"),
            account=ctx.caller.account,
            tags=specified_tags(input, "prefix-list")["prefix-list"],
            name=_checked_name(input["PrefixListName"]),
            family=family,
            max_entries=most,
            entries=entries,
        )
    )
    return {"PrefixList": _item(ctx, made)}


@operation("ec2", "ModifyManagedPrefixList", write=True)
async def modify_managed_prefix_list(ctx: Context, input: Input) -> Output:
    """A change of entries makes a new version; a change of name or size does not."""
    if input.get("IpamPrefixListResolverSyncEnabled"):
        raise unsupported("IPAM is not supported by gureum.")
    old = await _own(ctx, input["PrefixListId"])
    add, remove = input.get("AddEntries") or (), input.get("RemoveEntries") or ()
    changed = old
    if input.get("PrefixListName"):
        changed = replace(changed, name=_checked_name(input["PrefixListName"]))
    if input.get("MaxEntries") is not None:
        if add or remove:
            raise invalid_value("The entries and the maximum of entries cannot be changed in one request.")
        changed = replace(changed, max_entries=_checked_max(input["MaxEntries"]))
        if changed.max_entries < len(old.entries):
            raise invalid_parameter_value(
                changed.max_entries, "maxEntries", f"The list has {len(old.entries)} entries."
            )
    if add or remove:
        if input.get("CurrentVersion") is None:
            raise ApiError("MissingParameter", "CurrentVersion is needed to change entries.")
        _check_version(old, input["CurrentVersion"])
        entries = _added(_without(old.entries, remove), add, old.family, changed.max_entries)
        changed = _revised(changed, entries)
    changed = await ctx.tx.put(replace(changed, state="modify-complete"))
    return {"PrefixList": _item(ctx, changed)}


@operation("ec2", "RestoreManagedPrefixListVersion", write=True)
async def restore_managed_prefix_list_version(ctx: Context, input: Input) -> Output:
    old = await _own(ctx, input["PrefixListId"])
    _check_version(old, input["CurrentVersion"])
    entries = _entries_of(old, input["PreviousVersion"])
    if len(entries) > old.max_entries:
        raise invalid_parameter_value(
            input["PreviousVersion"], "previousVersion", f"It has more than {old.max_entries} entries."
        )
    restored = await ctx.tx.put(replace(_revised(old, entries), state="restore-complete"))
    return {"PrefixList": _item(ctx, restored)}


@operation("ec2", "DeleteManagedPrefixList", write=True)
async def delete_managed_prefix_list(ctx: Context, input: Input) -> Output:
    old = await _own(ctx, input["PrefixListId"])
    if users := await _users(ctx, old):
        raise dependency_violation(f"The prefix list '{old.id}' is used by {', '.join(users[:10])}.")
    await ctx.tx.delete(old)
    return {"PrefixList": _item(ctx, replace(old, state="delete-complete"))}


async def _own(ctx: Context, id: str) -> PrefixList:
    found = await lookup.one(ctx, lookup.PREFIX_LIST, id)
    if not found.account:
        raise ApiError("OperationNotPermitted", f"{id} is managed by the cloud and cannot be changed.")
    return found


async def _users(ctx: Context, list: PrefixList) -> list[str]:
    """Ids of what names the list."""
    groups = await ctx.tx.find(SecurityGroup, prefix_lists=list.id)
    tables = await ctx.tx.find(RouteTable, account=list.account)
    routed = [each.id for each in tables if any(route.destination == list.id for route in each.routes)]
    return [*(group.id for group in groups), *routed]


def _checked_name(name: str) -> str:
    if not 0 < len(name) <= NAME_LENGTH_MAX or name.lower().startswith(RESERVED_NAME):
        raise invalid_parameter_value(
            name, "prefixListName", f"1 to {NAME_LENGTH_MAX} characters, not beginning with {RESERVED_NAME}."
        )
    return name


def _checked_max(most: int) -> int:
    if not 1 <= most <= limits.PREFIX_LIST_ENTRIES_MAX:
        raise invalid_parameter_value(most, "maxEntries", f"Expected: 1 to {limits.PREFIX_LIST_ENTRIES_MAX}.")
    return most


def _check_version(list: PrefixList, version: int) -> None:
    if version != list.revision:
        raise ApiError(
            "PrefixListVersionMismatch",
            f"The prefix list {list.id} has the version {list.revision}, not {version}.",
        )


def _entries_of(list: PrefixList, version: int) -> tuple[PrefixEntry, ...]:
    if version == list.revision:
        return list.entries
    oldest = list.revision - len(list.history)
    if not oldest <= version < list.revision:
        raise ApiError(
            "InvalidPrefixListVersion.NotFound",
            f"{list.id} has no version {version}; there are {oldest} to {list.revision}.",
        )
    return list.history[version - oldest]


def _revised(list: PrefixList, entries: tuple[PrefixEntry, ...]) -> PrefixList:
    """With the newest versions before it; older ones are forgotten, as EC2 forgets them past its limit."""
    history = (*list.history, list.entries)[1 - limits.PREFIX_LIST_VERSIONS_MAX :]
    return replace(list, entries=entries, revision=list.revision + 1, history=history)


def _without(entries: Sequence[PrefixEntry], remove: Iterable[Mapping[str, Any]]) -> tuple[PrefixEntry, ...]:
    gone = {each["Cidr"] for each in remove}
    absent = gone - {each.cidr for each in entries}
    if absent:
        raise invalid_parameter_value(min(absent), "removeEntries", "The list has no such entry.")
    return tuple(each for each in entries if each.cidr not in gone)


def _added(
    entries: Sequence[PrefixEntry], add: Iterable[Mapping[str, Any]], family: str, most: int
) -> tuple[PrefixEntry, ...]:
    """The entries with further ones; one that is there already gets the new description."""
    by_cidr = {each.cidr: each for each in entries}
    seen: set[str] = set()
    for each in add:
        cidr = _checked_cidr(each.get("Cidr") or "", family)
        if cidr in seen:
            raise invalid_parameter_value(cidr, "addEntries", "The entry is there twice.")
        seen.add(cidr)
        description = each.get("Description") or ""
        if len(description) > DESCRIPTION_LENGTH_MAX:
            raise invalid_value(f"A description has at most {DESCRIPTION_LENGTH_MAX} characters.")
        by_cidr[cidr] = PrefixEntry(cidr=cidr, description=description)
    if len(by_cidr) > most:
        raise ApiError("PrefixListMaxEntriesExceeded", f"The list has room for {most} entries.")
    return tuple(by_cidr[cidr] for cidr in sorted(by_cidr, key=_order))


def _order(cidr: str) -> tuple[int, int]:
    network = ip_network(cidr)
    return int(network.network_address), network.prefixlen


def _checked_cidr(text: str, family: str) -> str:
    return str(parse4(text, "cidr") if family == "IPv4" else parse6(text, "cidr"))


# Describing


def _item(ctx: Context, list: PrefixList) -> dict[str, Any]:
    owner = list.account or "AWS"
    scope = list.account or "aws"
    return {
        "PrefixListId": list.id,
        "PrefixListName": list.name,
        "PrefixListArn": f"arn:aws:ec2:{ctx.cloud.region}:{scope}:prefix-list/{list.id}",
        "AddressFamily": list.family,
        "State": list.state,
        "MaxEntries": list.max_entries if list.account else None,
        "Version": list.revision if list.account else None,
        "OwnerId": owner,
        "Tags": tag_list(list.tags) or [],
    }


async def _items(ctx: Context, lists: Sequence[PrefixList]) -> list[dict[str, Any]]:
    return [_item(ctx, each) for each in lists]


PREFIX_LISTS = Listing(
    operation="DescribeManagedPrefixLists",
    noun=lookup.PREFIX_LIST,
    ids="PrefixListIds",
    items="PrefixLists",
    filters=Filters({"owner-id": "OwnerId", "prefix-list-id": "id"}, index={"prefix-list-name": "name"}),
    describe=_items,
    page_max=100,
)


@operation("ec2", "DescribeManagedPrefixLists")
async def describe_managed_prefix_lists(ctx: Context, input: Input) -> Output:
    return await PREFIX_LISTS.answer(ctx, input)


@operation("ec2", "GetManagedPrefixListEntries")
async def get_managed_prefix_list_entries(ctx: Context, input: Input) -> Output:
    found = await lookup.one(ctx, lookup.PREFIX_LIST, input["PrefixListId"])
    version = input.get("TargetVersion")
    entries = _entries_of(found, found.revision if version is None else version)
    page = pagination.page(input, "GetManagedPrefixListEntries", low=1, high=100)
    start = int(page.after or 0)
    shown = entries[start : start + page.limit]
    answer: dict[str, Any] = {
        "Entries": [{"Cidr": each.cidr, "Description": each.description or None} for each in shown]
    }
    if start + page.limit < len(entries):
        answer["NextToken"] = pagination.encode(str(start + page.limit), "GetManagedPrefixListEntries")
    return answer


@operation("ec2", "GetManagedPrefixListAssociations")
async def get_managed_prefix_list_associations(ctx: Context, input: Input) -> Output:
    found = await lookup.one(ctx, lookup.PREFIX_LIST, input["PrefixListId"])
    return {
        "PrefixListAssociations": [
            {"ResourceId": id, "ResourceOwner": ctx.caller.account} for id in await _users(ctx, found)
        ]
    }
