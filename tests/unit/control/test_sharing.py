"""What machines with managers have in common."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.cli.config import AUTHORITY_DIRECTORY, CloudConfig
from gureum.control import sharing
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ConfigError, TransportError
from gureum.resources import ManagerMachine
from gureum.san.settings import SanSettings
from gureum.store.sqlite import SqliteStore
from gureum.transport import authority, token

CONFIG = CloudConfig(
    name="c-0",
    index=3,
    account_id="1" * 12,
    access_key_id="a",
    secret_access_key="s",
    agents="0.0.0.0:4567",
    agents_url="https://192.0.2.1:4567",
    host="0.0.0.0",
    tls_cert="/cert",
    store="postgresql://me@/db?host=/run",
)

KEYS = KeyStore(b"k" * 32)


def test_another_machine_can_be_the_cloud(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "my.conf").write_text("[global]\nmon_host = 192.0.2.1\n")
    (here / "my.keyring").write_text("[client.x]\nkey = secret\n")
    types = (("st1", "bulk"),)
    SanSettings("ceph", here / "my.conf", here / "my.keyring", "x", "disks", types, ("bulk",)).save(here)
    authority.ensure(here / AUTHORITY_DIRECTORY, CONFIG.name, time.time())
    with pytest.raises(TransportError, match="keys/master cannot be read"):
        sharing.share(here, CONFIG)
    keys = KeyStore.open(Env(), here / "keys")
    given = sharing.share(here, CONFIG)
    assert given.config["public_cidr"] == "198.18.12.0/22"
    assert "host" not in given.config
    sharing.keep(there, given)
    assert KeyStore.open(Env(), there / "keys").sign(b"x") == keys.sign(b"x")
    for file in ("keys/master", "authority/ca.key", "authority/ca.pem"):
        assert (there / file).read_bytes() == (here / file).read_bytes()
        assert stat.S_IMODE((there / file).stat().st_mode) == 0o600
        assert stat.S_IMODE((there / file).parent.stat().st_mode) == 0o700
    authority.ensure(there / AUTHORITY_DIRECTORY, CONFIG.name, time.time())
    assert (there / "authority/manager.key").read_bytes() != (here / "authority/manager.key").read_bytes()
    san = SanSettings.load(there)
    assert (san.pools, san.types) == (("disks", "bulk"), types)


async def test_a_machine_enters_itself_with_the_addresses_of_today() -> None:
    store = SqliteStore.open(":memory:", threaded=False)
    for address in ("192.0.2.1", "192.0.2.9"):
        config = replace(CONFIG, agents_url=f"https://{address}:4567")
        for _ in range(2):
            await store.transact(
                lambda tx, config=config: sharing.enter(tx, config, KEYS, "ab", "certificate")
            )
        async with store.read() as reader:
            (machine,) = await reader.find(ManagerMachine)
        assert machine.id == "first"
        assert machine.agents == f"{address}:4567"
        assert machine.endpoint == f"https://{address}:4566"
        assert (machine.key, machine.certificate) == ("ab", "certificate")
        assert machine.seal == token.api_seal(KEYS.sign, "first", machine.endpoint, "certificate")
    assert store.revision == 2
    # Without TLS the endpoint is sealed all the same.
    await store.transact(lambda tx: sharing.enter(tx, config, KEYS, "ab"))
    async with store.read() as reader:
        (machine,) = await reader.find(ManagerMachine)
    assert machine.certificate == ""
    assert machine.seal == token.api_seal(KEYS.sign, "first", machine.endpoint, "")
    await store.close()


def test_of_the_apis_files_nothing_but_its_certificate_is_told(tmp_path: Path) -> None:
    own, signer = (f"-----BEGIN CERTIFICATE-----\n{each}=\n-----END CERTIFICATE-----\n" for each in "ab")
    secret = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
    file = tmp_path / "api.pem"
    config = replace(CONFIG, tls_cert=str(file))
    for content in (own, own + signer, secret + own + signer, f"Subject: x\n{own}{secret}"):
        file.write_text(content)
        assert sharing.certificate(config) == own
    assert sharing.certificate(replace(CONFIG, tls_cert=None)) == ""
    file.write_text(secret)
    with pytest.raises(ConfigError, match="has no certificate"):
        sharing.certificate(config)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        sharing.certificate(config)
