"""Sets of DHCP options: what the guests of a VPC are told of domains and servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import DhcpOptions, Vpc
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.defaults import NO_OPTIONS, RESOLVER
from gureum.services.ec2.faults import dependency_violation, invalid_value, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

_SERVERS = ("domain-name-servers", "ntp-servers", "netbios-name-servers")
_DOMAIN = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?:\.(?!-)[a-zA-Z0-9-]{1,63})*\.?\Z")
_DOMAIN_LENGTH_MAX = 253
_NODE_TYPES = ("1", "2", "4", "8")
"""RFC 2132, 8.7: broadcast, point-to-point, mixed, hybrid."""


@operation("ec2", "CreateDhcpOptions", write=True)
async def create_dhcp_options(ctx: Context, input: Input) -> Output:
    options = _parse(input["DhcpConfigurations"])
    tags = specified_tags(input, "dhcp-options")["dhcp-options"]
    if await ctx.tx.count(DhcpOptions, account=ctx.caller.account) >= limits.DHCP_OPTIONS_MAX:
        raise ApiError(
            "DhcpOptionsLimitExceeded", "The maximum number of sets of DHCP options has been reached."
        )
    id = ctx.env.new_id("dopt")
    record = await ctx.tx.put(DhcpOptions(id=id, account=ctx.caller.account, tags=tags, options=options))
    return {"DhcpOptions": _item(record)}


def _parse(given: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    options: dict[str, tuple[str, ...]] = {}
    for entry in given:
        key, values = entry.get("Key") or "", tuple(entry.get("Values") or ())
        if key in options:
            raise invalid_value(f"The DHCP option '{key}' is specified more than once.")
        _check(key, values)
        options[key] = values
    if not options:
        raise missing("dhcpConfiguration")
    return options


def _check(key: str, values: tuple[str, ...]) -> None:
    if key == "ipv6-address-preferred-lease-time":
        raise unsupported(f"The DHCP option {key} is not supported by gureum.")
    if key not in (*_SERVERS, "domain-name", "netbios-node-type"):
        raise _invalid(key, "Unknown DHCP option.")
    if not values:
        raise _invalid(key, "It needs a value.")
    if key in _SERVERS:
        if len(values) > limits.DHCP_VALUES_MAX:
            raise _invalid(key, f"It can have {limits.DHCP_VALUES_MAX} values at most.")
        for value in values:
            _check_server(key, value)
    elif len(values) > 1:
        raise _invalid(key, "It can have one value only.")
    elif key == "netbios-node-type" and values[0] not in _NODE_TYPES:
        raise _invalid(key, f"It has to be one of {', '.join(_NODE_TYPES)}.")
    elif key == "domain-name" and not (len(values[0]) <= _DOMAIN_LENGTH_MAX and _DOMAIN.match(values[0])):
        raise _invalid(key, f"'{values[0]}' is not a domain name.")


def _check_server(key: str, value: str) -> None:
    if key == "domain-name-servers" and value == RESOLVER:
        return
    if ":" in value:
        raise unsupported(f"IPv6 addresses in the DHCP option {key} are not supported by gureum.")
    try:
        IPv4Address(value)
    except ValueError:
        raise _invalid(key, f"'{value}' is not an IPv4 address.") from None


def _invalid(key: str, reason: str) -> ApiError:
    return invalid_value(f"Value ({key}) for parameter dhcpConfiguration is invalid. {reason}")


@operation("ec2", "AssociateDhcpOptions", write=True)
async def associate_dhcp_options(ctx: Context, input: Input) -> Output:
    """With "default" the VPC has no set, and its guests are told nothing but their addresses."""
    id = input["DhcpOptionsId"]
    if id != NO_OPTIONS:
        id = (await lookup.one(ctx, lookup.DHCP_OPTIONS, id)).id
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    await ctx.tx.put(replace(vpc, dhcp_options=id))
    return {}


@operation("ec2", "DeleteDhcpOptions", write=True)
async def delete_dhcp_options(ctx: Context, input: Input) -> Output:
    id = input["DhcpOptionsId"]
    if not id.startswith("dopt-"):
        raise ApiError("InvalidDhcpOptionsId.Malformed", f'Invalid id: "{id}" (expecting "dopt-...")')
    record = await lookup.one(ctx, lookup.DHCP_OPTIONS, id)
    if await ctx.tx.count(Vpc, dhcp_options=record.id):
        raise dependency_violation(f"The dhcpOptions '{record.id}' has dependencies and cannot be deleted.")
    await ctx.tx.delete(record)
    return {}


def _item(record: DhcpOptions) -> dict[str, Any]:
    return {
        "DhcpOptionsId": record.id,
        "OwnerId": record.account,
        "DhcpConfigurations": [
            {"Key": key, "Values": [{"Value": value} for value in values]}
            for key, values in record.options.items()
        ],
        "Tags": tag_list(record.tags) or [],
    }


async def _items(ctx: Context, records: Sequence[DhcpOptions]) -> list[dict[str, Any]]:
    return [_item(record) for record in records]


DHCP_OPTIONS = Listing(
    operation="DescribeDhcpOptions",
    noun=lookup.DHCP_OPTIONS,
    ids="DhcpOptionsIds",
    items="DhcpOptions",
    filters=Filters(
        {
            "dhcp-options-id": "id",
            "key": lambda record: record.options.keys(),
            "owner-id": "account",
            "value": lambda record: (each for values in record.options.values() for each in values),
        }
    ),
    describe=_items,
)


@operation("ec2", "DescribeDhcpOptions")
async def describe_dhcp_options(ctx: Context, input: Input) -> Output:
    return await DHCP_OPTIONS.answer(ctx, input)
