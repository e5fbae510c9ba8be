from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gureum.cli import api
from gureum.cli.cloud import Cloud


def test_what_is_on_hosts_that_are_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def host(number: int, state: str, **things: Any) -> dict[str, Any]:
        return {"HostId": f"host-{number}", "State": state, "InstanceIds": [], "NatGatewayIds": [], **things}

    many = [f"i-{number}" for number in range(9)]
    pages = {
        "": {
            "Hosts": [host(0, "up", InstanceIds=["i-x"]), host(1, "down", NatGatewayIds=["nat-1"])],
            "NextToken": "next",
        },
        "next": {"Hosts": [host(2, "down", InstanceIds=many, NatGatewayIds=["nat-2"]), host(3, "down")]},
    }

    def send(client: str, operation: str, parameters: dict[str, Any], _cloud: Cloud) -> dict[str, Any]:
        assert (client, operation) == ("fleet", "describe_hosts")
        return pages[parameters.get("NextToken", "")]

    monkeypatch.setattr(api, "client", lambda _cloud, service: service)
    monkeypatch.setattr(api, "_send", send)
    assert api.hosts_down(Cloud(tmp_path)) == {
        "host-1": "nat-1",
        "host-2": "nat-2, i-0, i-1, i-2, i-3, i-4, i-5, i-6 and 2 more",
        "host-3": "",
    }
