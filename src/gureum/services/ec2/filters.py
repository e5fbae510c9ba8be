"""Filters of the Describe operations.

EC2's rules: an item has to satisfy every filter; a filter is satisfied by any of its values; ``*`` stands for
any text, ``?`` for any one character, a backslash takes their meaning away; values are case-sensitive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from gureum.errors import ApiError
from gureum.services.ec2 import limits
from gureum.services.ec2.faults import invalid_value


class Tagged(Protocol):
    """A record, or a part of one that has tags of its own."""

    @property
    def tags(self) -> Mapping[str, str]: ...


Match = Callable[[str], bool]
Source = Callable[[Any], Iterable[str]]
"""The texts that an item, or its record, has for a filter."""


class Condition(NamedTuple):
    source: Source
    match: Match

    def holds(self, subject: Any) -> bool:
        match = self.match
        return any(match(text) for text in self.source(subject))


class Query:
    """A request's filters.

    ``index`` is what the store can look up. ``admits`` tests a record, ``matches`` what was made of it.
    ``plain`` has the values, by the filter's name, of filters on items that have no wildcards.
    """

    def __init__(
        self,
        index: dict[str, list[str]],
        plain: dict[str, list[str]],
        on_record: list[Condition],
        on_item: list[Condition],
    ) -> None:
        self.index = index
        self.plain = plain
        self._on_record = on_record
        self._on_item = on_item

    @property
    def needs_item(self) -> bool:
        return bool(self._on_item)

    @property
    def sifts(self) -> bool:
        """Whether there is more to test than the store can look up."""
        return bool(self._on_item or self._on_record)

    def admits(self, record: Tagged) -> bool:
        return all(condition.holds(record) for condition in self._on_record)

    def matches(self, item: Mapping[str, Any]) -> bool:
        return all(condition.holds(item) for condition in self._on_item)


class Filters:
    """The filters that an operation knows.

    ``sources`` maps a filter's name to where its values are: a path into the described item (``State.Name``,
    ``Groups[].GroupId``), a field of the record (lower case: ``type``), or a function of the record.
    ``index`` maps names to the record's indexed fields; what ``sources`` say of the same name has to hold as
    well. The tag filters work on the record's tags.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Source],
        *,
        index: Mapping[str, str] | None = None,
        tags: bool = True,
    ) -> None:
        self._on_item: dict[str, Source] = {}
        self._on_record: dict[str, Source] = {}
        for name, source in sources.items():
            if isinstance(source, str) and source[0].isupper():
                self._on_item[name] = path(source)
            else:
                self._on_record[name] = field(source) if isinstance(source, str) else source
        self._index = dict(index or {})
        self._tags = tags

    @property
    def names(self) -> set[str]:
        return {*self._on_item, *self._on_record, *self._index}

    def parse(self, given: Sequence[Mapping[str, Any]] | None) -> Query:
        """Raises InvalidParameterValue for an unknown filter, FilterLimitExceeded for too many values."""
        index: dict[str, list[str]] = {}
        exact: dict[str, list[str]] = {}
        on_record: list[Condition] = []
        on_item: list[Condition] = []
        total = 0
        for entry in given or ():
            name, values = entry.get("Name") or "", entry.get("Values") or ()
            total += len(values)
            if total > limits.FILTER_VALUES_MAX:
                raise ApiError(
                    "FilterLimitExceeded",
                    "The maximum number of filter values specified on a single call is "
                    f"{limits.FILTER_VALUES_MAX}",
                )
            if not values:
                raise invalid_value(f"The filter '{name}' needs at least one value")
            matches, plain = matcher(values)
            if name in self._index and plain and self._index[name] not in index:
                index[self._index[name]] = list(values)
                if name in self._on_record:
                    on_record.append(Condition(self._on_record[name], matches))
            elif (source := self._record_source(name)) is not None:
                on_record.append(Condition(source, matches))
            elif name in self._on_item:
                on_item.append(Condition(self._on_item[name], matches))
                if plain:
                    exact[name] = list(values)
            else:
                raise invalid_value(f"The filter '{name}' is invalid")
        return Query(index, exact, on_record, on_item)

    def _record_source(self, name: str) -> Source | None:
        if name in self._on_record:
            return self._on_record[name]
        if self._tags:
            if name == "tag-key":
                return _tag_keys
            if name == "tag-value":
                return _tag_values
            if name.startswith("tag:") and len(name) > 4:
                return _tag(name[4:])
        if name in self._index:
            return field(self._index[name])
        return None


def matcher(values: Iterable[str]) -> tuple[Match, bool]:
    """A test for any of these values, and whether they are plain (without wildcards or escapes)."""
    plain: set[str] = set()
    patterns: list[str] = []
    for value in values:
        if "*" in value or "?" in value or "\\" in value:
            patterns.append(_regex(value))
        else:
            plain.add(value)
    if not patterns:
        return plain.__contains__, True
    found = re.compile("|".join(patterns), re.DOTALL).fullmatch
    return (lambda text: text in plain or found(text) is not None), False


def _regex(value: str) -> str:
    """The pattern as a regular expression that never backtracks past a star, however many there are."""
    parts = [""]
    characters = iter(value)
    for character in characters:
        if character == "\\":
            parts[-1] += re.escape(next(characters, "\\"))
        elif character == "*":
            parts.append("")
        else:
            parts[-1] += "." if character == "?" else re.escape(character)
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    # The first place where a part between stars fits is as good as any later one, so it is final: (?>...).
    return first + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last


def texts(value: Any) -> Iterator[str]:
    """A value as filters see it: booleans in lower case, times as ISO 8601 with milliseconds."""
    if value is None or value == "":
        return
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, datetime):
        yield iso(value)
    elif isinstance(value, list | tuple):
        for element in value:
            yield from texts(element)
    else:
        yield str(value)


def iso(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"


def field(name: str) -> Source:
    return lambda record: texts(getattr(record, name))


def path(text: str) -> Source:
    """A source for a path such as ``Groups[].GroupId``."""
    steps = tuple(text.split("."))

    def source(item: Any) -> Iterator[str]:
        return _walk(item, steps)

    return source


def _walk(value: Any, steps: tuple[str, ...]) -> Iterator[str]:
    for position, step in enumerate(steps):
        if value is None:
            return
        if step.endswith("[]"):
            for element in value.get(step[:-2]) or ():
                yield from _walk(element, steps[position + 1 :])
            return
        value = value.get(step)
    yield from texts(value)


def _tag(key: str) -> Source:
    def source(record: Tagged) -> Iterable[str]:
        value = record.tags.get(key)
        return () if value is None else (value,)

    return source


def _tag_keys(record: Tagged) -> Iterable[str]:
    return record.tags.keys()


def _tag_values(record: Tagged) -> Iterable[str]:
    return record.tags.values()
