"""Models of CPUs that guests can have on hosts with different ones.

A guest that has its host's own CPU can go to hosts with the same only; one with a model to all that offer the
model and are of the same maker. Levels are those of the x86-64 psABI; the other names are QEMU's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

HOST = "host"
BASELINE = "baseline"
"""In settings: the host's own CPU; the highest level that all hosts of the zone offer."""

_V2 = ("ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "lahf-lm")
_AES = ("aes", "pclmulqdq")
_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", "xsaveopt")
_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVEL = "qemu64-v1"
"""What levels are made from."""
LEVELS = {
    "x86-64-v1": (),
    "x86-64-v2": _V2,
    "x86-64-v2-aes": _V2 + _AES,
    "x86-64-v3": _V2 + _AES + _V3,
    "x86-64-v4": _V2 + _AES + _V3 + _V4,
}
"""From low to high, with what each has beside ``LEVEL``. All CPUs of level 3 have AES and XSAVEOPT, too: with
XSAVE alone Linux does not boot under emulation.
"""
NAMED = {
    "Nehalem": "Nehalem-v1",
    "Westmere": "Westmere-v1",
    "SandyBridge": "SandyBridge-v1",
    "IvyBridge": "IvyBridge-v1",
    "Haswell-noTSX": "Haswell-v2",
    "Broadwell-noTSX": "Broadwell-v2",
    "Skylake-Client-noTSX-IBRS": "Skylake-Client-v3",
    "Skylake-Server-noTSX-IBRS": "Skylake-Server-v3",
    "Cascadelake-Server-noTSX": "Cascadelake-Server-v3",
    "Icelake-Server-noTSX": "Icelake-Server-v2",
    "SapphireRapids": "SapphireRapids-v1",
    "EPYC": "EPYC-v1",
    "EPYC-Rome": "EPYC-Rome-v1",
    "EPYC-Milan": "EPYC-Milan-v1",
    "EPYC-Genoa": "EPYC-Genoa-v1",
}
"""With the version: what the name alone means depends on the machine's type."""
MODELS = (*LEVELS, *NAMED)


def common_level(hosts: Iterable[Collection[str]]) -> str:
    """The highest level among what each of the hosts offers, "" for none. Those that say nothing are left
    out.
    """
    offered = [frozenset(models) for models in hosts if models]
    common = frozenset[str]().union(*offered).intersection(*offered)
    return next((level for level in reversed(LEVELS) if level in common), "")
