"""What all machines with managers have of a cloud, besides its store: given to one when it joins.

    config.json         name, account, root credentials, region; ports and addresses are each machine's own
    authority/ca.*      who may be a host, and a manager
    keys/master         opens the keys of encrypted volumes, which are in the store
    san/                how to reach the storage cluster

None of it is in the store, so who reads that, or a backup of it, has none of these.
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec.structs import replace

from gureum.cli.config import AUTHORITY_DIRECTORY, CloudConfig
from gureum.control import keys as key_files
from gureum.control.keys import KeyStore
from gureum.control.storage import keep as keep_storage
from gureum.control.storage import storage
from gureum.errors import ConfigError, TransportError
from gureum.files import make_directories, write_atomically
from gureum.resources import ManagerMachine
from gureum.san.settings import SanSettings
from gureum.store.base import Transaction
from gureum.transport.messages import ManagerJoined
from gureum.transport.tls import AUTHORITY, AUTHORITY_KEY, Address
from gureum.transport.token import api_seal

CONFIG = (
    *("name", "account_id", "access_key_id", "secret_access_key", "region"),
    *("public_cidr", "encrypted", "ipv6_prefix", "store"),
)
"""Fields and properties of CloudConfig."""
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def share(state_dir: Path, config: CloudConfig) -> ManagerJoined:
    """Raises TransportError."""
    san = SanSettings.load(state_dir)
    directory = state_dir / AUTHORITY_DIRECTORY
    try:
        return ManagerJoined(
            config={name: getattr(config, name) for name in CONFIG},
            authority=(directory / AUTHORITY).read_bytes(),
            authority_key=(directory / AUTHORITY_KEY).read_bytes(),
            master_key=(state_dir / key_files.DIRECTORY / key_files.MASTER).read_bytes(),
            storage=storage(state_dir, san),
            types=dict(san.types),
        )
    except OSError as error:
        raise TransportError(f"{error.filename} cannot be read: {error.strerror}") from error


def keep(state_dir: Path, given: ManagerJoined) -> None:
    """On the machine that joins, but for the configuration. Raises OSError."""
    for name, files in (
        (AUTHORITY_DIRECTORY, {AUTHORITY_KEY: given.authority_key, AUTHORITY: given.authority}),
        (key_files.DIRECTORY, {key_files.MASTER: given.master_key}),
    ):
        directory = state_dir / name
        make_directories(directory, 0o700)
        directory.chmod(0o700)
        for file, data in files.items():
            write_atomically(directory / file, data)
    if given.storage is not None:
        keep_storage(state_dir, given.storage, given.types)


def certificate(config: CloudConfig) -> str:
    """What the API answers with, and nothing else of its file, which may hold its key and those that have
    signed it; "" without TLS. Raises ConfigError.
    """
    if not config.tls_cert:
        return ""
    try:
        found = CERTIFICATE.search(Path(config.tls_cert).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config.tls_cert} cannot be read: {error}") from error
    if found is None:
        raise ConfigError(f"{config.tls_cert} has no certificate in it")
    return f"{found[0]}\n"


async def enter(
    tx: Transaction, config: CloudConfig, keys: KeyStore, key: str = "", certificate: str = ""
) -> None:
    """This machine among those with managers, with the addresses that it has now. ``key``, ``certificate``:
    as in ManagerMachine.
    """
    endpoint = config.far_endpoint
    before = await tx.get(ManagerMachine, config.machine)
    now = replace(
        before or ManagerMachine(id=config.machine, account=config.account_id, agents="", endpoint=""),
        agents=str(Address.parse(config.agents_url)),
        endpoint=endpoint,
        key=key,
        certificate=certificate,
        seal=api_seal(keys.sign, config.machine, endpoint, certificate),
    )
    if now != before:
        await tx.put(now)
