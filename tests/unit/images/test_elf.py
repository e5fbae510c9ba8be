import sys
from pathlib import Path

import pytest

from gureum.images.elf import module_depends, needed_libraries


@pytest.mark.skipif(sys.platform != "linux" or not Path("/bin/sh").exists(), reason="needs a Linux program")
def test_needed_libraries() -> None:
    needed = needed_libraries(Path("/bin/sh").resolve())
    assert needed == [] or "libc.so.6" in needed


def test_not_elf(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="ELF"):
        needed_libraries(tmp_path / "script")


def test_module_depends(tmp_path: Path) -> None:
    module = tmp_path / "x.ko"
    module.write_bytes(b"\x7fELF...\0license=GPL\0depends=virtio,virtio_ring\0retpoline=Y\0")
    assert module_depends(module) == ["virtio", "virtio_ring"]
    module.write_bytes(b"\x7fELF...\0license=GPL\0depends=\0retpoline=Y\0")
    assert module_depends(module) == []
    module.write_bytes(b"\x7fELF")
    with pytest.raises(ValueError, match="not a kernel module"):
        module_depends(module)
