"""An interpreter for the rules that gureum writes: what would nftables decide about a packet?

Rules are read from ``Table`` values, the same text that ``nft`` gets. Of the language it knows what we use,
and raises ``Unknown`` at anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

from gureum.network.ruleset import Chain, Table

Packet = Mapping[str, int | str]
"""By the name of the expression ("ip saddr", "th dport", "iifname"); addresses and ports as numbers."""
Range = tuple[int, int] | str
Test = Callable[[int | str], bool]

NAMES = {
    "tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58, "ipv4": 2, "ipv6": 10, "ip": 0x0800,
    "ip6": 0x86DD, "arp": 0x0806, "nd-router-solicit": 133, "nd-router-advert": 134,
    "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
    "established": 1, "related": 2, "new": 3, "invalid": 4, "dnat": 1,
}  # fmt: skip
ENDS = ("accept", "drop", "return", "goto", "jump")
IMPLIED = {"udp": 17, "tcp": 6, "icmp": 1, "icmpv6": 58}
_TOKEN = re.compile(r'"[^"]*"|@\w+,\d+,\d+|[{},]|[^\s{},]+')
_WORDS = ("ip", "ip6", "ether", "meta", "th", "udp", "tcp", "icmp", "icmpv6", "ct", "arp")


class Unknown(Exception):
    """A rule that this interpreter cannot read."""


class Tokens:
    def __init__(self, text: str) -> None:
        self._found = _TOKEN.findall(text)
        self._at = 0

    def peek(self) -> str:
        return self._found[self._at] if self._at < len(self._found) else ""

    def take(self) -> str:
        self._at += 1
        return self._found[self._at - 1]

    def taken(self, token: str) -> bool:
        if self.peek() == token:
            self._at += 1
            return True
        return False

    def block(self) -> list[str]:
        """What is in braces, divided by commas."""
        parts: list[list[str]] = [[]]
        while (token := self.take()) != "}":
            if token == ",":
                parts.append([])
            elif token != "{":
                parts[-1].append(token)
        return [" ".join(part) for part in parts if part]


def value(text: str) -> Range:
    """First and last of what is meant; a name, if it is one."""
    if text.startswith('"'):
        return text.strip('"')
    if text in NAMES:
        return NAMES[text], NAMES[text]
    if "/" in text:
        network = ip_network(text)
        return int(network[0]), int(network[-1])
    if re.fullmatch(r"\d+-\d+", text):
        first, _, last = text.partition("-")
        return int(first), int(last)
    if "-" in text:
        low, _, high = text.partition("-")
        return int(ip_address(low)), int(ip_address(high))
    if text.startswith("0x"):
        return int(text, 16), int(text, 16)
    if text.isdecimal():
        return int(text), int(text)
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text):
        return (int(text.replace(":", ""), 16),) * 2
    return (int(ip_address(text)),) * 2


@lru_cache(maxsize=65536)
def element(text: str) -> tuple[Range, ...]:
    return tuple(value(part) for part in text.split(" . "))


def within(found: int | str, wanted: Range) -> bool:
    if isinstance(wanted, str):
        return found == wanted or (wanted.endswith("*") and str(found).startswith(wanted[:-1]))
    return isinstance(found, int) and wanted[0] <= found <= wanted[1]


def lookup(elements: Mapping[str, str], keys: tuple[int | str, ...]) -> str | None:
    """The value of the element that matches, None for none. Elements of a set must not overlap."""
    for text, result in elements.items():
        if all(within(key, part) for key, part in zip(keys, element(text), strict=True)):
            return result
    return None


Step = Callable[[Table, Packet], str | None]
"""None: go on with the rule; "": the rule does not match; else a verdict."""


@lru_cache(maxsize=65536)
def compile_rule(rule: str) -> tuple[Step, ...]:
    tokens = Tokens(rule)
    return tuple(_steps(tokens))


def _steps(tokens: Tokens) -> Iterator[Step]:
    while tokens.peek():
        word = tokens.peek()
        if word == "counter":
            for _ in ("counter", "name", "which"):
                tokens.take()
        elif word in ENDS:
            tokens.take()
            verdict = f"{word} {tokens.take()}" if word in ("goto", "jump") else word
            yield lambda _table, _packet, verdict=verdict: verdict
        elif word in ("update", "add"):
            yield from _dynamic(tokens)
        elif word == "notrack":
            tokens.take()
        else:
            yield from _match(tokens)


def _dynamic(tokens: Tokens) -> Iterator[Step]:
    """Limits are never exceeded here: the rule ends. What counts flows always has room."""
    tokens.take()
    tokens.take()
    inside = " ".join(tokens.block())
    if " over " in inside:
        while tokens.peek():
            tokens.take()
        yield lambda _table, _packet: ""


def _match(tokens: Tokens) -> Iterator[Step]:
    if tokens.peek() == "meta" and tokens._found[tokens._at + 1 : tokens._at + 3] == ["mark", "set"]:
        while tokens.peek():
            tokens.take()
        return
    keys = [_key(tokens)]
    while tokens.taken("."):
        keys.append(_key(tokens))
    if tokens.taken("vmap"):
        yield _verdict_map(keys, tokens)
        return
    differs = tokens.taken("!=")
    wanted = _elements(tokens)

    def step(table: Table, packet: Packet) -> str | None:
        found = _values(keys, packet)
        if found is None:
            return ""
        hit = lookup(wanted(table), found) is not None
        return "" if hit is differs else None

    yield step


def _verdict_map(keys: list[str], tokens: Tokens) -> Step:
    wanted = _elements(tokens)

    def step(table: Table, packet: Packet) -> str | None:
        found = _values(keys, packet)
        return "" if found is None else (lookup(wanted(table), found) or "")

    return step


def _elements(tokens: Tokens) -> Callable[[Table], Mapping[str, str]]:
    if tokens.peek() == "{":
        pairs = (part.partition(" : ") for part in tokens.block())
        constant = {key: result for key, _, result in pairs}
        return lambda _table: constant
    first = tokens.take()
    if first.startswith("@"):
        return lambda table: table.sets[first[1:]].elements
    return lambda _table: {first: ""}


def _key(tokens: Tokens) -> str:
    word = tokens.take()
    if word in ("iifname", "oifname") or word.startswith("@"):
        return word
    if word == "fib":
        while tokens.peek() != "oifname":
            tokens.take()
        tokens.take()
        return "fib oifname"
    if word not in _WORDS:
        raise Unknown(word)
    if word == "arp":
        return f"arp {tokens.take()} {tokens.take()}"
    return f"{word} {tokens.take()}"


def _values(keys: list[str], packet: Packet) -> tuple[int | str, ...] | None:
    """None if the packet has no such thing; then a rule does not match, whatever it asks."""
    found: list[int | str] = []
    for key in keys:
        word, _, rest = key.partition(" ")
        if word in IMPLIED:
            if packet.get("meta l4proto") != IMPLIED[word]:
                return None
            key = key if rest == "type" else f"th {rest}"
        if key not in packet:
            return None
        found.append(packet[key])
    return tuple(found)


def run(table: Table, chain: str, packet: Packet) -> str:
    """ "accept", "drop", or "" if the chain came to its end."""
    for rule in table.chains[chain].rules:
        for step in compile_rule(rule):
            verdict = step(table, packet)
            if verdict is None:
                continue
            word, _, target = verdict.partition(" ")
            if word in ("accept", "drop"):
                return word
            if word == "return":
                return ""
            if word == "goto":
                return run(table, target, packet)
            if word == "jump" and (found := run(table, target, packet)):
                return found
            if word != "jump":
                break
    return ""


def hook(table: Table, name: str, packet: Packet) -> bool:
    """Whether it passes all chains of a hook (as "filter hook forward"), in the order of their priorities."""
    return all(run(table, key, packet) in ("accept", *_passing(chain)) for key, chain in hooked(table, name))


def hooked(table: Table, name: str) -> list[tuple[str, Chain]]:
    found = [(key, chain) for key, chain in table.chains.items() if f" {name} " in f" {chain.hook}"]
    return sorted(found, key=lambda each: int(each[1].hook.split("priority ")[1].split(";")[0]))


def _passing(chain: Chain) -> tuple[str, ...]:
    return ("",) if "policy accept" in chain.hook else ()
