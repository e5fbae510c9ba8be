"""The grammar of a scenario's commands: patterns of words, and what may stand for each.

A pattern's words in small letters stand for themselves, ``a|b`` for either; those in capitals for a name or a
value of that kind, with ``...`` for one or more; ``[word]`` and ``[key=KIND]`` at its end are options.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar


class Wrong(Exception):
    """What is wrong with a command."""


class Patterned(Protocol):
    @property
    def pattern(self) -> str: ...


P = TypeVar("P", bound=Patterned)

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
NUMBER = re.compile(r"\d+(\.\d+)?")
KINDS = ("INSTANCE", "VOLUME", "SNAPSHOT", "ADDRESS")
NEW = {f"NEW-{kind}": kind for kind in (*KINDS, "HOST")}
DEVICE = re.compile(r"(?P<instance>.+)/(xvda|sd[f-p])")


class Names:
    """What a scenario has named so far."""

    def __init__(self, hosts: Sequence[str], pools: Sequence[str]) -> None:
        self.of: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.of["HOST"] = list(hosts)
        self.of["POOL"] = list(pools)

    def check(self, kind: str, word: str) -> None:
        """Raises Wrong unless ``word`` can stand for a ``kind``."""
        if kind in NEW:
            if not NAME.fullmatch(word):
                raise Wrong(f"{word!r} is no name: small letters, digits and '-'")
            taken = next((other for other, names in self.of.items() if word in names), "")
            if taken:
                raise Wrong(f"{word} is the name of {_a(taken)} already")
        elif kind == "NUMBER":
            if not NUMBER.fullmatch(word):
                raise Wrong(f"{word!r} is no number")
        elif kind == "THING":
            if not any(self._has(each, word) for each in self.of):
                raise Wrong(f"nothing is named {word!r}{self._hint(word, *self.of)}")
        elif kind in self.of and not self._has(kind, word):
            raise Wrong(f"{_a(kind)} named {word!r} is not known{self._hint(word, kind)}")

    def _has(self, kind: str, word: str) -> bool:
        device = DEVICE.fullmatch(word)
        if kind == "VOLUME" and device is not None:
            return device["instance"] in self.of["INSTANCE"]
        return word in self.of[kind]

    def _hint(self, word: str, *kinds: str) -> str:
        known = [name for kind in kinds for name in self.of[kind]]
        near = difflib.get_close_matches(word, known, 1)
        if near:
            return f"; is it {near[0]}?"
        return f"; known: {', '.join(known)}" if known else "; there is none yet"

    def kind(self, word: str) -> str:
        """What ``word`` names."""
        return next(kind for kind in self.of if self._has(kind, word))

    def learn(self, kind: str, word: str) -> None:
        if kind in NEW:
            self.of[NEW[kind]].append(word)


def _a(kind: str) -> str:
    word = kind.lower()
    return f"{'an' if word[0] in 'aei' else 'a'} {word}"


def match(
    command: str, patterns: Sequence[P], names: Names, makes: bool = True
) -> tuple[P, tuple[str, ...], Mapping[str, str]]:
    """The pattern that a command is, the words that stand for its capitals and choices, and its options.

    New names are known from then on, if it ``makes`` what it says. Raises Wrong.
    """
    verb, *_ = command.split(" ")
    candidates = [each for each in patterns if each.pattern.split(" ")[0] == verb]
    if not candidates:
        known = list(dict.fromkeys(each.pattern.split(" ")[0] for each in patterns))
        near = difflib.get_close_matches(verb, known, 1)
        hint = f"is it {near[0]}?" if near else f"commands are: {', '.join(known)}"
        raise Wrong(f"there is no command {verb!r}; {hint}")
    reasons: list[tuple[int, str]] = []
    for candidate in candidates:
        try:
            words, options, new = _fits(command, candidate.pattern, names)
        except _Misfit as error:
            reasons.append((error.depth, str(error)))
            continue
        for kind, word in new if makes else ():
            names.learn(kind, word)
        return candidate, words, options
    _, reason = max(reasons, key=lambda each: each[0])
    forms = " | ".join(each.pattern for each in candidates)
    raise Wrong(f"{command!r}: {reason}. It is: {forms}")


class _Misfit(Exception):
    """``depth``: how many words fitted before."""

    def __init__(self, depth: int, why: str) -> None:
        super().__init__(why)
        self.depth = depth


def _fits(
    command: str, pattern: str, names: Names
) -> tuple[tuple[str, ...], dict[str, str], list[tuple[str, str]]]:
    slots = [slot for slot in pattern.split(" ") if not slot.startswith("[")]
    optional = [slot.strip("[]") for slot in pattern.split(" ") if slot.startswith("[")]
    keys = {slot.partition("=")[0]: slot.partition("=")[2] for slot in optional}
    given = command.split(" ")
    words = [word for word in given if not _is_option(word, keys)]
    options = dict(_option(word, keys, names, len(words)) for word in given if _is_option(word, keys))
    found: list[str] = []
    new: list[tuple[str, str]] = []
    at = 0
    for index, slot in enumerate(slots):
        if at >= len(words):
            raise _Misfit(at, f"{slot} is missing")
        last = index == len(slots) - 1
        count = len(words) - at if slot.endswith("...") and last else 1
        if slot.endswith("...") and not last:
            count = len(words) - at - (len(slots) - index - 1)
            if count < 1:
                raise _Misfit(at, f"{slot} is missing")
        for word in words[at : at + count]:
            _check(word, slot.removesuffix("..."), names, at, found)
            if slot.removesuffix("...") in NEW:
                if (slot.removesuffix("..."), word) in new:
                    raise _Misfit(at, f"{word} is named twice")
                new.append((slot.removesuffix("..."), word))
            at += 1
    if at < len(words):
        raise _Misfit(at, f"{words[at]!r} is too much")
    return tuple(found), options, new


def _check(word: str, slot: str, names: Names, depth: int, found: list[str]) -> None:
    if slot.isupper():
        try:
            names.check(slot, word)
        except Wrong as error:
            # The right words around it count more than that it is unknown.
            raise _Misfit(depth + 1, str(error)) from error
        found.append(word)
    elif "|" in slot:
        if word not in slot.split("|"):
            raise _Misfit(depth, f"{word!r} is none of {slot}")
        found.append(word)
    elif word != slot:
        raise _Misfit(depth, f"{word!r} is not {slot!r}")


def _is_option(word: str, keys: Mapping[str, str]) -> bool:
    return "=" in word or word in keys


def _option(word: str, keys: Mapping[str, str], names: Names, depth: int) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if key not in keys:
        raise _Misfit(depth, f"{key} is no option of it")
    kind = keys[key]
    if bool(equals) != bool(kind):
        raise _Misfit(depth, f"{key} is given as {key}={kind}" if kind else f"{key} takes no value")
    if kind:
        try:
            names.check(kind, value)
        except Wrong as error:
            raise _Misfit(depth, f"{key}: {error}") from error
    return key, value
