from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.errors import ApiError
from gureum.services.ec2 import pagination


def code(**input: object) -> str:
    with pytest.raises(ApiError) as caught:
        pagination.page(input, "DescribeThings", ids="ThingIds")
    return caught.value.code


def test_defaults() -> None:
    assert pagination.page({}, "DescribeThings") == (1000, "")
    assert pagination.page({"MaxResults": 7}, "DescribeThings") == (7, "")


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_tokens_come_back(position: str) -> None:
    token = pagination.encode(position, "DescribeThings")
    assert pagination.page({"NextToken": token}, "DescribeThings").after == position


def test_bounds() -> None:
    assert code(MaxResults=4) == "InvalidParameterValue"
    assert code(MaxResults=1001) == "InvalidParameterValue"
    with pytest.raises(ApiError, match=r"Value \( 4 \) for parameter maxResults is invalid"):
        pagination.page({"MaxResults": 4}, "DescribeThings")


def test_ids_exclude_a_page_size() -> None:
    assert code(MaxResults=5, ThingIds=["a"]) == "InvalidParameterCombination"
    assert pagination.page({"ThingIds": ["a"]}, "DescribeThings", ids="ThingIds").limit == 1000


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "ünïcode",
        "MQ==",
        "A" * 2000,
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b"2\nDescribeThings\nx").decode(),
        pagination.encode("x", "DescribeOthers"),
    ],
)
def test_wrong_tokens(token: str) -> None:
    assert code(NextToken=token) == "InvalidNextToken"
