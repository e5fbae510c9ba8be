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


def test_answers_name_commands() -> None:
    assert api.with_commands("There is no host 'x'. See DescribeHosts.").endswith("See gureum host list.")
    said = "There is no instance 'x'. See DescribeInstances of ec2."
    assert api.with_commands(said) == "There is no instance 'x'. See gureum instance list."
    kept = "See DescribeInstanceTypes of ec2. DescribeHostsets"
    assert api.with_commands(kept) == kept


def test_the_commands_that_answers_name_exist() -> None:
    from typer.main import get_command

    from gureum.cli.main import app

    for line in api.COMMANDS.values():
        found: Any = get_command(app)
        for word in line.split()[1:]:
            if not word.startswith("--"):
                found = found.commands[word]
            else:
                assert any(word in option.opts for option in found.params)
