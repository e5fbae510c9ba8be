"""What the warden does with what it hears: with a lease and guests that only remember what they were told."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gureum.agent.warden import notes
from gureum.agent.warden.custody import Marks


class FakeLease:
    def __init__(self) -> None:
        self.told: deque[Any] = deque()
        self.wanted = True
        self.looked = 0.0
        self.may_break = False
        self.acknowledged: list[int] = []

    def news(self) -> Any:
        return self.told.popleft() if self.told else None

    def acknowledge(self, number: int) -> None:
        self.acknowledged.append(number)

    def hurry(self) -> None:
        pass


class FakeGuests:
    """``whole``: whether all that are there do as they are told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.whole = self.seen = True

    def _did(self, what: str) -> bool:
        if self.done[-1:] != [what]:
            self.done.append(what)
        return self.whole

    def stop(self) -> bool:
        return self._did("stop")

    def kill(self) -> bool:
        return self._did("kill")

    def go_on(self) -> None:
        self._did("go on")

    def look(self) -> bool:
        return self.seen

    def stop_known(self) -> None:
        self._did("stop those known")


class FakeSilence:
    """``whole``: whether the kernel does as it is told."""

    def __init__(self, guests: FakeGuests) -> None:
        self._guests = guests
        self.proxies = False
        self.whole = True
        self.kept = False
        self.heard = 0.0
        self.after: list[str] = []
        """What was done to the guests when it was last kept."""

    def keep(self) -> None:
        if not self.whole:
            raise OSError("no netlink")
        self.kept, self.after = True, list(self._guests.done)

    def lift(self, seconds: float) -> None:
        if not self.whole:
            raise OSError("no netlink")
        self.kept, self.heard = False, seconds

    def leave(self) -> None:
        self.end()

    def end(self) -> None:
        if not self.whole:
            raise OSError("no netlink")
        self.kept = False

    def proxy(self) -> None:
        self.proxies = True


class Bench:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rados = ModuleType("rados")
        for name in ("Error", "ObjectNotFound", "ObjectBusy", "ObjectExists", "ExtendMismatch", "TimedOut"):
            setattr(rados, name, type(name, (Exception,), {}))
        monkeypatch.setitem(sys.modules, "rados", rados)
        from gureum.agent.warden import __main__ as module
        from gureum.agent.warden.lease import Told

        self.Told = Told
        self.module = module
        self.now = 1000.0
        monkeypatch.setattr(notes, "now", lambda: self.now)
        self.directory = str(directory)
        self.said: list[str] = []
        self.agent = notes.Note(self.directory, notes.WORD)
        self.begin()

    def begin(self) -> None:
        self.lease, self.guests = FakeLease(), FakeGuests()
        self.silence = FakeSilence(self.guests)
        log: Any = SimpleNamespace(say=self.said.append)
        lease: Any = self.lease
        guests: Any = self.guests
        silence: Any = self.silence
        self.deputy = self.module.Deputy(guests)
        self.warden = self.module.Warden(lease, guests, silence, self.deputy, self.directory, log)

    def look(self, **told: Any) -> list[str]:
        """What was done to the guests since the last look."""
        if told:
            self.lease.told.append(self.Told(**{"began": self.now, **told}))
        self.guests.done.clear()
        self.pause = self.warden.look()
        return self.guests.done

    def word(self) -> None:
        self.agent.write(sent=self.now)

    @property
    def state(self) -> dict[str, Any]:
        return notes.Note(self.directory, notes.STATE).read()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    before = set(sys.modules)
    yield Bench(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if name.startswith(("gureum.agent.warden.", "gureum.san.ceph.rbdworker")):
            del sys.modules[name]


def test_guests_stop_with_the_permission_and_go_on_with_the_next(bench: Bench) -> None:
    assert bench.look() == ["stop"]
    assert bench.look(renewed=True, marks=Marks()) == ["go on"]
    assert bench.state["until"] == 1004.0
    assert bench.look() == []
    bench.now = 1003.5
    assert bench.look() == []
    assert bench.pause == 0.5
    bench.now = 1004.0
    assert bench.look() == ["stop"]
    assert bench.state["held"]
    assert bench.state["until"] == 0.0
    assert bench.look() == ["stop"]  # what was just being started
    bench.word()
    assert bench.look() == ["go on"]
    assert not bench.state["held"]
    assert [line.partition(": ")[2] for line in bench.said if "storage" in line][-1].startswith(
        "machines may"
    )


def test_a_late_answer_is_no_permission(bench: Bench) -> None:
    assert bench.look(renewed=True, marks=Marks(), began=995.0) == ["stop"]


def test_that_guests_are_held_is_known_before_they_are(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.now = 1010.0
    bench.guests.stop = lambda: bool(bench.state["held"]) or pytest.fail("not noted")  # type: ignore[method-assign]
    bench.look()
    bench.begin()  # it was killed just then
    assert bench.look(renewed=True, marks=Marks()) == ["go on"]


def test_guests_are_ended_before_that_is_said(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.guests.whole = False
    assert bench.look(renewed=True, marks=Marks(fence=5)) == ["kill"]
    assert bench.lease.acknowledged == []
    assert not bench.lease.wanted
    bench.guests.whole = True
    assert bench.look() == ["kill"]
    assert bench.lease.acknowledged == [5]
    assert bench.state["fence"] == 0  # not written down yet
    assert bench.look(marks=Marks(fence=5, killed=5)) == ["kill"]
    assert bench.state["fence"] == 5
    assert bench.lease.acknowledged == [5]
    bench.word()
    assert bench.look() == ["kill"]
    assert bench.look(marks=Marks(5, 5, 5)) == ["go on"]  # by the word
    assert bench.lease.wanted


def test_guests_that_a_deputy_stopped_go_on_under_the_next_warden(bench: Bench) -> None:
    """That one hung, and was ended before it could say so."""
    bench.look(renewed=True, marks=Marks())
    bench.deputy.act()
    bench.begin()
    bench.word()
    assert bench.look(marks=Marks()) == ["go on"]


def test_guests_of_before_an_unseen_fence_never_go_on(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.now = 1100.0
    assert bench.look() == ["stop"]
    assert bench.look(renewed=True, marks=Marks(fence=5, lifted=5)) == ["kill"]
    assert bench.lease.acknowledged == [5]
    assert bench.look(renewed=True, marks=Marks(5, 5, 5)) == ["go on"]


def test_the_lease_of_an_earlier_warden(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.now = 1001.0
    bench.begin()
    assert bench.look(marks=Marks(), foreign="warden/c/h/before") == ["go on"]  # it still counts
    assert not bench.lease.may_break
    bench.now = 1004.0
    assert bench.look(marks=Marks(), foreign="warden/c/h/before") == ["stop"]
    assert bench.look(marks=Marks(), foreign="warden/c/h/before") == ["stop"]
    assert bench.lease.may_break
    assert bench.look(renewed=True, marks=Marks()) == ["go on"]
    assert not bench.lease.may_break


def test_what_is_broken_counts_no_more(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.begin()
    bench.word()
    bench.look(marks=Marks(), foreign="warden/c/h/before")
    assert bench.lease.may_break
    bench.now = 1003.0  # the lease would count until 1004
    assert bench.look() == ["stop"]


def test_a_host_whose_guests_may_not_run_is_silent(bench: Bench) -> None:
    bench.look()
    assert (bench.silence.kept, bench.silence.after) == (True, ["stop"])
    bench.silence.kept = False  # somebody took the filters away
    bench.look()
    assert bench.silence.kept
    bench.look(renewed=True, marks=Marks())
    assert not bench.silence.kept


def test_a_fenced_host_is_silent_before_its_warden_says_that_nothing_runs(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    assert not bench.silence.kept
    silent: list[bool] = []
    bench.lease.acknowledge = lambda number: silent.append(bench.silence.kept)  # type: ignore[method-assign]
    bench.look(renewed=True, marks=Marks(fence=5))
    assert (silent, bench.silence.after) == ([True], ["kill"])
    bench.word()
    bench.look(marks=Marks(5, 5, 5))
    assert not bench.silence.kept


def test_what_an_earlier_warden_left_silent_is_heard_again(bench: Bench) -> None:
    bench.look()
    bench.begin()
    bench.silence.kept = True
    bench.look(renewed=True, marks=Marks())
    assert not bench.silence.kept
    assert not bench.silence.proxies


def test_what_a_warden_of_before_switched_off_is_switched_on(bench: Bench) -> None:
    bench.look()
    notes.Note(bench.directory, notes.STATE).write(**{**bench.state, "proxied": True})
    bench.begin()
    assert bench.silence.proxies


def test_a_host_is_heard_for_as_long_as_its_warden_looks(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.silence.heard = 0.0
    bench.now += bench.pause
    bench.look(renewed=True, marks=Marks())
    assert bench.silence.heard > 2 * bench.pause > 0


def test_a_warden_that_leaves_no_machines_leaves_no_filters(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.silence.kept = True
    bench.guests.pids = list  # type: ignore[attr-defined]
    bench.lease.ended = SimpleNamespace(wait=lambda _seconds: True)  # type: ignore[attr-defined]
    bench.lease.end = lambda: None  # type: ignore[attr-defined]
    assert bench.warden.close()
    assert not bench.silence.kept


def test_guests_are_stopped_and_ended_although_the_host_cannot_be_silent(bench: Bench) -> None:
    bench.silence.whole = False
    assert bench.look() == ["stop"]
    bench.look()
    assert len([line for line in bench.said if "goes on answering" in line]) == 1
    assert bench.look(renewed=True, marks=Marks(fence=5)) == ["kill"]
    assert bench.lease.acknowledged == [5]


def test_guests_that_were_not_all_found_go_on_as_far_as_they_were(bench: Bench) -> None:
    bench.look()
    bench.guests.seen = False
    assert bench.look(renewed=True, marks=Marks()) == ["go on"]
    assert bench.state["held"]
    bench.guests.seen = True
    assert bench.look() == ["go on"]
    assert not bench.state["held"]


def test_the_deputy_stops_guests_when_the_main_thread_does_not(bench: Bench) -> None:
    assert not bench.deputy.is_due()
    bench.look(renewed=True, marks=Marks())
    bench.now = 1004.2
    assert not bench.deputy.is_due()  # the main thread may just be at it
    bench.now = 1004.3
    assert bench.deputy.is_due()
    bench.guests.done.clear()
    bench.deputy.act()
    assert bench.guests.done == ["stop those known"]
    bench.now = 1005.0
    assert bench.look(renewed=True, marks=Marks()) == ["go on"]
    assert not bench.state["held"]
    assert not bench.deputy.is_due()


def test_the_main_thread_itself_sees_to_what_may_not_run(bench: Bench) -> None:
    bench.look()
    bench.now += 100
    assert not bench.deputy.is_due()
    bench.look(renewed=True, marks=Marks(fence=5))
    bench.now += 100
    assert not bench.deputy.is_due()


def test_the_lease_is_told_when_guests_were_looked_after(bench: Bench) -> None:
    bench.look()
    assert bench.lease.looked == 1000.0
    bench.now = 1002.0
    bench.look()
    assert bench.lease.looked == 1002.0


def test_a_fence_that_an_earlier_warden_saw_is_in_force_at_once(bench: Bench) -> None:
    bench.look(renewed=True, marks=Marks())
    bench.guests.whole = False
    bench.look(renewed=True, marks=Marks(fence=5))
    bench.begin()  # it was killed while it ended them; its lease counts
    assert bench.look() == ["kill"]
    assert bench.lease.acknowledged == [5]
    bench.begin()  # and before that was written down
    assert bench.look() == ["kill"]
    assert bench.lease.acknowledged == [5]
    assert bench.look(marks=Marks(5, 5, 5)) == ["go on"]  # the lease counts
    bench.begin()
    assert bench.look() == ["go on"]
    assert bench.look() == []
