"""Images that stay open between calls."""

from __future__ import annotations

import threading
import time

import pytest

from gureum.san.ceph.rbdworker import handles as handles_module
from gureum.san.ceph.rbdworker.handles import OPEN_MAX, Handles, Key


class Image:
    def __init__(self, key: Key) -> None:
        self.key = key
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.fixture
def opened() -> list[Image]:
    return []


@pytest.fixture
def handles(opened: list[Image]) -> Handles:
    def open(key: Key) -> Image:
        opened.append(Image(key))
        return opened[-1]

    return Handles(open)


def test_opened_once(handles, opened):
    with handles.use("vol-1") as one, handles.use("vol-1") as two, handles.use("vol-1", "snap-1") as three:
        assert one is two
        assert three is not one
    with handles.use("vol-1") as again:
        assert again is one
    assert [image.key for image in opened] == [("vol-1", ""), ("vol-1", "snap-1")]
    assert not any(image.closed for image in opened)


def test_dropped_when_nobody_uses_it(handles, opened):
    with handles.use("vol-1") as image:
        handles.drop("vol-1")
        assert not image.closed
        with handles.use("vol-1") as fresh:
            assert fresh is not image
    assert image.closed
    assert not fresh.closed
    handles.drop("vol-1")
    assert fresh.closed
    handles.drop("vol-2")


def test_what_cannot_be_opened_is_not_kept(opened):
    tries = 0

    def open(key: Key) -> Image:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no")
        return Image(key)

    handles = Handles(open)
    with pytest.raises(OSError, match="no"), handles.use("vol-1"):
        pass
    with handles.use("vol-1") as image:
        assert not image.closed


def test_not_too_many_are_open(handles, opened):
    for number in range(OPEN_MAX + 3):
        with handles.use(f"vol-{number}"):
            pass
    assert [image.key[0] for image in opened if image.closed] == ["vol-0", "vol-1", "vol-2"]


def test_idle_ones_are_closed(handles, opened, monkeypatch):
    monkeypatch.setattr(handles_module, "IDLE_SECONDS", 0.05)
    with handles.use("vol-1"):
        time.sleep(0.2)
        assert not opened[0].closed
    deadline = time.monotonic() + 10
    while not opened[0].closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened[0].closed
    with handles.use("vol-1") as fresh:
        assert not fresh.closed
    handles.drop("vol-1")


def test_many_threads(handles, opened):
    def work(number: int) -> None:
        for turn in range(50):
            with handles.use(f"vol-{turn % 3}") as image:
                assert not image.closed
            if turn % 7 == number:
                handles.drop(f"vol-{turn % 3}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        handles.drop(f"vol-{number}")
    assert all(image.closed for image in opened)
