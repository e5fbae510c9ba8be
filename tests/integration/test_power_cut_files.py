"""Configuration, keys, machines' records and images when the power goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from faults.journal import Variant, cases, marks
from faults.medium import Medium, is_possible, killed_at, left_after, mounted
from gureum.cli import images as cli_images
from gureum.cli.config import CloudConfig, claim_index, make_state_dir, new_config
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.files import make_directories
from gureum.hostspec import MachineState
from gureum.hypervisors.qemu.record import MachineFiles, Saved
from gureum.images import library
from gureum.images.imports import import_disk
from gureum.network.tokens import KEY_BYTES, load_key

pytestmark = [pytest.mark.root, pytest.mark.skipif(not is_possible(), reason="needs root and /dev/fuse")]

CASES = 40
MACHINE = "i-0123456789abcdef0"
DISK_BYTES = 1 << 20


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    with mounted(tmp_path) as made:
        yield made


def cut_everywhere(medium: Medium, look: Callable[[Path, list[str]], None]) -> None:
    """``look`` at what each power cut leaves, with what had been acknowledged."""
    operations = medium.operations()
    for at, variant, seed in cases(operations, CASES):
        with left_after(operations[:at], variant, seed) as root:
            try:
                look(root, marks(operations[:at]))
            except BaseException as error:
                error.add_note(f"power cut after operation {at}, variant {variant}, seed {seed}")
                raise


def test_a_new_cloud_keeps_its_credentials_and_its_index(medium: Medium) -> None:
    state, base = medium.root / "a/b/cloud", medium.root / "base"
    make_state_dir(state)
    config = new_config(state, base)
    config.save(state)
    medium.mark("made")
    changed = replace(config, port=1234)
    changed.save(state)
    medium.mark("changed")

    def look(root: Path, acknowledged: list[str]) -> None:
        try:
            found = CloudConfig.load(root / "a/b/cloud")
        except ConfigError:
            assert not acknowledged
            make_state_dir(root / "a/b/cloud")
            return
        assert found in (config, changed)
        assert found == changed or "changed" not in acknowledged
        link = root / "base/indexes" / str(config.index)
        assert link.is_symlink(), "another cloud would get the same networks"

    cut_everywhere(medium, look)


def test_the_index_of_a_removed_cloud_is_free_again(medium: Medium) -> None:
    """The same name in the directory, pointing elsewhere: never neither."""
    base = medium.root / "base"
    assert claim_index(medium.root / "one", base) == 0
    (medium.root / "two").mkdir()
    assert claim_index(medium.root / "two", base) == 0
    medium.mark("two")

    def look(root: Path, acknowledged: list[str]) -> None:
        if acknowledged:
            assert (root / "base/indexes/0").readlink() == medium.root / "two"

    cut_everywhere(medium, look)


def test_a_machine_s_record_is_the_last_durable_one_or_a_later_one(medium: Medium) -> None:
    machines = medium.root / "run/machines"
    make_directories(machines)
    files = MachineFiles(machines, MACHINE)
    first = Saved(
        generation=1,
        machine_type="pc-q35-7.2",
        boot_id="boot",
        uid=1,
        vmgenid="guid",
    )
    ended = replace(first, ended=MachineState.shutdown, message="why")
    again = replace(first, generation=2)
    files.create()
    files.save(first)
    files.save(ended, durable=True)
    medium.mark("ended")
    files.save(again)
    medium.mark("again")
    files.remove()

    def look(root: Path, acknowledged: list[str]) -> None:
        directory = root / "run/machines"
        found = MachineFiles(directory, MACHINE).load() if directory.is_dir() else None
        # What was not flushed: a start, which a power cut ends anyway, and that the machine is gone.
        assert found in ((None, ended, again) if acknowledged else (None, first, ended))

    cut_everywhere(medium, look)


def test_the_end_of_a_machine_is_kept(medium: Medium) -> None:
    machines = medium.root / "machines"
    make_directories(machines)
    files = MachineFiles(machines, MACHINE)
    saved = Saved(
        generation=1,
        machine_type="pc-q35-7.2",
        boot_id="boot",
        uid=1,
        vmgenid="guid",
    )
    files.create()
    files.save(saved)
    for number in range(3):
        files.save(replace(saved, ended=MachineState.off, message=str(number)), durable=True)
        medium.mark(str(number))

    def look(root: Path, acknowledged: list[str]) -> None:
        if acknowledged:
            found = MachineFiles(root / "machines", MACHINE).load()
            assert found is not None
            assert int(found.message) >= int(acknowledged[-1])

    cut_everywhere(medium, look)


def test_the_key_of_tokens_is_kept_or_made_again(medium: Medium) -> None:
    key = load_key(medium.root / "imds.key", Env())
    medium.mark("made")

    def look(root: Path, acknowledged: list[str]) -> None:
        found = load_key(root / "imds.key", Env())
        assert len(found) == KEY_BYTES
        assert found == key or not acknowledged

    cut_everywhere(medium, look)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
async def test_an_imported_image_is_there_as_a_whole(medium: Medium, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"\7" * DISK_BYTES)
    made = []
    for name in ("one", "two"):
        made.append(await import_disk(source, medium.root / "a/images", name=name))
        medium.mark(name)
    # A broken one under its name, as an earlier version could leave it, is replaced.
    Path(made[0].disk).write_bytes(b"")
    await import_disk(source, medium.root / "a/images", name="one")
    medium.mark("again")

    def look(root: Path, acknowledged: list[str]) -> None:
        found = {image.name: image for image in library.images(root / "a/images")}
        for image in found.values():
            assert Path(image.disk).read_bytes() == b"\7" * DISK_BYTES
        assert "two" in found or "two" not in acknowledged
        assert "one" in found or acknowledged not in (["one"], ["one", "two", "again"])

    cut_everywhere(medium, look)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_image_put_below_a_cloud_is_there_as_a_whole(
    medium: Medium, tmp_path: Path, elsewhere: bool
) -> None:
    """By hard links on the same disk, copied from another."""
    image = (tmp_path if elsewhere else medium.root) / "tiny-0123"
    image.mkdir()
    (image / "disk.raw").write_bytes(b"\7" * DISK_BYTES)
    (image / "kernel").write_bytes(b"kernel")
    cli_images.link(image, medium.root / "cloud/images")
    medium.mark("linked")

    def look(root: Path, acknowledged: list[str]) -> None:
        place = root / "cloud/images/tiny-0123"
        assert place.exists() or not acknowledged
        if place.exists():
            assert (place / "disk.raw").read_bytes() == b"\7" * DISK_BYTES
            assert (place / "kernel").read_bytes() == b"kernel"

    cut_everywhere(medium, look)


@pytest.mark.parametrize("what", ["cloud", "image", "link"])
async def test_what_is_found_after_a_kill_outlives_a_power_cut(
    medium: Medium, tmp_path: Path, what: str
) -> None:
    """Killed instead of an fsync, each in turn; then it is done again, and may find that it is done."""
    source = tmp_path / "tiny-0123/disk.raw"
    source.parent.mkdir()
    source.write_bytes(b"\7" * DISK_BYTES)

    async def work(root: Path) -> list[Path]:
        if what == "cloud":
            make_state_dir(root / "cloud")
            if not (root / "cloud/config.json").exists():
                new_config(root / "cloud", root / "base").save(root / "cloud")
            return [root / "cloud/config.json"]
        if what == "image":
            return [Path((await import_disk(source, root / "images", name="one")).disk)]
        return [cli_images.link(source.parent, root / "images") / "disk.raw"]

    flushes, died = 0, True
    while died:
        flushes += 1
        root = medium.root / str(flushes)
        make_directories(root)
        with killed_at(flushes) as dead:
            await work(root)
        died = dead()
        made = await work(root)
        operations = medium.operations()
        with left_after(operations, Variant.NONE) as remains:
            for path in made:
                kept = remains / path.relative_to(medium.root)
                assert kept.exists(), f"killed at fsync {flushes}"
                assert kept.read_bytes() == path.read_bytes()
    assert flushes > 4
