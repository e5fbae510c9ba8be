"""Translations of what a real cluster said, recorded while its disks were killed and filled."""

import json
from pathlib import Path
from typing import Any

import pytest

from gureum.san.ceph.health import ERROR, OK, TRANSLATIONS, WARN, Health, finding, read

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())


def health(name: str) -> Health:
    status, detail, *_ = RECORDED[name]
    return read(status, detail)


def said(name: str) -> dict[str, tuple[str, str]]:
    return {each.code: (each.severity, each.text) for each in health(name).findings}


def test_well() -> None:
    assert health("well") == Health(OK, (), None)


def test_an_osd_is_down() -> None:
    found = said("osd down")
    assert found["OSD_DOWN"][0] == WARN
    assert found["OSD_DOWN"][1].startswith("osd.1 is down: what is written has fewer copies")
    assert found["PG_DEGRADED"][1].startswith("some data has fewer copies than it should (")
    going = health("osd down").recovery
    assert going is not None
    assert going.objects_missing > 0
    assert going.remaining_s is None


def test_recovery_has_a_rate_and_an_end() -> None:
    going = health("recovering").recovery
    assert going is not None
    assert (going.objects_missing, going.bytes_per_s) == (196, 3717749)
    # 196 objects of 1,107,296,441 bytes in 272 objects, at 3,717,749 bytes a second.
    assert going.remaining_s == 215


def test_nearly_full() -> None:
    found = said("nearfull")
    assert found["OSD_NEARFULL"] == (WARN, "osd.0, osd.1, osd.2 are nearly full")
    assert found["POOL_NEARFULL"][1].startswith("a pool is nearly full")


def test_full_is_an_error_even_where_ceph_only_warns() -> None:
    found = said("full")
    assert found["OSD_FULL"] == (ERROR, "osd.1, osd.2 are full: nothing can be written, guests wait")
    assert found["OSD_NEARFULL"] == (WARN, "osd.0 is nearly full")
    assert found["POOL_FULL"][0] == ERROR
    assert all(each.todo for each in health("full").findings)


def test_data_out_of_reach_is_an_error_even_where_ceph_only_warns() -> None:
    assert RECORDED["two down"][1]["status"] == "HEALTH_WARN"
    assert health("two down").status == ERROR
    assert said("two down")["OSD_DOWN"][1].startswith("osd.0, osd.2 are down")
    assert said("two down")["PG_AVAILABILITY"][0] == ERROR


def test_data_out_of_reach_is_known_before_ceph_says_so() -> None:
    status, detail, *_ = RECORDED["two down"]
    checks = {code: check for code, check in detail["checks"].items() if code != "PG_AVAILABILITY"}
    found = read(status, {**detail, "checks": checks})
    assert found.status == ERROR
    [text] = [each.text for each in found.findings if each.code == "PG_INACTIVE"]
    assert text.startswith("32 of 32 parts of the data cannot be written now")
    assert all(each.code != "PG_INACTIVE" for each in health("two down").findings)


def test_what_is_muted_is_not_repeated_and_what_is_unknown_is_passed_on() -> None:
    check: dict[str, Any] = {
        "severity": "HEALTH_WARN",
        "summary": {"message": "3 things are odd", "count": 3},
    }
    assert finding("ODD_THINGS", check).text == "3 things are odd"
    document = {"status": "HEALTH_WARN", "checks": {"ODD_THINGS": {**check, "muted": True}}}
    assert read({}, document).findings == ()


@pytest.mark.parametrize("code", sorted(TRANSLATIONS))
def test_every_translation_does_without_details(code: str) -> None:
    bare = {"severity": "HEALTH_WARN", "summary": {"message": "something"}}
    assert "something" in finding(code, bare).text


def test_the_names_of_many_are_cut() -> None:
    check = {
        "severity": "HEALTH_WARN",
        "summary": {"message": "9 osds down"},
        "detail": [{"message": f"osd.{number} is down"} for number in range(9)],
    }
    assert finding("OSD_DOWN", check).text.startswith("osd.0, osd.1, osd.2, osd.3, osd.4 and 4 more are down")
