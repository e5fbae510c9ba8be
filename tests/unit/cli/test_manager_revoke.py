from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from gureum.cli import manager, store
from gureum.cli.cloud import Cloud
from gureum.cli.main import app
from gureum.cli.manager_revoke import known
from gureum.cli.store import Database
from gureum.control.__main__ import RootCredentials
from gureum.resources import ManagerMachine
from gureum.san.settings import SanSettings
from gureum.store.base import Transaction
from gureum.store.postgres import Address
from gureum.store.postgres.leadership import Leadership

SEEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def machine(state: str, **more: Any) -> dict[str, Any]:
    address = {"ManagerId": "m", "AgentsAddress": "m:4567", "Endpoint": "https://m"}
    return {**address, "Leads": state == "leading", "State": state, **more}


def test_how_each_machine_is(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "Managers": [
            machine("leading", LastSeen=SEEN),
            machine("standing-by", LastSeen=SEEN),
            machine("silent", LastSeen=SEEN),
            machine("silent"),
            machine("revoked"),
            machine("revoked", AgentsAddress=""),
        ]
    }
    monkeypatch.setattr(manager, "call", lambda *_: found)
    said = CliRunner().invoke(app, ["manager", "list"])
    assert [line.partition("https://m")[2].strip() for line in said.output.splitlines()[1:]] == [
        "leading",
        "standing by",
        "silent since 2026-01-02 03:04:05 UTC",
        "silent: never heard of",
        "revoked",
        "revoked: a name of which nothing is known",
    ]


def test_what_has_to_be_changed_is_said_the_database_first(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(cloud.configure(), store="postgresql://cloud%20user@db1.example,db2.example/c")
    config.save(cloud.state_dir)
    asked: list[Any] = []
    more: dict[str, Any] = {"HostsAway": [], "HostsWithoutKey": [], "HostsWithSecrets": []}

    def call(_state: Path, operation: str, **parameters: Any) -> dict[str, Any]:
        asked.append((operation, parameters))
        return {"Manager": machine("revoked"), **more}

    monkeypatch.setattr(manager, "call", call)
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    said = CliRunner().invoke(app, ["manager", "revoke", "m"])
    assert asked == [("revoke_manager", {"ManagerId": "m", "Force": False})]
    assert said.exit_code == 0, said.output
    assert "m is revoked" in said.output
    lines = [line for line in said.output.splitlines() if line.startswith("  ")]
    assert lines[0].startswith("  1. its login to the database")
    assert 'ALTER ROLE "cloud user" PASSWORD' in lines[0]
    assert "gureum manager access-key" in lines[1]
    assert "client." not in said.output
    SanSettings("ceph", tmp_path / "c", tmp_path / "k", "me", "disks").save(cloud.state_dir)
    assert any("client.me" in line for line in known(cloud, "m", {}))
    # With the key that it had it made tokens until that was changed.
    assert "gureum manager revoke m" in lines[-1]
    assert "gureum host list" in lines[-1]
    for unsaid in ("fence agents", "before 0.8", "hooks", "off the network"):
        assert unsaid not in said.output
    more.update(HostsAway=["h1"], HostsWithoutKey=["h2", "h3"], HostsWithSecrets=["h4"])
    (cloud.state_dir / "hooks").mkdir()
    said = CliRunner().invoke(app, ["manager", "revoke", "m", "--force"])
    assert said.exit_code == 0, said.output
    assert asked[-1][1]["Force"] is True
    assert "h1 did not hear of it, and would believe m: take that off the network" in said.output
    assert "the certificates of h2, h3" in said.output
    assert "the passwords of fence agents, of h4" in said.output
    assert f"your commands in {cloud.state_dir / 'hooks'}" in said.output
    assert "nothing is known here" not in said.output
    said = CliRunner().invoke(app, ["manager", "revoke", "m", "--json"])
    assert json.loads(said.output) == {**machine("revoked"), **more}


def test_a_name_that_was_mistyped_is_noticed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def call(_state: Path, operation: str, **parameters: Any) -> dict[str, Any]:
        asked.append((operation, parameters))
        return {"Manager": machine("revoked", AgentsAddress="")}

    cloud.configure()
    monkeypatch.setattr(manager, "call", call)
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    said = CliRunner().invoke(app, ["manager", "revoke", "m", "--force"])
    assert said.exit_code == 0, said.output
    assert "nothing is known here of a machine m" in said.output
    assert "gureum manager remove m --force" in said.output
    assert CliRunner().invoke(app, ["manager", "remove", "m", "--force"]).exit_code == 0
    assert asked[-1] == ("remove_manager", {"ManagerId": "m", "Force": True})


async def test_another_access_key_counts_at_once(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cloud.configure()
    credentials = RootCredentials(before, cloud.state_dir / "config.json")
    assert (await credentials(before.access_key_id)) is not None
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    assert CliRunner().invoke(app, ["manager", "access-key"]).exit_code == 0
    made = cloud.config()
    assert made.access_key_id != before.access_key_id
    assert made.secret_access_key != before.secret_access_key
    assert replace(made, access_key_id="", secret_access_key="") == replace(
        before, access_key_id="", secret_access_key=""
    )
    assert (await credentials(before.access_key_id)) is None
    credential = await credentials(made.access_key_id)
    assert credential is not None
    assert credential.secret == made.secret_access_key
    (cloud.state_dir / "config.json").write_text("{")  # it is being edited
    assert (await credentials(made.access_key_id)) is not None


@pytest.fixture
def shared(
    cloud: Cloud, postgres_url: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Cloud:
    """One of several machines, of which ``second`` stands by and ``third`` is off."""
    address = Address.parse(postgres_url(tmp_path))
    config = replace(cloud.configure(store=address.url), agents="x", agents_url="192.0.2.1:4567")
    config.save(cloud.state_dir)

    async def enter(tx: Transaction) -> None:
        for id in ("first", "second", "third", "fourth"):
            endpoint = f"https://{id}"
            await tx.put(ManagerMachine(id=id, agents=id, endpoint=endpoint, revoked=id == "fourth"))

    async def stand_by() -> None:
        second = Leadership(address, config.identity, "two", "", "second", "ab")
        await second._say()
        await second.close()

    store.transact(cloud.state_dir / "store.db", enter)
    asyncio.run(stand_by())
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    return cloud


def access_key(*arguments: str) -> list[str]:
    said = CliRunner().invoke(app, ["manager", "access-key", *arguments])
    assert said.exit_code == 0, said.output
    return [said.stdout.strip(), *said.stderr.splitlines()]


SILENT = "  third: silent: it brings its old key back when it leads, if it was not done there"


@pytest.mark.postgres
def test_where_the_access_key_is_not_changed_yet(shared: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cloud, "leads", lambda *_: True)
    changed, todo, *others = access_key()
    assert "is the access key of this machine" in changed
    assert "have another until this is done there: gureum manager access-key --from-env" in todo
    assert others == ["  second: stands by", SILENT]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "GUX")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert "have another unless" in access_key("--from-environment")[1]


@pytest.mark.postgres
def test_the_access_key_of_a_machine_that_stands_by_counts_when_it_leads(
    shared: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, when, *_ = access_key()
    assert "from now on" not in changed
    assert when == "it counts while a manager of this machine leads; none does now"
    there = Database("", endpoint="https://second")
    monkeypatch.setattr("gureum.cli.store.look", lambda _: there)
    _, when, _, *others = access_key()
    assert when.endswith("second leads now, by the key that is there")
    assert others == ["  second: leads", SILENT]


def test_where_the_access_key_is_not_changed_yet_may_not_be_known(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://me@/cloud?host={tmp_path}"
    replace(cloud.configure(), store=url, agents="x", agents_url="192.0.2.1:4567").save(cloud.state_dir)
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    _, why, todo = access_key()
    assert "is not known" in why
    assert "on each of them: gureum manager access-key --from-environment" in todo


def test_the_same_access_key_elsewhere(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.configure()
    monkeypatch.setattr(manager, "cloud_at", lambda _: cloud)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "GUX")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    arguments = ["manager", "access-key", "--from-environment"]
    assert "are not both set" in str(CliRunner().invoke(app, arguments).exception)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert (cloud.config().access_key_id, cloud.config().secret_access_key) == ("GUX", "secret")
    assert "secret" not in said.output.replace("has its secret", "")
