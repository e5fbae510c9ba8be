from __future__ import annotations

import pytest

from gureum.network.bytecode import assemble

ENCODED = {
    # What the kernel's documentation says of each (Documentation/bpf/standardization/instruction-set.rst).
    "r6 = r1": "bf16000000000000",
    "r0 = -1": "b7000000ffffffff",
    "r2 = 0xffffffff": "b7020000ffffffff",
    "r2 += -24": "07020000e8ffffff",
    "r0 -= r3": "1f30000000000000",
    "r5 >>= 2": "7705000002000000",
    "r5 &= 0x3c": "570500003c000000",
    "r2 = u32[r6 + 40]": "6162280000000000",
    "r2 = u16[r7 + 20]": "6972140000000000",
    "r2 = u8[r7 + 14]": "71720e0000000000",
    "r2 = u64[r10 - 32]": "79a2e0ff00000000",
    "u32[r10 - 24] = r4": "634ae8ff00000000",
    "u64[r10 - 32] = r5": "7b5ae0ff00000000",
    "r1 = map flows": "18110000070000000000000000000000",
    "r1 = value flows": "18210000070000000000000000000000",
    "call map_lookup": "8500000001000000",
    "exit": "9500000000000000",
}


@pytest.mark.parametrize(("line", "bytes_"), ENCODED.items())
def test_instructions(line: str, bytes_: str) -> None:
    assert assemble(line, {"flows": 7}).hex() == bytes_


@pytest.mark.parametrize(
    ("condition", "bytes_"),
    {
        "r2 != 0": "5502010000000000",
        "r2 == 8": "1502010008000000",
        "r2 > r8": "2d82010000000000",
        "r3 <= r2": "bd23010000000000",
        "r2 < 0xffff": "a5020100ffff0000",
        "r2 & 7": "4502010007000000",
    }.items(),
)
def test_jumps_count_what_they_skip(condition: str, bytes_: str) -> None:
    program = assemble(f"if {condition} goto end\nr0 = 0  # skipped\n\nend:\nexit", {})
    assert program[:8].hex() == bytes_


def test_a_number_of_two_places_counts_twice() -> None:
    assert assemble("goto end\nr1 = map flows\nend: \nexit", {"flows": 7})[:8].hex() == "0500020000000000"


@pytest.mark.parametrize("line", ["r2 = r1 + 1", "r2 *= 2", "u24[r1 + 0] = r2", "nonsense", "r2 = u32[r6]"])
def test_what_it_does_not_know_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no instruction"):
        assemble(line, {})
