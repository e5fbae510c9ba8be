"""What a running machine has of vCPUs and memory."""

from __future__ import annotations

import pytest

from gureum.sizespec import MachineSize

MIB = 1 << 20


@pytest.mark.parametrize(
    ("accelerator", "memory", "tied"), [("tcg", 512, False), ("tcg", 513, True), ("kvm", 513, False)]
)
def test_an_emulated_machine_that_got_memory_while_it_ran_is_tied(
    accelerator: str, memory: int, tied: bool
) -> None:
    size = MachineSize(
        vcpus=1,
        memory_bytes=memory * MIB,
        vcpus_max=2,
        memory_min_bytes=512 * MIB,
        memory_max_bytes=1024 * MIB,
    )
    assert size.is_tied(accelerator) == tied
