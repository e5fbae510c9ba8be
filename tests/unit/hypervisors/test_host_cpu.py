from __future__ import annotations

from gureum.hypervisors.qemu.host_cpu import signature

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Some CPU
stepping\t: 7
flags\t\t: fpu sse avx

processor\t: 1
flags\t\t: none
"""


def test_equal_but_for_the_order_of_flags() -> None:
    assert signature(CPUINFO) == signature(CPUINFO.replace("fpu sse avx", "avx fpu sse"))
    assert signature(CPUINFO).startswith("Some CPU ")


def test_every_flag_and_stepping_counts() -> None:
    for other in (CPUINFO.replace(" avx", ""), CPUINFO.replace(": 7", ": 6"), ""):
        assert signature(other) != signature(CPUINFO)
