from __future__ import annotations

from typing import Any

import pytest

from gureum.resources import PrefixList
from gureum.services.ec2.limits import PREFIX_LIST_VERSIONS_MAX


def entries(*cidrs: str) -> list[dict[str, str]]:
    return [{"Cidr": cidr} for cidr in cidrs]


async def make(rig: Any, **values: Any) -> str:
    given = {"PrefixListName": "mine", "MaxEntries": 3, "AddressFamily": "IPv4", **values}
    made = (await rig.call("CreateManagedPrefixList", **given))["PrefixList"]
    assert (made["State"], made["Version"]) == ("create-complete", 1)
    return made["PrefixListId"]  # type: ignore[no-any-return]


async def listed(rig: Any, id: str, **values: Any) -> list[str]:
    answer = await rig.call("GetManagedPrefixListEntries", PrefixListId=id, **values)
    return [each["Cidr"] for each in answer["Entries"]]


async def test_entries_are_kept_by_version(rig: Any) -> None:
    id = await make(rig, Entries=entries("10.2.0.0/16", "10.1.0.1/16"))
    assert await listed(rig, id) == ["10.1.0.0/16", "10.2.0.0/16"]
    changed = await rig.call(
        "ModifyManagedPrefixList",
        PrefixListId=id,
        CurrentVersion=1,
        AddEntries=entries("9.0.0.0/8"),
        RemoveEntries=entries("10.2.0.0/16"),
    )
    assert changed["PrefixList"]["Version"] == 2
    assert await listed(rig, id) == ["9.0.0.0/8", "10.1.0.0/16"]
    assert await listed(rig, id, TargetVersion=1) == ["10.1.0.0/16", "10.2.0.0/16"]
    await rig.call("RestoreManagedPrefixListVersion", PrefixListId=id, PreviousVersion=1, CurrentVersion=2)
    assert await listed(rig, id) == ["10.1.0.0/16", "10.2.0.0/16"]
    await rig.fails(
        "InvalidPrefixListVersion.NotFound",
        "GetManagedPrefixListEntries",
        PrefixListId=id,
        TargetVersion=9,
    )


async def test_the_newest_versions_are_kept(rig: Any) -> None:
    id = await make(rig)
    for version in range(1, 15):
        await rig.call(
            "ModifyManagedPrefixList",
            PrefixListId=id,
            CurrentVersion=version,
            AddEntries=entries(f"10.{version + 1}.0.0/16"),
            RemoveEntries=entries(f"10.{version}.0.0/16") if version > 1 else [],
        )
    assert len((await rig.get(PrefixList, id)).history) == PREFIX_LIST_VERSIONS_MAX - 1
    for version in range(15 - PREFIX_LIST_VERSIONS_MAX + 1, 16):
        assert await listed(rig, id, TargetVersion=version) == [f"10.{version}.0.0/16"]
    await rig.fails(
        "InvalidPrefixListVersion.NotFound", "GetManagedPrefixListEntries", PrefixListId=id, TargetVersion=5
    )
    await rig.fails(
        "InvalidPrefixListVersion.NotFound",
        "RestoreManagedPrefixListVersion",
        PrefixListId=id,
        PreviousVersion=5,
        CurrentVersion=15,
    )


async def test_entries_come_page_by_page(rig: Any) -> None:
    id = await make(rig, MaxEntries=250, Entries=entries(*(f"10.0.{n}.0/24" for n in range(250))))
    first = await rig.call("GetManagedPrefixListEntries", PrefixListId=id, MaxResults=100)
    second = await rig.call(
        "GetManagedPrefixListEntries", PrefixListId=id, MaxResults=100, NextToken=first["NextToken"]
    )
    third = await rig.call(
        "GetManagedPrefixListEntries", PrefixListId=id, MaxResults=100, NextToken=second["NextToken"]
    )
    assert [len(each["Entries"]) for each in (first, second, third)] == [100, 100, 50]
    assert "NextToken" not in third


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"AddressFamily": "IPv5"}, "InvalidParameterValue"),
        ({"MaxEntries": 0}, "InvalidParameterValue"),
        ({"PrefixListName": "com.amazonaws.x"}, "InvalidParameterValue"),
        ({"Entries": entries("10.0.0.0")}, "InvalidParameterValue"),
        ({"Entries": entries("::/0")}, "InvalidParameterValue"),
        ({"Entries": entries("10.0.0.0/8", "10.0.0.0/8")}, "InvalidParameterValue"),
        ({"Entries": entries(*(f"10.{n}.0.0/16" for n in range(4)))}, "PrefixListMaxEntriesExceeded"),
    ],
)
async def test_what_cannot_be_made(rig: Any, values: dict[str, Any], code: str) -> None:
    given = {"PrefixListName": "mine", "MaxEntries": 3, "AddressFamily": "IPv4", **values}
    await rig.fails(code, "CreateManagedPrefixList", **given)


async def test_the_state_names_the_last_change(rig: Any) -> None:
    id = await make(rig, Entries=entries("10.2.0.0/16"))

    async def state() -> Any:
        [found] = (await rig.call("DescribeManagedPrefixLists", PrefixListIds=[id]))["PrefixLists"]
        return found["State"], found["Version"]

    assert await state() == ("create-complete", 1)
    await rig.call("ModifyManagedPrefixList", PrefixListId=id, MaxEntries=9)
    assert await state() == ("modify-complete", 1)
    await rig.call(
        "ModifyManagedPrefixList", PrefixListId=id, CurrentVersion=1, AddEntries=entries("10.3.0.0/16")
    )
    assert await state() == ("modify-complete", 2)
    await rig.call("RestoreManagedPrefixListVersion", PrefixListId=id, PreviousVersion=1, CurrentVersion=2)
    assert await state() == ("restore-complete", 3)


async def test_wrong_changes(rig: Any) -> None:
    id = await make(rig, Entries=entries("10.2.0.0/16"))
    change = "ModifyManagedPrefixList"
    more = entries("9.0.0.0/8")
    await rig.fails("MissingParameter", change, PrefixListId=id, AddEntries=more)
    await rig.fails("PrefixListVersionMismatch", change, PrefixListId=id, AddEntries=more, CurrentVersion=2)
    await rig.fails("InvalidParameterValue", change, PrefixListId=id, RemoveEntries=more, CurrentVersion=1)
    await rig.fails("InvalidParameterValue", change, PrefixListId=id, AddEntries=more, MaxEntries=9)
    await rig.fails("InvalidParameterValue", change, PrefixListId=id, MaxEntries=0)


async def test_rules_name_lists(rig: Any) -> None:
    id = await make(rig, Entries=entries("10.2.0.0/16"))
    group = (await rig.call("CreateSecurityGroup", GroupName="g", Description="d"))["GroupId"]
    permission = {
        "IpProtocol": "tcp",
        "FromPort": 22,
        "ToPort": 22,
        "PrefixListIds": [{"PrefixListId": id, "Description": "why"}],
    }
    added = await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])
    assert added["SecurityGroupRules"][0]["PrefixListId"] == id
    shown = (await rig.call("DescribeSecurityGroups", GroupIds=[group]))["SecurityGroups"][0]
    assert shown["IpPermissions"][0]["PrefixListIds"] == permission["PrefixListIds"]
    await rig.fails("DependencyViolation", "DeleteManagedPrefixList", PrefixListId=id)
    users = await rig.call("GetManagedPrefixListAssociations", PrefixListId=id)
    assert [each["ResourceId"] for each in users["PrefixListAssociations"]] == [group]
    await rig.call("RevokeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])
    await rig.call("DeleteManagedPrefixList", PrefixListId=id)
    await rig.fails(
        "InvalidPrefixListID.NotFound",
        "AuthorizeSecurityGroupIngress",
        GroupId=group,
        IpPermissions=[permission],
    )


async def test_a_list_weighs_as_much_as_it_can_hold(rig: Any) -> None:
    id = await make(rig, MaxEntries=600)
    other = await make(rig, MaxEntries=600)
    group = (await rig.call("CreateSecurityGroup", GroupName="g", Description="d"))["GroupId"]

    def rule(list: str) -> list[dict[str, Any]]:
        return [{"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": list}]}]

    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=rule(id))
    await rig.fails(
        "RulesPerSecurityGroupLimitExceeded",
        "AuthorizeSecurityGroupIngress",
        GroupId=group,
        IpPermissions=rule(other),
    )


async def test_lists_of_the_cloud_are_seen_and_not_changed(rig: Any) -> None:
    id = "pl-0123456789abcdef0"
    await rig.put(PrefixList(id=id, name="com.amazonaws.us-east-1.x", max_entries=1))
    found = await rig.call(
        "DescribeManagedPrefixLists",
        Filters=[{"Name": "prefix-list-name", "Values": ["com.amazonaws.us-east-1.x"]}],
    )
    assert [each["OwnerId"] for each in found["PrefixLists"]] == ["AWS"]
    await rig.fails("OperationNotPermitted", "DeleteManagedPrefixList", PrefixListId=id)


async def test_an_entry_with_a_zone_is_none(rig: Any) -> None:
    given = {"PrefixListName": "mine", "MaxEntries": 3, "AddressFamily": "IPv6"}
    bad = entries("fd00::%x; flush ruleset/64")
    await rig.fails("InvalidParameterValue", "CreateManagedPrefixList", **given, Entries=bad)
