"""What the machine of a manager that was revoked still knows, and how that is changed."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from gureum.cli import store
from gureum.cli.cloud import Cloud
from gureum.cli.config import new_access_key
from gureum.cli.output import USAGE, CliError
from gureum.control.hooks import HOOKS
from gureum.errors import ConfigError, StoreError
from gureum.resources import ManagerMachine
from gureum.san.settings import SanSettings
from gureum.services.fleet.managers import SILENT_SECONDS
from gureum.store.postgres.address import Address
from gureum.store.postgres.glance import glance
from gureum.store.postgres.signs import Signs

ACCESS_KEY = "AWS_ACCESS_KEY_ID"
SECRET = "AWS_SECRET_ACCESS_KEY"


def known(cloud: Cloud, machine: str, answer: Mapping[str, Any]) -> Iterator[str]:
    """In the order in which it has to be changed: who can write to the database can undo the rest.

    ``answer``: RevokeManager's. Raises CliError.
    """
    config = cloud.config()
    if config.store:
        server = Address.parse(config.store).servers[0]
        user = unquote(urlsplit(server).username or "")
        yield (
            f"its login to the database. If {machine} has one of its own: ALTER ROLE ITS_LOGIN NOLOGIN. If "
            "it has not, or if the role that owns the tables can log in, whose password it could change: "
            f"ALTER ROLE \"{user}\" PASSWORD '...' as well, and the new one into the passfile of each "
            "machine with that login. Then end the sessions of each of these: SELECT "
            "pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ITS_LOGIN'"
        )
    yield (
        "root's access key: gureum manager access-key here, then on each other machine with managers "
        "gureum manager access-key --from-environment with what gureum env says here"
    )
    if (san := _san(cloud)).kind == "ceph":
        yield (
            f"the storage cluster's key of client.{san.user}, which all hosts have: another key for it in "
            "the cluster, and in the keyring that STATE/san/settings.json names on each machine and host"
        )
    yield "the key of the API's certificate, if it is the same there as elsewhere (--tls-key)"
    if hosts := answer.get("HostsWithSecrets"):
        yield (
            f"the passwords of fence agents, of {', '.join(hosts)}: others at the devices, then gureum host "
            "power HOST with them. With these it switches hosts off"
        )
    if (cloud.state_dir / HOOKS).exists():
        yield f"what your commands in {cloud.state_dir / HOOKS} log in with elsewhere, as ssh keys"
    if hosts := answer.get("HostsWithoutKey"):
        yield (
            f"what the certificates of {', '.join(hosts)} say: they are from before 0.8, were not in use "
            "since, and are refused from now on. Each: gureum host revoke HOST, and let it join again"
        )
    yield (
        "the master key: it opens the keys of encrypted volumes, for who has the database, or a copy, and "
        "the disks. That does not change any more: what must not be read there has to go to a new cloud"
    )
    yield (
        "the authority's key: with it nobody passes for a host or manager that is known here. But let "
        "further machines join only over a network where it is not"
    )
    yield (
        f"tokens that it made until its access key was changed: once more gureum manager revoke {machine}. "
        "Then look at gureum manager list and gureum host list for what joined meanwhile"
    )


def _san(cloud: Cloud) -> SanSettings:
    try:
        return SanSettings.load(cloud.state_dir)
    except ConfigError as error:
        raise CliError(str(error)) from error


def change_access_key(cloud: Cloud, *, from_environment: bool) -> str:
    """Its id. Raises CliError."""
    cloud.config()  # there is one
    made = new_access_key()
    if from_environment:
        made = {
            "access_key_id": os.environ.get(ACCESS_KEY, ""),
            "secret_access_key": os.environ.get(SECRET, ""),
        }
        if not all(made.values()):
            raise CliError(
                f"{ACCESS_KEY} and {SECRET} are not both set",
                "as `gureum env` says where the key was changed first",
                exit_code=USAGE,
            )
    return cloud.configure(**made).access_key_id


def remains(cloud: Cloud, *, first: bool) -> Iterator[str]:
    """What the access key of this machine, which was just changed, is not yet: each machine has its own, and
    answers by that while it leads. ``first``: it was made here. Raises CliError.
    """
    config = cloud.config()
    if not (config.store and config.agents):
        return
    try:
        machines, heard = asyncio.run(_machines(Address.parse(config.store)))
    except StoreError as error:
        yield f"which other machines have managers is not known: {error}"
        yield "on each of them: gureum manager access-key --from-environment"
        return
    others = [each for each in machines if each.id != config.machine and not each.revoked]
    database = store.look(config)
    endpoint = database.endpoint if database is not None else ""
    leader = next((each.id for each in others if each.endpoint == endpoint), "")
    if not any(map(cloud.leads, config.manager_roles)):
        where = f"{leader} leads now, by the key that is there" if leader else "none does now"
        yield f"it counts while a manager of this machine leads; {where}"
    if others:
        until = "until" if first else "unless"
        yield f"these have another {until} this is done there: gureum manager access-key --from-environment"
    for each in others:
        age = heard.get(each.id)
        if each.id == leader:
            how = "leads"  # which says no signs
        elif age is not None and age < SILENT_SECONDS:
            how = "stands by"
        else:
            how = "silent: it brings its old key back when it leads, if it was not done there"
        yield f"  {each.id}: {how}"


async def _machines(address: Address) -> tuple[list[ManagerMachine], dict[str, float]]:
    """All, and how long ago those that stand by were heard. Raises StoreError."""
    signs = Signs(address)
    try:
        return await glance(address, ManagerMachine), {each.machine: each.age for each in await signs.heard()}
    finally:
        await signs.close()
