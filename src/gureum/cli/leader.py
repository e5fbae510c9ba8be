"""Of several managers the one that leads, as the command line of any machine reaches it."""

import asyncio
import hmac
from typing import NamedTuple

from gureum.cli import store
from gureum.cli.cloud import Cloud
from gureum.cli.config import CloudConfig
from gureum.errors import ConfigError, StoreError
from gureum.files import write_atomically

CERTIFICATE = "leader.pem"
"""In the run directory: what the API of another machine is verified with."""


class Api(NamedTuple):
    """``trusted``: the file with the certificates that are believed there; None for those of the system."""

    url: str
    trusted: str | None


def api(cloud: Cloud, config: CloudConfig) -> Api:
    """Another machine's, if the manager of that leads."""
    own = Api(config.endpoint, config.tls_cert)
    if not (config.agents and config.store) or any(map(cloud.leads, config.manager_roles)):
        return own
    database = store.look(config)
    if database is None or not database.endpoint:
        return own
    told = _certificate(cloud, config, database.endpoint)
    if not told:  # of a gureum before 0.8, or it has only just begun to lead
        return Api(database.endpoint, config.tls_cert)
    file = cloud.run_dir / CERTIFICATE
    if not file.exists() or file.read_text() != told:
        write_atomically(file, told.encode(), durable=False)
    return Api(database.endpoint, str(file))


def _certificate(cloud: Cloud, config: CloudConfig, endpoint: str) -> str:
    """As the machine that leads has entered it in the store; "" if it has not. Only if it has the master key,
    too, which who writes to the database need not have.
    """
    # The driver takes a few megabytes.
    from gureum.control import keys
    from gureum.env import Env
    from gureum.resources import ManagerMachine
    from gureum.store.postgres.address import Address
    from gureum.store.postgres.glance import glance
    from gureum.transport.token import api_seal

    try:
        machines = asyncio.run(glance(Address.parse(config.store), ManagerMachine))
        sign = keys.KeyStore.open(Env(), cloud.state_dir / keys.DIRECTORY).sign
    except (StoreError, ConfigError):
        return ""
    for machine in machines:
        if machine.endpoint == endpoint and machine.certificate and not machine.revoked:
            seal = api_seal(sign, machine.id, endpoint, machine.certificate)
            if hmac.compare_digest(seal.encode(), machine.seal.encode()):
                return machine.certificate
    return ""
