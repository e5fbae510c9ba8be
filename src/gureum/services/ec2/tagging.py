"""Tags in requests and answers. Limits and reserved keys: EC2 User Guide, "Tag restrictions"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.services.ec2 import limits
from gureum.services.ec2.faults import invalid_value
from gureum.services.operation import Input


def parse_tags(given: Sequence[Mapping[str, Any]] | None) -> dict[str, str]:
    """Checked tags, by key."""
    tags: dict[str, str] = {}
    for entry in given or ():
        key, value = entry.get("Key"), entry.get("Value") or ""
        check_key(key)
        assert key is not None
        if len(value) > limits.TAG_VALUE_LENGTH_MAX:
            raise invalid_value(
                f"Tag value exceeds the maximum length of {limits.TAG_VALUE_LENGTH_MAX} characters"
            )
        if key in tags:
            raise invalid_value(f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    check_count(tags)
    return tags


def check_key(key: str | None) -> None:
    if not key:
        raise invalid_value("Tag key cannot be null or empty")
    if len(key) > limits.TAG_KEY_LENGTH_MAX:
        raise invalid_value(f"Tag key exceeds the maximum length of {limits.TAG_KEY_LENGTH_MAX} characters")
    if key.lower().startswith("aws:"):
        raise invalid_value("Tag keys starting with 'aws:' are reserved for internal use")


def check_count(tags: Mapping[str, str]) -> None:
    if len(tags) > limits.TAGS_MAX:
        raise ApiError("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")


def specified_tags(input: Input, *types: str) -> dict[str, dict[str, str]]:
    """The tags of TagSpecifications, for each of the resource types that the operation makes."""
    found: dict[str, dict[str, str]] = {type: {} for type in types}
    seen: set[str] = set()
    for specification in input.get("TagSpecifications") or ():
        type = specification.get("ResourceType")
        if not type:
            raise invalid_value("Tag specification resource type must have a value")
        if type not in found:
            raise invalid_value(f"'{type}' is not a valid taggable resource type for this operation.")
        if type in seen:
            raise invalid_value(f"Duplicate resource type '{type}' in tag specifications")
        seen.add(type)
        if not specification.get("Tags"):
            raise invalid_value("Tag specification must have at least one tag")
        found[type] = parse_tags(specification["Tags"])
    return found


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]] | None:
    """Tags as EC2 shows them; nothing if there are none."""
    return [{"Key": key, "Value": value} for key, value in tags.items()] or None
