"""Who counts as whose, of the clients that have a shared volume open. The bindings are stood in for."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PACKAGE = "gureum.san.ceph.rbdworker"
OBJECT = "rbd_header.1"


class Bindings(ModuleType):
    """Errors are classes, all else is a number."""

    def __getattr__(self, name: str) -> Any:
        return 0 if name.isupper() else type(name, (Exception,), {})


class Shared:
    """A volume's header, and the session of host h1 with it."""

    def __init__(self) -> None:
        self.attributes: dict[str, bytes] = {}
        self.watchers: list[str] = []
        self.opener = ""
        self.sharers = ["c/h1", "c/h2", "c/h3"]
        self.receiver = ""
        self.opened = {"c/h3": 5}
        self.changes = 0
        """How often it is another than it was when somebody looked, before something is taken away."""
        self.io = SimpleNamespace(
            get_xattrs=lambda object: iter(self.attributes.items()),
            set_xattr=lambda object, name, value: self.attributes.update({name: value}),
            rm_xattr=lambda object, name: self.attributes.pop(name, None),
        )
        image = SimpleNamespace(
            id=lambda: "1", watchers_list=lambda: [{"addr": address} for address in self.watchers]
        )
        self.fenced: list[str] = []
        self.session = SimpleNamespace(
            cloud="c",
            host="h1",
            io=self.io,
            opening={},
            cluster=SimpleNamespace(get_addrs=lambda: "worker"),
            image=lambda id, read_only=False: nullcontext(image),
            fence=lambda addresses, seconds: self.fenced.extend(addresses),
        )

    def claim(self, host: str, *addresses: str) -> None:
        self.attributes[f"gureum.open.c/{host}"] = json.dumps(addresses).encode()

    def claimed(self, host: str) -> list[str]:
        return list(json.loads(self.attributes.get(f"gureum.open.c/{host}", b"[]")))


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def worker(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    for name in ("rados", "rbd"):
        monkeypatch.setitem(sys.modules, name, Bindings(name))
    locks = importlib.import_module(f"{PACKAGE}.locks")

    def end_opening(session: Any, object: str, host: str = "") -> None:
        shared.opener = ""

    def holder(session: Any, object: str, name: str) -> Any:
        return SimpleNamespace(cookie=shared.opener) if shared.opener else None

    def lockers(session: Any, object: str) -> Any:
        return SimpleNamespace(all=[SimpleNamespace(cookie=each) for each in shared.sharers], shared=True)

    def seen(session: Any, object: str, *names: str) -> Any:
        return locks.Seen(1, {name: locks.Lockers([], False) for name in names})

    def take_away(session: Any, object: str, found: Any, cookie: str, attributes: Any) -> bool:
        if shared.changes:
            shared.changes -= 1
            shared.opened["c/h3"] += 1
            return False
        for name in attributes:
            shared.attributes.pop(name)
        if cookie in shared.sharers:
            shared.sharers.remove(cookie)
        return True

    def opened(session: Any, object: str, host: str) -> Any:
        return locks.Opened(shared.opened.get(host, 0))

    for stub in (end_opening, holder, lockers, seen, take_away, opened):
        monkeypatch.setattr(locks, stub.__name__, stub)
    yield SimpleNamespace(
        locks=locks,
        sharing=importlib.import_module(f"{PACKAGE}.sharing"),
        volumes=importlib.import_module(f"{PACKAGE}.volumes"),
        Refused=importlib.import_module(f"{PACKAGE}.session").Refused,
    )
    package = sys.modules[PACKAGE]
    for name in set(sys.modules) - before:
        if name.startswith(f"{PACKAGE}."):
            del sys.modules[name]
            delattr(package, name.rpartition(".")[2])


def test_what_still_has_it_open_is_not_forgotten(shared: Shared, worker: Any) -> None:
    """However often the host opened and closed it besides."""
    most = worker.sharing.CLIENTS_MAX
    shared.claim("h1", "open", *(f"closed-{number}" for number in range(most - 1)))
    shared.watchers = ["open", "new"]
    shared.opener = "c/h1"
    worker.sharing.note_opened(shared.session, "vol-1")
    assert {"open", "new"} < set(shared.claimed("h1"))
    assert len(shared.claimed("h1")) == most


def test_what_could_not_be_written_down_is_known_the_next_time(shared: Shared, worker: Any) -> None:
    shared.watchers = ["somebody", "new"]
    shared.session.opening["vol-1"] = {"somebody"}
    shared.opener = "c/h1"
    right = shared.io.set_xattr

    def fail(object: str, name: str, value: bytes) -> None:
        raise TimeoutError

    shared.io.set_xattr = fail
    with pytest.raises(TimeoutError):
        worker.sharing.note_opened(shared.session, "vol-1")
    shared.io.set_xattr = right
    worker.sharing.note_opened(shared.session, "vol-1")
    assert shared.claimed("h1") == ["new"]


def test_a_new_process_claims_nothing_while_another_host_opens_it(shared: Shared, worker: Any) -> None:
    shared.watchers = ["of h2"]
    shared.opener = "c/h2"
    with pytest.raises(worker.Refused, match="being opened by c/h2"):
        worker.sharing.note_opened(shared.session, "vol-1")
    assert (shared.claimed("h1"), shared.opener) == ([], "c/h2")
    shared.opener = ""
    worker.sharing.note_opened(shared.session, "vol-1")
    assert shared.claimed("h1") == ["of h2"]


def test_who_shuts_a_lost_host_out_does_not_shut_out_itself(shared: Shared, worker: Any) -> None:
    """Its machine has opened the volume, and that is not written down yet."""
    shared.watchers = ["of h1", "of h2", "of h3"]
    shared.claim("h2", "of h2")
    shared.claim("h3", "of h3")
    shared.session.opening["vol-1"] = {"of h2", "of h3"}
    shared.opener = "c/h1"
    assert worker.volumes.evict(shared.session, "vol-1", "c/h3")
    assert shared.fenced == ["of h3"]
    assert shared.claimed("h1") == ["of h1"]
    assert shared.sharers == ["c/h1", "c/h2"]


def test_who_has_opened_it_anew_keeps_it(shared: Shared, worker: Any) -> None:
    shared.watchers = ["of h3"]
    assert not worker.volumes.evict(shared.session, "vol-1", "c/h3", 4)
    assert (shared.fenced, shared.sharers) == ([], ["c/h1", "c/h2", "c/h3"])
    assert worker.volumes.evict(shared.session, "vol-1", "c/h3", 5)
    assert (shared.fenced, shared.sharers) == (["of h3"], ["c/h1", "c/h2"])


def test_who_opens_it_anew_meanwhile_keeps_it(shared: Shared, worker: Any) -> None:
    """Its host was looked at before, and who does it hung."""
    shared.changes = 1
    assert not worker.volumes.evict(shared.session, "vol-1", "c/h3", 5)
    assert shared.sharers == ["c/h1", "c/h2", "c/h3"]
    shared.changes = 1
    assert worker.volumes.evict(shared.session, "vol-1", "c/h3"), "whatever it has"
    shared.changes, shared.sharers = 100, ["c/h3"]
    with pytest.raises(worker.Refused, match="changed by others all the time"):
        worker.volumes.evict(shared.session, "vol-1", "c/h3")


@pytest.mark.parametrize("claims", [{"h2": "of h2", "h3": "of h3"}, {"h2": "of h2"}])
def test_who_received_it_is_shut_out_also_when_its_lock_has_expired(
    shared: Shared, worker: Any, monkeypatch: pytest.MonkeyPatch, claims: dict[str, str]
) -> None:
    """h2 has the attach lock yet; its machine went to h3, which is lost."""
    lockers = SimpleNamespace(all=[SimpleNamespace(cookie="c/h2")], shared=False)
    monkeypatch.setattr(worker.locks, "lockers", lambda session, object: lockers)
    monkeypatch.setattr(worker.volumes, "_lock_owners", lambda image: set())
    shared.watchers = ["of h2", "of h3"]
    for host, address in claims.items():
        shared.claim(host, address)
    assert worker.volumes.evict(shared.session, "vol-1", "c/h3")
    assert shared.fenced == ["of h3"]
    assert shared.claimed("h2") == ["of h2"]


def test_who_has_nothing_of_it_is_not_evicted(
    shared: Shared, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockers = SimpleNamespace(all=[SimpleNamespace(cookie="c/h2")], shared=False)
    monkeypatch.setattr(worker.locks, "lockers", lambda session, object: lockers)
    shared.watchers = ["of h2"]
    assert not worker.volumes.evict(shared.session, "vol-1", "c/h3")
    assert shared.fenced == []
