from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Vpc

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_attributes(rig: Rig) -> None:
    answer = await rig.call("DescribeAccountAttributes")
    values = {
        each["AttributeName"]: each["AttributeValues"][0]["AttributeValue"]
        for each in answer["AccountAttributes"]
    }
    assert values["supported-platforms"] == "VPC"
    assert values["default-vpc"] == (await rig.find(Vpc))[0].id
    [only] = (await rig.call("DescribeAccountAttributes", AttributeNames=["default-vpc"]))[
        "AccountAttributes"
    ]
    assert only["AttributeName"] == "default-vpc"
    await rig.fails("InvalidParameterValue", "DescribeAccountAttributes", AttributeNames=["colour"])


async def test_without_a_default_vpc(empty: Rig) -> None:
    [only] = (await empty.call("DescribeAccountAttributes", AttributeNames=["default-vpc"]))[
        "AccountAttributes"
    ]
    assert only["AttributeValues"] == [{"AttributeValue": "none"}]
