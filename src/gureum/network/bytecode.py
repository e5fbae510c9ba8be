"""An assembler for the kernel's BPF, so that nobody needs a compiler. An instruction is a line:

r2 = u32[r6 + 4]            loads and stores: u8, u16, u32, u64
u16[r7 + 24] = r2
r2 += 1                     also -=, &=, >>=, with a register or a number
if r2 != 0 goto pass        also ==, >, >=, <, <=, unsigned; & for bits in common
r1 = map flows              a map; ``value NAME`` is the address of the only element of an array
call redirect               of HELPERS
pass:                       a label
exit
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

HELPERS = {"map_lookup": 1, "map_update": 2, "redirect": 23, "redirect_peer": 155, "coarse_ns": 160}
_SIZES = {"u32": 0x00, "u16": 0x08, "u8": 0x10, "u64": 0x18}
_LOAD, _STORE, _NUMBER = 0x61, 0x63, 0x18
_ARITHMETIC = {"+": 0x07, "-": 0x17, "&": 0x57, ">>": 0x77, "": 0xB7}
_JUMPS = {"==": 0x15, ">": 0x25, ">=": 0x35, "&": 0x45, "!=": 0x55, "<": 0xA5, "<=": 0xB5}
_GO, _CALL, _EXIT = 0x05, 0x85, 0x95
_REGISTER = 0x08
"""In the operation: the second operand is a register, not a number."""
_MAP, _MAP_VALUE = 1, 2
_FORMS = {
    "label": re.compile(r"(\w+):"),
    "load": re.compile(r"r(\d+) = (u8|u16|u32|u64)\[r(\d+) ([+-] \d+)\]"),
    "store": re.compile(r"(u8|u16|u32|u64)\[r(\d+) ([+-] \d+)\] = r(\d+)"),
    "map": re.compile(r"r(\d+) = (map|value) (\w+)"),
    "set": re.compile(r"r(\d+) (\+|-|&|>>|)= (r?)(-?\w+)"),
    "if": re.compile(r"if r(\d+) (==|!=|>=|<=|>|<|&) (r?)(-?\w+) goto (\w+)"),
    "goto": re.compile(r"goto (\w+)"),
    "call": re.compile(r"call (\w+)"),
    "exit": re.compile(r"exit"),
}


def assemble(text: str, maps: Mapping[str, int]) -> bytes:
    """The program, with these maps by name (file descriptors). ValueError for what is no instruction."""
    code: list[tuple[int, int, int, int | str, int]] = []
    labels: dict[str, int] = {}
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        if not line:
            continue
        form, found = _parse(line)
        if form == "label":
            labels[found[0]] = len(code)
        else:
            code += _instructions(form, found, maps)
    return b"".join(
        struct.pack(
            "<BBhi", op, to | of << 4, labels[at] - place - 1 if isinstance(at, str) else at, _signed(number)
        )
        for place, (op, to, of, at, number) in enumerate(code)
    )


def _parse(line: str) -> tuple[str, tuple[str, ...]]:
    for form, pattern in _FORMS.items():
        if found := pattern.fullmatch(line):
            return form, found.groups()
    raise ValueError(f"no instruction: {line!r}")


def _instructions(
    form: str, found: tuple[str, ...], maps: Mapping[str, int]
) -> list[tuple[int, int, int, int | str, int]]:
    """Each is (operation, first register, second, offset or label, number)."""
    if form == "load":
        to, size, of, offset = found
        return [(_LOAD + _SIZES[size], int(to), int(of), _offset(offset), 0)]
    if form == "store":
        size, to, offset, of = found
        return [(_STORE + _SIZES[size], int(to), int(of), _offset(offset), 0)]
    if form == "map":
        to, what, name = found
        kind = _MAP if what == "map" else _MAP_VALUE
        return [(_NUMBER, int(to), kind, 0, maps[name]), (0, 0, 0, 0, 0)]
    if form == "set":
        to, operator, register, other = found
        return [_operation(_ARITHMETIC[operator], int(to), register, other, 0)]
    if form == "if":
        one, operator, register, other, label = found
        return [_operation(_JUMPS[operator], int(one), register, other, label)]
    if form == "goto":
        return [(_GO, 0, 0, found[0], 0)]
    if form == "call":
        return [(_CALL, 0, 0, 0, HELPERS[found[0]])]
    return [(_EXIT, 0, 0, 0, 0)]


def _operation(
    op: int, to: int, register: str, other: str, at: int | str
) -> tuple[int, int, int, int | str, int]:
    return (op | _REGISTER, to, int(other), at, 0) if register else (op, to, 0, at, int(other, 0))


def _offset(text: str) -> int:
    return int(text.replace(" ", ""))


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number
