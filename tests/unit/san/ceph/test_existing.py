import json
from dataclasses import replace
from pathlib import Path

import pytest

from gureum.errors import ConfigError
from gureum.san.ceph import existing
from gureum.san.ceph.commands import Answer
from gureum.san.ceph.existing import find_keyring, read_conf
from gureum.san.ceph.trial import Failure
from gureum.san.settings import SanSettings

CONF = """
# of the storage team
[global]
    fsid = 1
    mon host = 192.0.2.1, 192.0.2.2  ; both
[client]
    keyring = /nowhere/$cluster.$name.keyring
[client.guest]
    keyring = "{directory}/${{id}}.key"
[osd]
    keyring = /of/daemons
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(existing, "SYSTEM_DIRECTORY", tmp_path / "etc")
    path = tmp_path / "prod.conf"
    path.write_text(CONF.format(directory=tmp_path))
    return path


def test_the_most_specific_section_counts(conf: Path) -> None:
    assert read_conf(conf, "guest")["mon_host"] == "192.0.2.1, 192.0.2.2"
    assert read_conf(conf, "guest")["keyring"].endswith("/${id}.key")
    assert read_conf(conf, "other")["keyring"] == "/nowhere/$cluster.$name.keyring"


def test_the_keyring_that_the_configuration_names(conf: Path) -> None:
    named = conf.parent / "guest.key"
    named.write_text("[client.guest]\nkey = abc==\n")
    assert find_keyring(conf, "guest") == named


@pytest.mark.parametrize("place", ["prod.client.other.keyring", "keyring", "etc/prod.keyring"])
def test_else_it_is_beside_it_or_in_the_system_s_directory(conf: Path, place: str) -> None:
    path = conf.parent / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("[client.other]\nkey = abc==\n")
    assert find_keyring(conf, "other") == path


def test_no_key_says_where_it_was_looked_for(conf: Path) -> None:
    (conf.parent / "keyring").write_text("[client.someone]\nkey = abc==\n")
    with pytest.raises(ConfigError, match=r"no key of client\.guest .*guest\.key.*etc/keyring"):
        find_keyring(conf, "guest")


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_conf(tmp_path / "none.conf", "guest")
    (tmp_path / "empty.conf").write_text("[global]\n")
    with pytest.raises(ConfigError, match="there is no mon_host in it"):
        read_conf(tmp_path / "empty.conf", "guest")


def test_each_pool_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads((Path(__file__).parent / "recorded.json").read_text())["well"]
    status, health, _df, dump, versions, *_ = recorded
    files = {**dump["pools"][0], "pool_name": "files", "application_metadata": {"cephfs": {}}}
    bulk = {**dump["pools"][0], "pool_name": "bulk"}
    documents = versions, status, health, {**dump, "pools": [*dump["pools"], files, bulk]}
    answers = [Answer(0, json.dumps(each), "") for each in documents]
    monkeypatch.setattr(existing, "ask", lambda *_: answers)
    tried: list[str] = []

    def trial(_access: object, pool: str) -> Failure | None:
        tried.append(pool)
        return Failure("create an image", "no right") if pool == "bulk" else None

    monkeypatch.setattr(existing, "run_trial", trial)
    san = SanSettings("ceph", Path("c"), Path("k"), "me", further=("files", "none"))
    assert [each.text for each in existing.check(san) if each.is_fatal] == [
        "the pool 'files' is not for RBD",
        "the cluster has no pool 'none'",
    ]
    assert tried == []
    [problem] = [each for each in existing.check(replace(san, further=("bulk",))) if each.is_fatal]
    assert (tried, problem.text) == (
        ["gureum", "bulk"],
        "client.me cannot create an image in pool 'bulk': no right",
    )
    assert "osd 'profile rbd pool=gureum, profile rbd pool=bulk'" in problem.todo
