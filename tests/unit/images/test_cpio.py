import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from gureum.images.cpio import CpioWriter


def archive() -> bytes:
    output = BytesIO()
    writer = CpioWriter(output)
    writer.directory("bin")
    writer.file("bin/tool", b"#!/bin/sh\n", 0o755)
    writer.file("odd", b"x")
    writer.symlink("bin/sh", "tool")
    writer.close()
    return output.getvalue()


def test_header_of_a_file() -> None:
    output = BytesIO()
    CpioWriter(output).file("a", b"data!", 0o640)
    data = output.getvalue()
    assert data[:6] == b"070701"
    fields = [int(data[at : at + 8], 16) for at in range(6, 110, 8)]
    assert fields == [1, 0o100640, 0, 0, 1, 0, 5, 0, 0, 0, 0, 2, 0]
    assert data[110:] == b"a\0" + b"data!\0\0\0"


def test_device_node_has_its_numbers() -> None:
    output = BytesIO()
    CpioWriter(output).character_device("dev/console", 5, 1)
    fields = [int(output.getvalue()[at : at + 8], 16) for at in range(6, 110, 8)]
    assert fields[1] == 0o020600
    assert fields[9:11] == [5, 1]


def test_same_members_same_bytes() -> None:
    assert archive() == archive()
    assert len(archive()) % 4 == 0


@pytest.mark.parametrize("name", ["", "/etc/passwd"])
def test_names_are_relative(name: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        CpioWriter(BytesIO()).file(name, b"")


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_other_programs_read_it(tmp_path: Path) -> None:
    subprocess.run(["busybox", "cpio", "-id"], input=archive(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin/sh").readlink() == Path("tool")
    assert (tmp_path / "odd").read_bytes() == b"x"
