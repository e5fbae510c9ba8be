"""A machine that is to have managers of another machine's cloud; and one that has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from gureum.cli import leader, machine_hosts, manager_join
from gureum.cli.cloud import Cloud
from gureum.cli.config import JoinedConfig
from gureum.cli.main import app
from gureum.cli.manager_join import Wanted
from gureum.cli.output import USAGE, CliError
from gureum.cli.store import Database
from gureum.control import sharing
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.store.postgres.address import Address
from gureum.transport import authority, tls, token

TOKEN = token.write("ab" * 32, b"x" * 32)


def join(cloud: Cloud, secret: str = TOKEN, said: list[str] | None = None, **wanted: Any) -> dict[str, Any]:
    note = said.append if said is not None else lambda _: None
    return manager_join.join(cloud, "127.0.0.1:1", secret, Wanted(**wanted), note)


def test_where_it_cannot_be(cloud: Cloud, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="no token") as caught:
        join(cloud, "gureum1.x")
    assert caught.value.exit_code == USAGE
    with pytest.raises(CliError, match="without TLS"):
        join(cloud, host="192.0.2.1", agents="127.0.0.1:4999")
    with pytest.raises(CliError, match="does not have the address"):
        join(cloud, agents="203.0.113.7:4567")
    # Before the token is used up.
    with pytest.raises(CliError, match="does its server run") as caught:
        join(cloud, agents="127.0.0.1:4999", store=f"postgresql://me@/cloud?host={tmp_path}")
    assert "--store" in caught.value.next_step
    with pytest.raises(CliError, match="has to be postgresql") as caught:
        join(cloud, agents="127.0.0.1:4999", store="mysql://db")
    assert caught.value.exit_code == USAGE
    assert not cloud.state_dir.exists()
    with pytest.raises(CliError, match="joining failed: no manager at"):
        join(cloud, agents="127.0.0.1:4999", port=45661)
    assert not cloud.exists
    cloud.configure()
    with pytest.raises(CliError, match="has a cloud already"):
        join(cloud)


def test_not_with_a_host_of_another_cloud(cloud: Cloud) -> None:
    cloud.state_dir.mkdir()
    host_of_another(cloud)
    with pytest.raises(CliError, match="part of cloud c, and the token is of another one"):
        join(cloud, agents="127.0.0.1:4999")


def host_of_another(cloud: Cloud) -> None:
    authority.ensure(cloud.state_dir / "tls", "other", 1.7e9)
    JoinedConfig(
        cloud="c", host="second", zone="z", public_cidr="198.18.0.0/22", index=0, manager="192.0.2.1:4567",
        uplink="eth0", expires=2e9, renew_at=1e9,
    ).save(cloud.state_dir)  # fmt: skip


@pytest.mark.postgres
def test_it_has_what_the_cloud_is(
    cloud: Cloud, tmp_path: Path, postgres_url: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is its own, and what all have."""
    address = Address.parse(postgres_url(tmp_path))
    first = Cloud(tmp_path / "first")
    config = first.configure(store=address.url, ipv6_prefix="2001:db8::/40")
    authority.ensure(first.state_dir / "authority", config.name, Env().now())
    KeyStore.open(Env(), first.state_dir / "keys")
    shared = sharing.share(first.state_dir, config)
    trusted = (first.state_dir / "authority" / tls.AUTHORITY).read_bytes()

    async def answered(*_: object) -> Any:
        return shared

    monkeypatch.setattr(manager_join, "_ask", answered)
    secret = token.write(tls.fingerprint(trusted), b"x" * 32)
    wanted = {"name": "second", "agents": "127.0.0.1:4999", "port": 45662}
    with pytest.raises(CliError, match="is not the store of cloud") as caught:
        join(cloud, secret, **wanted)  # nobody leads: it may be any database
    assert "--store" in caught.value.next_step
    assert not cloud.exists
    monkeypatch.setattr(manager_join, "_check_store", lambda config: None)
    monkeypatch.setattr(Cloud, "start", lambda *_: True)
    said: list[str] = []
    made = join(cloud, secret, said, **wanted)
    assert "--host ADDRESS" in said[-1]  # elsewhere nobody reaches 127.0.0.1
    assert made == {"cloud": config.name, "machine": "second", "agents": "https://127.0.0.1:4999"}
    joined = cloud.config()
    assert (joined.identity, joined.public_cidr) == (config.identity, config.public_cidr)
    for name in ("access_key_id", "secret_access_key", "store", "ipv6_prefix", "region"):
        assert getattr(joined, name) == getattr(config, name)
    assert (cloud.state_dir / "authority" / tls.MANAGER_CERTIFICATE).exists()
    assert cloud.roles == ("manager",)
    with pytest.raises(CliError, match="only managers"):
        machine_hosts.change(cloud, None, 2)
    with pytest.raises(CliError, match="nothing but managers"):
        cloud.configure(agents="")
    host_of_another(cloud)
    assert cloud.roles == ("manager", "agent")
    assert cloud.configure(managers=2).manager_roles == ("manager", "manager-1")


def test_which_machine_is_asked(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cloud.configure()
    there = Database("", endpoint="https://192.0.2.9:4566", schema=2)  # a gureum before 0.8
    monkeypatch.setattr("gureum.cli.store.look", lambda _: there)
    assert leader.api(cloud, config).url == config.endpoint
    shared = replace(config, agents="0.0.0.0:4567", store="postgresql://me@/db?host=/run", tls_cert="x")
    assert leader.api(cloud, shared).url == "https://192.0.2.9:4566"
    monkeypatch.setattr(Cloud, "leads", lambda *_: True)
    assert leader.api(cloud, shared).url == shared.endpoint


@pytest.mark.parametrize("command", ["host", "manager"])
def test_a_token_that_no_list_of_processes_shows(
    cloud: Cloud, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def joins(_cloud: Cloud, _url: str, secret: str, *_: Any, **_more: Any) -> None:
        told.append(secret)
        raise CliError("enough")

    monkeypatch.setattr("gureum.cli.cloud.require_root", lambda: None)
    monkeypatch.setattr(f"gureum.cli.{'join' if command == 'host' else 'manager_join'}.join", joins)
    arguments = [command, "join", "db:1", "--state-dir", str(cloud.state_dir), "--token"]
    for given in ("-", TOKEN):
        CliRunner().invoke(app, [*arguments, given], input=f"{TOKEN}\n")
    assert told == [TOKEN, TOKEN]
