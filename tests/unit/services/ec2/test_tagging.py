from __future__ import annotations

from typing import Any

import pytest

from gureum.errors import ApiError
from gureum.services.ec2.tagging import parse_tags, specified_tags, tag_list


def spec(type: str, **tags: str) -> dict[str, Any]:
    return {"ResourceType": type, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}


def test_by_type() -> None:
    found = specified_tags({"TagSpecifications": [spec("volume", a="b")]}, "instance", "volume")
    assert found == {"instance": {}, "volume": {"a": "b"}}
    assert specified_tags({}, "instance") == {"instance": {}}


def test_a_tag_without_a_value_is_empty() -> None:
    assert parse_tags([{"Key": "a"}]) == {"a": ""}


@pytest.mark.parametrize(
    "specifications",
    [
        [spec("vpc", a="b")],
        [spec("volume", a="b"), spec("volume", c="d")],
        [{"ResourceType": "volume"}],
        [{"Tags": [{"Key": "a"}]}],
        [spec("volume", **{"AWS:a": "b"})],
    ],
)
def test_refuses(specifications: list[dict[str, Any]]) -> None:
    with pytest.raises(ApiError) as caught:
        specified_tags({"TagSpecifications": specifications}, "volume")
    assert caught.value.code == "InvalidParameterValue"


def test_limits() -> None:
    assert len(parse_tags([{"Key": "k" * 127, "Value": "v" * 255}])) == 1
    assert len(parse_tags([{"Key": str(i)} for i in range(50)])) == 50
    with pytest.raises(ApiError) as caught:
        parse_tags([{"Key": str(i)} for i in range(51)])
    assert caught.value.code == "TagLimitExceeded"


def test_shown() -> None:
    assert tag_list({"a": "b"}) == [{"Key": "a", "Value": "b"}]
    assert tag_list({}) is None
