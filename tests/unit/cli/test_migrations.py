"""How migrations are shown."""

from __future__ import annotations

from gureum.cli.migrations import share

GIB = 1 << 30


def test_what_is_sent_is_no_share_of_the_memory() -> None:
    """Of memory that is zero nothing is sent: 3 MiB may be half of it."""
    shown = {"CopiedBytes": 3 << 20, "RemainingBytes": GIB // 2, "TotalBytes": GIB, "RemainingSeconds": 2}
    assert share(shown) == "3.0 MiB sent, 512.0 MiB of 1.0 GiB to go, 2 s left"
    del shown["RemainingSeconds"]
    assert share(shown) == "3.0 MiB sent, 512.0 MiB of 1.0 GiB to go"


def test_before_and_after_the_memory_is_copied() -> None:
    assert share({}) == "-"
    assert share({"CopiedBytes": 3 << 20}) == "3.0 MiB"
    assert share({"DiskCopiedBytes": GIB, "DiskTotalBytes": 2 * GIB}) == "disks 1.0 GiB of 2.0 GiB"
    assert share({"CopiedBytes": GIB, "DiskCopiedBytes": GIB}) == "1.0 GiB, disks 1.0 GiB"
