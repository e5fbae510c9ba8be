import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gureum.cli import doctor, machine_hosts
from gureum.cli.cloud import Cloud
from gureum.cli.output import USAGE, CliError
from gureum.cli.store import Database, exists, look, setting, transact
from gureum.cli.supervisor import command
from gureum.errors import StoreError
from gureum.resources import Host
from gureum.store.base import Transaction
from gureum.store.migrations import LATEST_POSTGRES
from gureum.store.postgres import Address
from gureum.store.postgres.leadership import Leadership
from support.postgres import USER, Server


async def put_host(tx: Transaction) -> None:
    await tx.put(Host(id="host-1", zone="z"))


async def hosts(tx: Transaction) -> list[str]:
    return [host.id for host in await tx.find(Host)]


def test_a_cloud_in_a_file_stays_there(cloud: Cloud) -> None:
    config = cloud.configure()
    assert setting(None, config) is None
    assert look(config) is None
    with pytest.raises(CliError, match=r"keeps its state in store\.db") as caught:
        setting("postgresql://me@localhost/cloud", config)
    assert caught.value.exit_code == USAGE


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(CliError, match="password") as caught:
        setting("postgresql://me:secret@localhost/cloud", None)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="does its server run"):
        setting(f"postgresql://me@/cloud?host={tmp_path}", None)


def test_several_managers_need_a_database(cloud: Cloud) -> None:
    with pytest.raises(CliError, match="several managers need a database"):
        cloud.configure(managers=2)


def test_what_starts_them() -> None:
    assert command("manager", "/s")[-2:] == ["--state-dir", "/s"]
    assert command("manager-1", "/s")[-2:] == ["--number", "1"]
    assert command("agent-1", "/s")[-2:] == ["--host", "1"]


@pytest.mark.postgres
def test_a_cloud_in_a_database(
    cloud: Cloud, postgres_url: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = setting(postgres_url(tmp_path), None)
    config = cloud.configure(store=url, managers=2, hosts=2)
    assert config.manager_roles == ("manager", "manager-1")
    path = cloud.state_dir / "store.db"
    assert exists(path)
    transact(path, put_host)
    assert transact(path, hosts) == ["host-1"]
    assert not path.exists()
    assert setting(url, config) == url

    found = look(config)
    assert found is not None
    assert (found.leader, found.trouble, found.dangers) == ("", "", ("fsync",))
    assert found.schema == LATEST_POSTGRES
    assert doctor.database(config).status == doctor.WARN
    assert not found.alone
    monkeypatch.setattr("gureum.cli.store.look", lambda _: Database("db1, db2", version="16", alone=True))
    assert "synchronous_standby_names" in doctor.database(config).todo

    monkeypatch.setattr(Cloud, "evacuate", lambda self: None)
    monkeypatch.setattr(machine_hosts, "HOST_PATH_MAX", 4096)
    machine_hosts.change(cloud, 1, None)
    assert transact(path, hosts) == []


@pytest.mark.postgres
def test_a_cloud_has_another_login_to_its_database(
    cloud: Cloud, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another way to it, but no other database."""
    url = setting(postgres_server.create_database("login"), None)
    config, path = cloud.configure(store=url), cloud.state_dir / "store.db"
    transact(path, put_host)
    for role in ("gureum_login", "gureum_nobody"):
        postgres_server.query("login", f"CREATE ROLE {role} LOGIN")
    postgres_server.query("login", f"GRANT {USER} TO gureum_login")
    postgres_server.query("login", f"ALTER ROLE gureum_login SET role = {USER}")

    def way(role: str, database: str = "login") -> str:
        return postgres_server.url(database).replace(f"//{USER}@", f"//{role}@")

    with pytest.raises(CliError, match="permission denied"):
        setting(way("gureum_nobody"), config)
    config = cloud.configure(store=setting(way("gureum_login"), config))
    assert "gureum_login@" in config.store
    assert transact(path, hosts) == ["host-1"]
    postgres_server.create_database("empty")
    with pytest.raises(CliError, match=r"database empty at .* is not its store") as caught:
        setting(way("gureum_login", "empty"), config)
    assert caught.value.exit_code == USAGE
    other = Leadership(Address.parse(postgres_server.url("empty")), "another/cloud", "manager")
    asyncio.run(lead_once(other))
    with pytest.raises(CliError, match="is not its store"):
        setting(way("gureum_login", "empty"), config)


async def lead_once(leadership: Leadership) -> None:
    await leadership.acquire()
    await leadership.resign()


@pytest.mark.postgres
async def test_while_a_manager_leads_the_store_is_its_own(
    cloud: Cloud, postgres_url: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gureum.cli.store.LEAD_SECONDS_MAX", 1.0)
    config = cloud.configure(store=setting_of(postgres_url(tmp_path)))
    leader = Leadership(Address.parse(config.store), config.identity, "manager")
    await leader.acquire()
    holding = asyncio.create_task(leader.hold())
    with pytest.raises(StoreError, match="a manager of this cloud runs"):
        await asyncio.to_thread(transact, cloud.state_dir / "store.db", hosts)
    holding.cancel()
    await leader.resign()


def setting_of(url: str) -> str:
    return Address.parse(url).url
