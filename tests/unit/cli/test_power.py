"""What `gureum host power` reads and shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gureum.cli.output import CliError
from gureum.cli.power import ago, lines, pairs, remarks, row

POWER: dict[str, Any] = {
    "HostId": "host-1",
    "PowerState": "awake",
    "CouldBeParked": False,
    "CouldBeEmptied": False,
    "Failures": 0,
    "Options": {},
    "HasSecrets": False,
}


def test_what_is_shown_of_a_host() -> None:
    assert row(POWER) == ("host-1", "awake", "-", "-", "-", "")
    assert row({**POWER, "CouldBeParked": True})[5] == "could be parked"
    emptied = {**POWER, "CouldBeEmptied": True, "Reason": "i-1 is there; it finds room"}
    assert row(emptied)[5] == "could be emptied and parked; i-1 is there; it finds room"
    parked = {
        **POWER,
        "PowerState": "parked",
        "Since": datetime.now(UTC) - timedelta(minutes=75, seconds=5),
        "Agent": "fence_redfish",
        "Options": {"ip": "192.0.2.9"},
        "HasSecrets": True,
        "Reason": "it was empty",
        "Failures": 2,
        "NextTry": datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC),
    }
    assert row(parked) == (
        "host-1",
        "parked",
        "1 h 15 min",
        "fence_redfish",
        "ip=192.0.2.9 (and secrets)",
        "it was empty; did not come 2 times when it was woken; to be tried again after 12:00:05 UTC",
    )


SETTINGS: dict[str, Any] = {
    "PowerMode": "off",
    "RestSeconds": 900,
    "AwakeHosts": 1,
    "HeadroomPercent": 20,
    "EmptyHosts": False,
    "FencePower": "none",
}


def test_what_is_done_by_itself_is_said_below() -> None:
    known = [{**POWER, "Agent": "fence_redfish"}]
    assert remarks(SETTINGS, known) == ["mode off: no host is parked or woken by itself"]
    assert "gureum host power HOST --agent" in remarks(SETTINGS, [POWER])[-1]
    parked = (
        "parked after 15 minutes without anything on it, if 1 of its zone stays on and 20 % of what that "
        "gives away is free"
    )
    recommends = {**SETTINGS, "PowerMode": "recommend", "EmptyHosts": True}
    assert remarks(recommends, known) == [
        f"mode recommend: it is only said which host could be {parked}",
        "hosts are emptied for that in the mode automatic only",
    ]
    automatic = {**SETTINGS, "PowerMode": "automatic", "FencePower": "reboot"}
    assert remarks(automatic, known) == [
        f"mode automatic: a host is {parked}, and woken on need",
        "no host is emptied for that: --empty on",
        "a host that is fenced is switched off and on",
    ]
    more = remarks({**automatic, "EmptyHosts": True, "AwakeHosts": 3, "RestSeconds": 90}, known)
    assert "after 1.5 minutes" in more[0]
    assert "after a minute without" in remarks({**automatic, "RestSeconds": 60}, known)[0]
    assert "if 3 of its zone stay on and 20 % of what those give away" in more[0]
    assert more[1] == "hosts are emptied for that"


def test_times_of_less_than_an_hour() -> None:
    assert ago(datetime.now(UTC) - timedelta(minutes=5, seconds=5)) == "5 min"
    assert ago(datetime.now(UTC) + timedelta(minutes=5)) == "0 min"


def test_options_are_read_from_files_too(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("password=a=b\n\nusername=me\n")
    assert pairs(lines(path)) == {"password": "a=b", "username": "me"}
    with pytest.raises(CliError, match="cannot be read"):
        lines(tmp_path / "absent")
    for text in ("password", "=x"):
        with pytest.raises(CliError) as caught:
            pairs([text])
        assert text not in str(caught.value), "it may be a secret"
