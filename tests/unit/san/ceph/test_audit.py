"""What the cloud says, held against what is in the pool."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gureum.san.ceph.audit import Action, Expected, Listing, compare
from gureum.san.ceph.found import FoundImage

CLOUD = "c1"
NOTHING = Expected(volumes={}, snapshots={}, images=frozenset(), made=frozenset())
VOLUME = FoundImage(
    name="vol-1",
    size=1 << 30,
    cloud=CLOUD,
    deleted=False,
    snapshots=("snap-1",),
    holder="c1/h1",
    held_since="host h1, since noon",
    watchers=("10.0.0.1:0/1",),
)
IMAGE = replace(VOLUME, name="ami-1", snapshots=("base",), holder="", held_since="", watchers=())
EXPECTED = Expected(
    volumes={"vol-1": "h1"},
    snapshots={"snap-1": "vol-1"},
    images=frozenset({"ami-1"}),
    made=frozenset({"vol-1", "snap-1"}),
)


def found(*images: FoundImage, expected: Expected = EXPECTED, other: tuple[str, ...] = ()):
    return [(f.line, f.action) for f in compare(Listing(images, other), expected, CLOUD)]


def test_all_as_it_should_be():
    assert found(VOLUME, IMAGE) == []


def test_what_only_the_pool_has():
    free = replace(VOLUME, holder="", watchers=())
    assert found(free, IMAGE, expected=NOTHING) == [
        ("ami-1 is in the pool, but no image of the cloud", Action.remove_image),
        ("vol-1 is in the pool, but no volume of the cloud", Action.delete_volume),
        ("snap-1 of vol-1 is in the pool, but no snapshot of the cloud", Action.delete_snapshot),
    ]


def test_an_unknown_volume_that_somebody_uses_is_left_to_people():
    (line, action), *_ = found(VOLUME, expected=NOTHING)
    assert action is Action.none
    assert line == (
        "vol-1 is in the pool, but no volume of the cloud; it is held by c1/h1 (host h1, since noon), and "
        "it is open at 10.0.0.1:0/1"
    )


def test_what_only_the_store_has():
    assert found(IMAGE) == [
        ("vol-1 is a volume of the cloud, but not in the pool: its data is lost", Action.none),
        ("snap-1 is a snapshot of the cloud, but not in the pool: its data is lost", Action.none),
    ]


def test_what_is_still_to_be_made_is_not_lost():
    assert found(IMAGE, expected=replace(EXPECTED, made=frozenset())) == []


def test_a_snapshot_is_of_its_volume():
    lines = found(VOLUME, IMAGE, expected=replace(EXPECTED, snapshots={"snap-1": "vol-2"}))
    assert lines == [
        ("snap-1 of vol-1 is in the pool, but no snapshot of the cloud", Action.delete_snapshot),
        ("snap-1 is a snapshot of the cloud, but not in the pool: its data is lost", Action.none),
    ]


def test_a_deleted_volume_with_snapshots_is_in_order():
    husk = replace(VOLUME, deleted=True, size=0, holder="", watchers=())
    expected = replace(EXPECTED, volumes={}, made=frozenset({"snap-1"}))
    assert found(husk, IMAGE, expected=expected) == []
    empty = replace(husk, snapshots=())
    assert found(empty, IMAGE, expected=replace(expected, snapshots={})) == [
        ("vol-1 is deleted, and its last snapshot, too", Action.bury)
    ]
    assert found(husk, IMAGE)[0] == (
        "vol-1 is a volume of the cloud, but not in the pool: its data is lost",
        Action.none,
    )


@pytest.mark.parametrize(
    ("host", "watchers", "line", "action"),
    [
        ("h2", (), "vol-1 is to be held by host h2, but it is held by c1/h1", Action.release),
        ("", (), "vol-1 is to be held by no host, but it is held by c1/h1", Action.release),
        ("h2", ("10.0.0.1:0/1",), "vol-1 is to be held by host h2, but it is held by c1/h1", Action.none),
    ],
)
def test_a_lock_of_the_wrong_host(host, watchers, line, action):
    volume = replace(VOLUME, watchers=watchers)
    (found_line, found_action), *rest = found(
        volume, IMAGE, expected=replace(EXPECTED, volumes={"vol-1": host})
    )
    assert found_line.startswith(line)
    assert found_action is action
    assert not rest


def test_a_volume_that_is_open_without_a_lock():
    volume = replace(VOLUME, holder="")
    assert found(volume, IMAGE, expected=replace(EXPECTED, volumes={"vol-1": ""})) == [
        ("vol-1 is to be open nowhere, but it is open at 10.0.0.1:0/1", Action.none)
    ]


def test_what_is_not_ours_is_kept():
    foreign = replace(VOLUME, name="vol-8", cloud="c2")
    unmarked = replace(VOLUME, name="vol-9", cloud="")
    assert found(VOLUME, IMAGE, foreign, unmarked, other=("precious is not an image; kept",)) == [
        ("precious is not an image; kept", Action.none),
        ("vol-8 is of the cloud c2; kept", Action.none),
        ("vol-9 was not made by a cloud; kept", Action.none),
    ]


def test_a_page_is_compared_with_what_may_be_on_it():
    three = Expected(
        volumes={"vol-1": "h1", "vol-2": "", "vol-3": ""},
        snapshots={"snap-1": "vol-1", "snap-3": "vol-3"},
        images=frozenset({"ami-1"}),
        made=frozenset({"vol-1", "vol-2", "vol-3", "snap-1", "snap-3"}),
    )
    first = compare(Listing((IMAGE, VOLUME), (), "vol-1"), three.between("", "vol-1"), CLOUD)
    assert first == []
    second = compare(Listing((), ()), three.between("vol-1", ""), CLOUD)
    assert [each.id for each in second] == ["vol-2", "vol-3", "snap-3"]


def test_the_lock_of_an_unknown_volume_goes_first_if_its_host_is_gone():
    held = replace(VOLUME, watchers=(), snapshots=())
    assert found(held, IMAGE, expected=NOTHING)[1][1] is Action.release
    assert found(held, IMAGE, expected=replace(NOTHING, up=frozenset({"h1"})))[1][1] is Action.none


@pytest.mark.parametrize(
    "changed", [{"keepers": {"vol-1": frozenset({"h1"})}}, {"busy": frozenset({"vol-1"})}]
)
def test_a_lock_that_is_on_its_way_is_in_order(changed):
    moving = replace(EXPECTED, volumes={"vol-1": "h2"}, **changed)
    assert found(replace(VOLUME, watchers=()), IMAGE, expected=moving) == []


def test_a_host_that_answers_gives_its_lock_back_itself():
    moved = replace(EXPECTED, volumes={"vol-1": "h2"}, up=frozenset({"h1"}))
    ((line, action),) = found(replace(VOLUME, watchers=()), IMAGE, expected=moved)
    assert action is Action.none
    assert "gives it back when its agent is started anew" in line


@pytest.mark.parametrize(
    ("line", "action", "note"),
    [
        ("new.1.2.vol-1 is unfinished", Action.tidy, False),
        ("unfinished file x", Action.tidy, False),
        ("nothing needs the layer x", Action.tidy, False),
        ("vol-1 is damaged: its layer x is missing", Action.none, False),
        ("vol-1 waits in the trash", Action.none, True),
        ("precious is not an image of the cloud's; kept", Action.none, True),
    ],
)
def test_other_lines(line, action, note):
    (finding,) = compare(Listing((), (line,)), NOTHING, CLOUD)
    assert (finding.action, finding.note, finding.line) == (action, note, line)


def test_snapshots_that_are_things_of_their_own():
    listing = Listing(
        (replace(VOLUME, snapshots=(), holder="", watchers=()),), (), "", (("snap-9", "vol-1"),)
    )
    (stray, lost) = compare(listing, EXPECTED, CLOUD)
    assert (stray.action, stray.id, stray.volume) == (Action.delete_snapshot, "snap-9", "vol-1")
    assert lost.id == "snap-1"
    whole = replace(listing, snapshots=(("snap-1", "vol-1"),))
    assert compare(whole, EXPECTED, CLOUD) == []
