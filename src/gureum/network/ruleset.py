"""An nftables table as a value, and the transaction that turns one into another.

``nft -f`` applies a file in one atomic step: a packet meets the old table or the new one, never a mixture.
Replacing a table whole leaves connection tracking alone: established flows go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec


class Chain(msgspec.Struct, frozen=True):
    """``hook`` is "" for a chain that is jumped to, else its ``type ... policy ...;`` line."""

    rules: tuple[str, ...] = ()
    hook: str = ""


class Set(msgspec.Struct, frozen=True):
    """A named set, or a map if its type has a colon. ``elements``: keys, for a map with their values.

    ``timeout`` (as "60s") is when an element that a rule added and no longer touches goes away; ``size``
    is how many elements rules may add, for which the kernel makes room at once. ``of`` "typeof": the type
    is given by expressions.
    """

    type: str
    elements: Mapping[str, str] = {}
    flags: str = ""
    timeout: str = ""
    size: int = 0
    of: str = "type"

    @property
    def kind(self) -> str:
        return "map" if ":" in self.type else "set"


class Table(msgspec.Struct, frozen=True):
    """``name`` with its family, as in "inet gureum"."""

    name: str
    counters: tuple[str, ...] = ()
    sets: Mapping[str, Set] = {}
    chains: Mapping[str, Chain] = {}
    comment: str = ""


def replace_table(table: Table) -> str:
    """The transaction that makes the table what it says, whatever it was before."""
    comment = f' {{ comment "{table.comment}"; }}' if table.comment else ""
    lines = [f"table {table.name}", f"delete table {table.name}", f"add table {table.name}{comment}"]
    lines += [f"add counter {table.name} {counter}" for counter in table.counters]
    lines += _declare(table, table.sets, table.chains)
    lines += _fill(table.name, table.sets, table.chains)
    return _text(lines)


def change_table(old: Table, new: Table) -> str:
    """The transaction from ``old`` to ``new``, as long as the difference; "" for none."""
    if _shape(old) != _shape(new):
        return replace_table(new)
    name = new.name
    sets = {key: value for key, value in new.sets.items() if key not in old.sets}
    chains = {key: value for key, value in new.chains.items() if key not in old.chains}
    changed = {
        key: value
        for key, value in new.chains.items()
        if key in old.chains and value.rules != old.chains[key].rules
    }
    gone = [key for key in old.chains if key not in new.chains]
    lines = _declare(new, sets, chains)
    lines += [f"flush chain {name} {key}" for key in (*gone, *changed)]
    for key, value in new.sets.items():
        if key in old.sets and old.sets[key] is not value:
            lines += _change_elements(_difference(name, key, old.sets[key], value))
    lines += [f"delete chain {name} {key}" for key in gone if old.chains[key].hook]
    lines += [f"flush {old.sets[key].kind} {name} {key}" for key in old.sets if key not in new.sets]
    lines += _fill(name, sets, {**chains, **changed})
    lines += [f"delete chain {name} {key}" for key in gone if not old.chains[key].hook]
    lines += [f"delete {old.sets[key].kind} {name} {key}" for key in old.sets if key not in new.sets]
    return _text(lines)


class Change(msgspec.Struct, frozen=True):
    """Elements of a set that go, and then those that come; by key, for a map with their values."""

    table: str
    key: str
    set: Set
    gone: Mapping[str, str]
    come: Mapping[str, str]


def contents(table: Table) -> list[Change]:
    """What fills the table's sets."""
    return [Change(table.name, key, found, {}, found.elements) for key, found in table.sets.items()]


def emptied(table: Table) -> Table:
    """The same without elements."""
    sets = {
        key: msgspec.structs.replace(found, elements={}) if found.elements else found
        for key, found in table.sets.items()
    }
    return msgspec.structs.replace(table, sets=sets)


def with_sets(table: Table, sets: Mapping[str, Set]) -> tuple[Table, list[Change]]:
    """The table with these in place of those of the same type that it has, and what is different then."""
    found = {key: value for key, value in sets.items() if key in table.sets}
    changes = [_difference(table.name, key, table.sets[key], value) for key, value in found.items()]
    return msgspec.structs.replace(table, sets={**table.sets, **found}), changes


def changed_elements(old: Table, new: Table) -> list[Change] | None:
    """What is different, if that is elements only; else None."""
    if old is new:
        return []
    if _shape(old) != _shape(new) or old.chains != new.chains or old.sets.keys() != new.sets.keys():
        return None
    return [
        _difference(new.name, key, old.sets[key], value)
        for key, value in new.sets.items()
        if old.sets[key] is not value and old.sets[key].elements != value.elements
    ]


def _difference(table: str, key: str, old: Set, new: Set) -> Change:
    gone = {element: "" for element, value in old.elements.items() if new.elements.get(element) != value}
    come = {element: value for element, value in new.elements.items() if old.elements.get(element) != value}
    return Change(table, key, new, gone, come)


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _shape(table: Table) -> tuple[object, ...]:
    """What cannot be changed in place, apart from whole sets and chains that come or go."""
    return table.name, table.counters, table.comment


def _declare(table: Table, sets: Mapping[str, Set], chains: Mapping[str, Chain]) -> list[str]:
    lines = []
    for key, value in sets.items():
        flags = f" flags {value.flags};" if value.flags else ""
        timeout = f" timeout {value.timeout};" if value.timeout else ""
        size = f" size {value.size};" if value.size else ""
        lines.append(
            f"add {value.kind} {table.name} {key} {{ {value.of} {value.type};{flags}{timeout}{size} }}"
        )
    for key, chain in chains.items():
        lines.append(f"add chain {table.name} {key}" + (f" {{ {chain.hook} }}" if chain.hook else ""))
    return lines


def _fill(name: str, sets: Mapping[str, Set], chains: Mapping[str, Chain]) -> list[str]:
    lines = [f"add rule {name} {key} {rule}" for key, chain in chains.items() for rule in chain.rules]
    for key, value in sets.items():
        lines += _elements("add", name, key, value.elements)
    return lines


def change_elements(changes: Iterable[Change]) -> str:
    """The transaction that makes these."""
    return _text([line for change in changes for line in _change_elements(change)])


def _change_elements(change: Change) -> Iterator[str]:
    yield from _elements("delete", change.table, change.key, change.gone)
    yield from _elements("add", change.table, change.key, change.come)


def _elements(verb: str, name: str, key: str, elements: Mapping[str, str]) -> Iterator[str]:
    if elements:
        texts = (f"{element} : {value}" if value else element for element, value in elements.items())
        yield f"{verb} element {name} {key} {{ {', '.join(texts)} }}"
