from __future__ import annotations

from typing import Any

import pytest

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.query import QueryPlans, grow, split_form
from gureum.gateway.scalars import InputError

LIMITS = Limits(depth_max=8, elements_max=20)


def parse(catalogue: Catalogue, service: str, shape: str, form: str) -> Any:
    plans = QueryPlans(catalogue, service, ec2=service == "ec2")
    return plans.structure(shape)(grow(split_form(form.encode(), LIMITS), LIMITS))


def error(catalogue: Catalogue, service: str, shape: str, form: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(catalogue, service, shape, form)
    return caught.value


def test_run_instances(catalogue: Catalogue) -> None:
    form = (
        "ImageId=ami-1&MinCount=1&MaxCount=2&SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2&EbsOptimized=false"
        "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name"
        "&TagSpecification.1.Tag.1.Value=a+%26%20b&UserData=aGk%3D"
    )
    assert parse(catalogue, "ec2", "RunInstancesRequest", form) == {
        "ImageId": "ami-1",
        "MinCount": 1,
        "MaxCount": 2,
        "SecurityGroupIds": ["sg-1", "sg-2"],
        "EbsOptimized": False,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "a & b"}]}],
        "UserData": "aGk=",
    }


def test_list_in_the_order_of_its_numbers(catalogue: Catalogue) -> None:
    form = "InstanceId.10=c&InstanceId.2=b&InstanceId.1=a"
    assert parse(catalogue, "ec2", "DescribeInstancesRequest", form) == {"InstanceIds": ["a", "b", "c"]}


def test_value_as_the_only_element_of_a_list(catalogue: Catalogue) -> None:
    shape = "GetConsoleOutputRequest"
    assert parse(catalogue, "ec2", shape, "InstanceId.1=i-1") == {"InstanceId": "i-1"}
    for form in ("InstanceId.2=i-1", "InstanceId.1=i-1&InstanceId.2=i-2", "InstanceId.1.1=i-1"):
        assert error(catalogue, "ec2", shape, form).reason == "invalid"


def test_missing(catalogue: Catalogue) -> None:
    found = error(catalogue, "ec2", "RunInstancesRequest", "MinCount=1")
    assert (found.reason, found.path) == ("missing", "MaxCount")


def test_missing_within(catalogue: Catalogue) -> None:
    found = error(catalogue, "autoscaling", "CreateOrUpdateTagsType", "Tags.member.1.Value=x")
    assert (found.reason, found.path) == ("missing", "Tags.1.Key")


def test_unknown(catalogue: Catalogue) -> None:
    found = error(catalogue, "ec2", "RunInstancesRequest", "MinCount=1&MaxCount=1&Placement.Colour=red")
    assert (found.reason, found.path) == ("unknown", "Placement.Colour")


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("MinCount=one&MaxCount=1", "MinCount"),
        ("MinCount=99999999999&MaxCount=1", "MinCount"),
        ("MinCount.2=1&MaxCount=1", "MinCount"),
        ("MinCount=1&MaxCount=1&Placement=x", "Placement"),
        ("MinCount=1&MaxCount=1&SecurityGroupId=x", "SecurityGroupId"),
        ("MinCount=1&MaxCount=1&SecurityGroupId.x=y", "SecurityGroupId"),
        ("MinCount=1&MaxCount=1&SecurityGroupId.-1=y", "SecurityGroupId"),
        (
            "MinCount=1&MaxCount=1&BlockDeviceMapping.3.Ebs.VolumeSize=big",
            "BlockDeviceMapping.3.Ebs.VolumeSize",
        ),
    ],
)
def test_invalid(catalogue: Catalogue, form: str, path: str) -> None:
    found = error(catalogue, "ec2", "RunInstancesRequest", form)
    assert (found.reason, found.path) == ("invalid", path)


@pytest.mark.parametrize(
    "form",
    [
        "A=1&A=2",
        "A.B=1&A.B=2",
        "A=1&A.B=2",
        "A.B=1&A=2",
        ".".join("A" * 9) + "=1",
        "&".join(f"A{i}=1" for i in range(21)),
        "A=%ff",
    ],
)
def test_malformed(catalogue: Catalogue, form: str) -> None:
    assert error(catalogue, "ec2", "RunInstancesRequest", form).reason == "malformed"


def test_empty_list_of_query(catalogue: Catalogue) -> None:
    found = parse(catalogue, "autoscaling", "AutoScalingGroupNamesType", "AutoScalingGroupNames=")
    assert found == {"AutoScalingGroupNames": []}


def test_old_lists_keep_their_wrapper(catalogue: Catalogue) -> None:
    found = error(catalogue, "autoscaling", "AutoScalingGroupNamesType", "AutoScalingGroupNames.1=x")
    assert found.reason == "invalid"
