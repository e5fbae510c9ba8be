"""Of several managers the one that leads, as the command line of any machine reaches it."""

import asyncio
import hmac
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from gureum.cli import store
from gureum.cli.cloud import Cloud
from gureum.cli.config import LOOPBACK, CloudConfig
from gureum.cli.output import CliError
from gureum.errors import ConfigError, StoreError
from gureum.files import write_atomically
from gureum.resources import ManagerMachine

CERTIFICATE = "leader.pem"
"""In the run directory: what the API of another machine is verified with."""
SECONDS_MAX = 3.0
"""One that has only just begun to lead enters itself after its epoch has begun."""
LOOK_SECONDS = 0.3
SEALED_SCHEMA = 3
"""Of the database, from when on who leads seals what it enters."""


class Api(NamedTuple):
    """``trusted``: the file with the certificates that are believed there; None for those of the system."""

    url: str
    trusted: str | None


def api(cloud: Cloud, config: CloudConfig) -> Api:
    """Another machine's, if the manager of that leads. Raises CliError if only the database says which that
    is: who can write to it is not the cloud yet.
    """
    own = Api(config.endpoint, config.tls_cert)
    if not (config.agents and config.store) or any(map(cloud.leads, config.manager_roles)):
        return own
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        database = store.look(config)
        if database is None or database.endpoint in ("", config.endpoint, config.far_endpoint):
            return own
        if 0 < database.schema < SEALED_SCHEMA:
            return _unsealed(config, database)
        name, why = database.leader, "its seal there is not this cloud's"
        try:
            machines = _entered(config, database.endpoint)
            name = next((each.id for each in machines), name)
            if (sealed := _sealed(cloud, machines)) is not None:
                return _trusting(cloud, sealed)
        except StoreError as error:
            why = str(error)
        if time.monotonic() >= deadline:
            raise _refused(database.endpoint, name, why)
        time.sleep(LOOK_SECONDS)


def _unsealed(config: CloudConfig, database: store.Database) -> Api:
    """Where a gureum before 0.8 leads, this machine's own file says whom to believe. Raises CliError."""
    if not (config.tls_cert and database.endpoint.startswith("https://")):
        raise _refused(database.endpoint, database.leader, "a gureum before 0.8 leads, which seals nothing")
    return Api(database.endpoint, config.tls_cert)


def _entered(config: CloudConfig, endpoint: str) -> list[ManagerMachine]:
    """The machines of which the store says that they answer there. Raises StoreError."""
    # The driver takes a few megabytes.
    from gureum.store.postgres.address import Address
    from gureum.store.postgres.glance import glance

    machines = asyncio.run(glance(Address.parse(config.store), ManagerMachine))
    return [each for each in machines if each.endpoint == endpoint and not each.revoked]


def _sealed(cloud: Cloud, machines: list[ManagerMachine]) -> ManagerMachine | None:
    """The one of which that was entered by who has the master key, too. Raises CliError without that here."""
    from gureum.control import keys
    from gureum.env import Env
    from gureum.transport.token import api_seal

    try:
        sign = keys.KeyStore.open(Env(), cloud.state_dir / keys.DIRECTORY).sign
    except ConfigError as error:
        raise CliError(f"another machine leads, and that it does is sealed: {error}", "as root") from error
    for each in machines:
        seal = api_seal(sign, each.id, each.endpoint, each.certificate)
        if hmac.compare_digest(seal.encode(), each.seal.encode()):
            return each
    return None


def _trusting(cloud: Cloud, machine: ManagerMachine) -> Api:
    """Raises CliError if nothing proves that who answers there is that machine."""
    url = urlsplit(machine.endpoint)
    if url.scheme != "https":
        if url.hostname not in LOOPBACK:
            raise _refused(machine.endpoint, machine.id, "its API has no TLS (gureum up --tls-cert there)")
        return Api(machine.endpoint, None)
    if not machine.certificate:
        raise _refused(machine.endpoint, machine.id, "it has entered no certificate")
    file = cloud.run_dir / CERTIFICATE
    if not file.exists() or file.read_text() != machine.certificate:
        write_atomically(file, machine.certificate.encode(), durable=False)
    return Api(machine.endpoint, str(file))


def _refused(endpoint: str, name: str, why: str) -> CliError:
    return CliError(
        f"the database says that {name} leads, with its API at {endpoint}, but nothing proves it: {why}",
        f"run it on the machine that leads, {name}; if another leads, somebody has changed the database",
    )
