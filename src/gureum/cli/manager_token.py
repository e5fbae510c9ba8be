"""Tokens with which other machines get managers: made where the master key is, by who may read it."""

from datetime import UTC, datetime
from typing import Any

from gureum.cli import api
from gureum.cli.cloud import Cloud
from gureum.cli.config import AUTHORITY_DIRECTORY
from gureum.cli.output import CliError
from gureum.control import keys
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.transport import tls, token


def make(cloud: Cloud, ttl: int) -> dict[str, Any]:
    """Raises CliError."""
    cloud.config()  # there is one
    env = Env()
    secret, expires = env.secret(token.SECRET_BYTES), int(env.now()) + ttl
    id = token.identify(secret)
    try:
        seal = token.manager_seal(keys.KeyStore.open(env, cloud.state_dir / keys.DIRECTORY).sign, id, expires)
    except ConfigError as error:
        raise CliError(str(error), "as root, on a machine with managers") from error
    answer = api.call(cloud, "fleet", "create_manager_token", TokenId=id, Expires=expires, Seal=seal)
    authority = cloud.state_dir / AUTHORITY_DIRECTORY / tls.AUTHORITY
    try:
        fingerprint = tls.fingerprint(authority.read_bytes())
    except OSError as error:
        raise CliError(f"{authority} cannot be read: {error.strerror}", "as root") from error
    if answer["Fingerprint"] != fingerprint:
        # The machine that joins would believe that one.
        raise CliError(
            f"the manager that answered has another authority than this machine ({authority})",
            "look who leads, on its own machine: gureum manager list",
        )
    return {
        "Token": token.write(fingerprint, secret),
        "Expires": datetime.fromtimestamp(expires, UTC),
        "Url": answer["Url"],
    }
