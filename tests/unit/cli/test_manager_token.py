from __future__ import annotations

from typing import Any

import pytest

from gureum.cli import api, manager_token
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.transport import authority, tls, token


@pytest.fixture
def fingerprint(cloud: Cloud) -> str:
    """Of the authority that this machine has."""
    cloud.configure()
    authority.ensure(cloud.state_dir / "authority", "c", Env().now())
    return tls.fingerprint((cloud.state_dir / "authority" / tls.AUTHORITY).read_bytes())


def test_it_is_sealed_where_the_master_key_is(
    cloud: Cloud, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyStore.open(Env(), cloud.state_dir / "keys")
    asked: dict[str, Any] = {}

    def call(*_: Any, **parameters: Any) -> dict[str, Any]:
        asked.update(parameters)
        return {"Fingerprint": fingerprint, "Url": "https://192.0.2.1:4567"}

    monkeypatch.setattr(api, "call", call)
    made = manager_token.make(cloud, 60)
    told, secret = token.read(made["Token"])
    assert (told, asked["TokenId"]) == (fingerprint, token.identify(secret))
    assert asked["Seal"] == token.manager_seal(keys.sign, asked["TokenId"], asked["Expires"])
    assert made["Expires"].timestamp() == asked["Expires"]
    assert secret.hex() not in str(asked)


def test_who_answers_does_not_say_whom_the_next_machine_joins(
    cloud: Cloud, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"Fingerprint": "ab" * 32, "Url": "https://192.0.2.1:4567"}
    monkeypatch.setattr(api, "call", lambda *_, **__: answer)
    with pytest.raises(CliError, match="another authority"):
        manager_token.make(cloud, 60)
    (cloud.state_dir / "authority" / tls.AUTHORITY).unlink()
    with pytest.raises(CliError, match="cannot be read"):
        manager_token.make(cloud, 60)


def test_without_it_there_is_none(cloud: Cloud) -> None:
    with pytest.raises(CliError, match="there is no cloud"):
        manager_token.make(cloud, 60)
    cloud.configure()
    (cloud.state_dir / "keys").mkdir()
    (cloud.state_dir / "keys/master").write_bytes(b"short")
    with pytest.raises(CliError, match="is damaged") as caught:
        manager_token.make(cloud, 60)
    assert "as root" in caught.value.next_step
