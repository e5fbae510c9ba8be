"""The directory of a backup: what is kept of it after a crash at any point, and what is refused."""

from __future__ import annotations

import hashlib
import stat

import pytest

from gureum.cli.backup_files import (
    BLOCK_BYTES,
    ENTRY_BYTES,
    ZERO,
    Damaged,
    Directory,
    Manifest,
    Pending,
    Point,
    part_of,
)


def block(number: int) -> bytes:
    return bytes([number]) * BLOCK_BYTES


def write(files: Directory, manifest: Manifest, snapshot: str, parent: str, *blocks: tuple[int, bytes]):
    with files.part(snapshot) as part:
        part.append(blocks)
        point = Point(
            snapshot=snapshot,
            parent=parent,
            volume_size=1,
            entries=len(part.entries),
            data_blocks=part.data_blocks,
            index_sha256=part.index_sha256(),
        )
    return files.complete(manifest, point)


@pytest.fixture
def chain(tmp_path):
    """A whole point with blocks 0, 1 and 5, and one in which 1 is another, 5 zeros, and 7 new."""
    with Directory(tmp_path / "b") as files:
        manifest = write(
            files, Manifest(volume="vol-1"), "snap-1", "", (0, block(1)), (1, block(2)), (5, block(3))
        )
        write(files, manifest, "snap-2", "snap-1", (1, block(4)), (5, b""), (7, block(5)))
        yield files


def test_the_chain_has_the_last_of_each_block(chain):
    where = chain.where(chain.chain(chain.manifest(), "snap-2"))
    assert {at: chain.block(at, place)[0] for at, place in where.items()} == {0: 1, 1: 4, 7: 5}
    first = chain.where(chain.chain(chain.manifest(), "snap-1"))
    assert {at: chain.block(at, place)[0] for at, place in first.items()} == {0: 1, 1: 2, 5: 3}


def test_zeros_take_no_room(tmp_path):
    with Directory(tmp_path) as files, files.part("snap-1") as part:
        part.append([(0, bytes(BLOCK_BYTES)), (1, block(1))])
        assert [entry.digest == ZERO for entry in part.entries] == [True, False]
    assert part_of(tmp_path / "snap-1.blocks").stat().st_size == BLOCK_BYTES


@pytest.mark.parametrize("cut_index", range(0, 3 * ENTRY_BYTES + 1, 20))
@pytest.mark.parametrize("cut_data", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 7, 2 * BLOCK_BYTES])
def test_after_a_crash_the_index_names_what_is_there(tmp_path, cut_index, cut_data):
    blocks = [(3, block(1)), (4, b""), (9, block(2))]
    with Directory(tmp_path) as files:
        with files.part("snap-1") as part:
            part.append(blocks)
        for name, size in (("snap-1.index", cut_index), ("snap-1.blocks", cut_data)):
            with open(part_of(tmp_path / name), "r+b") as file:
                file.truncate(size)
        with files.part("snap-1") as part:
            have = {entry.at for entry in part.entries}
            part.append([each for each in blocks if each[0] not in have])
            digest, count = part.index_sha256(), part.data_blocks
        point = Point(snapshot="snap-1", volume_size=1, entries=3, data_blocks=count, index_sha256=digest)
        files.complete(Manifest(volume="vol-1"), point)
        where = files.where([point])
        assert {at: files.block(at, place)[0] for at, place in where.items()} == {3: 1, 9: 2}


def test_a_crash_between_the_names_and_the_manifest(chain):
    manifest = chain.manifest()
    with chain.part("snap-3") as part:
        part.append([(1, block(9))])
    for name in ("snap-3.index", "snap-3.blocks"):
        part_of(chain.path / name).rename(chain.path / name)
    with chain.part("snap-3") as part:
        assert [entry.at for entry in part.entries] == [1]
    assert chain.manifest() == manifest


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("snap-1.blocks", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("snap-1.blocks", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])),
        ("snap-2.index", lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])),
        ("snap-2.index", lambda path: path.unlink()),
        ("manifest.json", lambda path: path.write_bytes(path.read_bytes()[:-20])),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace("snap-2", "../x"))),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace("gureum-backup", "tar"))),
    ],
)
def test_what_is_damaged_is_named(chain, name, damage):
    damage(chain.path / name)
    with pytest.raises(Damaged, match=name):
        read_all(chain)


def read_all(files: Directory) -> None:
    manifest = files.manifest()
    for snapshot in ("snap-1", "snap-2"):
        for place in files.where(files.chain(manifest, snapshot)).values():
            files.kept(place)


def test_one_at_a_time_and_for_its_owner_only(chain):
    with pytest.raises(Damaged, match="in use"), Directory(chain.path):
        pass
    modes = {stat.S_IMODE(path.stat().st_mode) for path in chain.path.iterdir()}
    assert modes == {0o600}


def test_what_is_under_way_is_kept(tmp_path):
    manifest = Manifest(volume="vol-1", pending=Pending(snapshot="snap-1", token="t", parent=""))
    with Directory(tmp_path) as files:
        assert files.manifest() is None
        files.save(manifest)
        assert files.manifest() == manifest
        assert hashlib.sha256(block(1)).digest() != ZERO
