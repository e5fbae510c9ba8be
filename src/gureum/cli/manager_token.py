"""Tokens with which other machines get managers: made where the master key is, by who may read it."""

from datetime import UTC, datetime
from typing import Any

from gureum.cli import api
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.control import keys
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.transport import token


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
    return {
        "Token": token.write(answer["Fingerprint"], secret),
        "Expires": datetime.fromtimestamp(expires, UTC),
        "Url": answer["Url"],
    }
