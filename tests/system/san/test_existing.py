"""What is said of a cluster that was there before a cloud wants its disks in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gureum.san.ceph.existing import Problem, check, find_keyring
from gureum.san.settings import SanSettings

from .ceph_cluster import CephCluster, until

pytestmark = [pytest.mark.root, pytest.mark.ceph]


@pytest.fixture
def outside(ceph: CephCluster, tmp_path: Path) -> Iterator[SanSettings]:
    """The cluster's configuration as its administrator hands it out, for a user of the test's own."""
    conf = tmp_path / "prod.conf"
    lines = ceph.conf.read_text().splitlines()
    conf.write_text("".join(f"{line}\n" for line in lines if not line.startswith("keyring")))
    grant(ceph, tmp_path, osd="profile rbd pool=gureum", mgr="profile rbd pool=gureum")
    yield SanSettings("ceph", conf, find_keyring(conf, "guest"), "guest", "gureum")
    ceph.admin("auth rm", entity="client.guest")


def grant(ceph: CephCluster, directory: Path, mon: str = "profile rbd", **rights: str) -> None:
    """The rights of client.guest from now on, and its keyring in the directory."""
    caps = [word for pair in {"mon": mon, **rights}.items() for word in pair]
    entity = "client.guest"
    exists = any(each["entity"] == entity for each in ceph.admin("auth ls")["auth_dump"])
    ceph.admin("auth caps" if exists else "auth get-or-create", entity=entity, caps=caps)
    key = ceph.admin("auth get", entity=entity)[0]["key"]
    (directory / "prod.client.guest.keyring").write_text(f"[{entity}]\n\tkey = {key}\n")


def fatal(problems: list[Problem]) -> Problem:
    assert problems
    assert problems[0].is_fatal, problems
    return problems[0]


def test_a_good_one(outside: SanSettings, ceph: CephCluster) -> None:
    assert check(outside) == []
    assert ceph.rbd("ls", "--format", "json").startswith("[")


def test_a_key_that_is_not_its(outside: SanSettings, ceph: CephCluster) -> None:
    assert outside.keyring is not None
    other = ceph.cluster.keyring("admin").read_text().replace("client.admin", "client.guest")
    outside.keyring.write_text(other)
    found = fatal(check(outside))
    assert "does not let client.guest in" in found.text
    assert str(outside.keyring) in found.todo


def test_a_configuration_that_ceph_does_not_understand(outside: SanSettings) -> None:
    assert outside.conf is not None
    outside.conf.write_text(outside.conf.read_text().rstrip("\n"))
    found = fatal(check(outside))
    assert f"Ceph does not understand {outside.conf}" in found.text


def test_monitors_that_do_not_answer(outside: SanSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gureum.san.ceph.existing.TIMEOUT_S", 2.0)
    assert outside.conf is not None
    outside.conf.write_text("[global]\nmon_host = v2:127.0.0.1:9\n")
    found = fatal(check(outside))
    assert "none of the monitors v2:127.0.0.1:9 answers" in found.text


def test_no_such_pool(outside: SanSettings) -> None:
    found = fatal(check(replace(outside, pool="elsewhere")))
    assert "no pool 'elsewhere'" in found.text
    assert "rbd pool init elsewhere" in found.todo


@contextlib.contextmanager
def pool(ceph: CephCluster, name: str) -> Iterator[None]:
    ceph.admin("osd pool create", pool=name, pg_num=1, size=3)
    try:
        yield
    finally:
        ceph.admin("config set", who="mon", name="mon_allow_pool_delete", value="true")
        ceph.admin("osd pool rm", pool=name, pool2=name, yes_i_really_really_mean_it=True)
        ceph.admin("config rm", who="mon", name="mon_allow_pool_delete")


def test_a_pool_for_something_else(outside: SanSettings, ceph: CephCluster) -> None:
    with pool(ceph, "files"):
        assert "not for RBD" in fatal(check(replace(outside, pool="files"))).text


def test_a_further_pool_is_looked_at_as_the_first(
    outside: SanSettings, ceph: CephCluster, tmp_path: Path
) -> None:
    both = replace(outside, further=("bulk",))
    assert "another in --volume-types" in fatal(check(both)).todo
    with pool(ceph, "bulk"):
        assert "the pool 'bulk' is not for RBD" in fatal(check(both)).text
        ceph.admin("osd pool application enable", pool="bulk", app="rbd")
        found = fatal(check(both))
        assert "client.guest cannot create an image in pool 'bulk'" in found.text
        profiles = "profile rbd pool=gureum, profile rbd pool=bulk"
        assert f"osd '{profiles}'" in found.todo
        grant(ceph, tmp_path, osd=profiles, mgr=profiles)
        assert [each.text for each in check(both) if each.is_fatal] == []


def test_a_user_that_may_only_read(outside: SanSettings, ceph: CephCluster, tmp_path: Path) -> None:
    grant(ceph, tmp_path, osd="profile rbd-read-only pool=gureum")
    found = fatal(check(outside))
    assert "client.guest cannot create an image in pool 'gureum'" in found.text
    assert "ceph auth caps client.guest mon 'profile rbd'" in found.todo


def test_a_user_that_may_not_fence(outside: SanSettings, ceph: CephCluster, tmp_path: Path) -> None:
    grant(ceph, tmp_path, mon="allow r", osd="profile rbd pool=gureum")
    problems = check(outside)
    assert ["osd blocklist" in problem.text for problem in problems] == [True]
    assert not problems[0].is_fatal


def test_what_it_says_of_itself_is_passed_on(outside: SanSettings, ceph: CephCluster) -> None:
    ceph.kill("osd.2")
    until(lambda: "OSD_DOWN" in ceph.admin("health")["checks"])
    texts = [problem.text for problem in check(outside)]
    assert any("osd.2 is down" in text for text in texts), texts
