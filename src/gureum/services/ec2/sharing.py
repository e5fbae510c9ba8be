"""Permissions of images and snapshots: the users and the group ``all`` that attributes name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gureum.errors import ApiError
from gureum.services.ec2.faults import invalid_combination, invalid_value
from gureum.services.operation import Input

_ACCOUNT = re.compile(r"[0-9]{12}\Z")
ALL = "all"


class Sharing(NamedTuple):
    """Who may use something besides its owner."""

    public: bool
    users: tuple[str, ...]

    def shown(self) -> list[dict[str, str]]:
        everybody = [{"Group": ALL}] if self.public else []
        return [*everybody, *({"UserId": user} for user in self.users)]

    def added(self, other: Sharing) -> Sharing:
        users = (*self.users, *(user for user in other.users if user not in self.users))
        return Sharing(self.public or other.public, users)

    def removed(self, other: Sharing) -> Sharing:
        return Sharing(
            self.public and not other.public, tuple(user for user in self.users if user not in other.users)
        )


def changed(before: Sharing, input: Input, modern: Mapping[str, Any] | None, groups: str) -> Sharing:
    """What a Modify request makes of it.

    ``modern``: its LaunchPermission or CreateVolumePermission; else it says OperationType, UserIds and, in
    the member ``groups``, the groups.
    """
    if modern:
        for other in ("OperationType", "UserIds", groups):
            if input.get(other):
                raise invalid_combination(f"{other} cannot be used together with a permission structure.")
        return before.removed(_parsed(modern.get("Remove"))).added(_parsed(modern.get("Add")))
    entries: list[Mapping[str, str]] = [{"UserId": user} for user in input.get("UserIds") or ()]
    entries += [{"Group": group} for group in input.get(groups) or ()]
    named = _parsed(entries)
    match input.get("OperationType"):
        case "add":
            return before.added(named)
        case "remove":
            return before.removed(named)
        case None:
            raise ApiError("MissingParameter", "The request must contain the parameter operationType")
        case other:
            raise invalid_value(f"Value ({other}) for parameter operationType is invalid.")


def _parsed(entries: Sequence[Mapping[str, str]] | None) -> Sharing:
    users, public = [], False
    for entry in entries or ():
        if entry.get("OrganizationArn") or entry.get("OrganizationalUnitArn"):
            raise ApiError("UnsupportedOperation", "There are no organizations in gureum: name accounts.")
        group, user = entry.get("Group"), entry.get("UserId")
        if group is not None:
            if group != ALL:
                raise ApiError("InvalidAMIAttributeItemValue", f'Invalid attribute item value "{group}"')
            public = True
        if user is not None:
            if not _ACCOUNT.match(user):
                raise ApiError(
                    "InvalidAMIAttributeItemValue",
                    f'Invalid attribute item value "{user}" for userId item type.',
                )
            users.append(user)
    return Sharing(public, tuple(dict.fromkeys(users)))
