from pathlib import Path

import pytest

from gureum.cli.output import CliError
from gureum.cli.san_options import Choice, parse, parse_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("local", Choice("local")),
        ("ceph", Choice("ceph")),
        ("ceph:/etc/ceph/ceph.conf", Choice("ceph", Path("/etc/ceph/ceph.conf"))),
        ("ceph:/c,pool=disks,user=client.me", Choice("ceph", Path("/c"), pool="disks", user="me")),
    ],
)
def test_storage(text: str, wanted: Choice) -> None:
    assert parse(text, None, []) == wanted


def test_disks() -> None:
    assert parse(None, None, []) is None
    assert parse("ceph", "8G", []) == Choice("ceph", osd_bytes=8 * GIB)
    devices = [Path("/dev/vdb"), Path("/dev/vdc"), Path("/dev/vdd")]
    assert parse("ceph", None, devices) == Choice("ceph", devices=("/dev/vdb", "/dev/vdc", "/dev/vdd"))


@pytest.mark.parametrize(
    ("text", "size", "devices", "message"),
    [
        ("nfs", None, [], "'nfs' is no storage"),
        ("ceph:", None, [], "is no storage"),
        ("local:/c", None, [], "is no storage"),
        ("ceph:/c,pool=", None, [], "'pool=' is no option"),
        ("ceph:/c,color=red", None, [], "'color=red' is no option"),
        ("local", "8G", [], "belong to --san ceph"),
        (None, "8G", [], "belong to --san ceph"),
        ("ceph:/c", None, [Path("/dev/vdb")], "belong to --san ceph"),
        ("ceph", "8G", [Path("/dev/vdb")], "no --san-size with it"),
        ("ceph", "8X", [], "'8X' is no size"),
        ("ceph", "512M", [], "'512M' is no size for an OSD"),
    ],
)
def test_what_is_wrong_is_said(text: str | None, size: str | None, devices: list[Path], message: str) -> None:
    with pytest.raises(CliError) as caught:
        parse(text, size, devices)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "wanted"), [("1G", GIB), ("1 GiB", GIB), ("2048m", 2 * GIB), ("1T", 1024 * GIB), (str(GIB), GIB)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_size(text) == wanted
