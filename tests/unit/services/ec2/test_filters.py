from __future__ import annotations

import re
from datetime import UTC, datetime
from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.errors import ApiError
from gureum.resources import KeyPair
from gureum.services.ec2.filters import Filters, matcher, path, texts

CREATED = datetime(2027, 1, 2, 3, 4, 5, 678000, UTC)
PAIR = KeyPair(
    id="key-1",
    account="1",
    tags={"role": "web", "empty": ""},
    name="me",
    type="rsa",
    public_key="",
    fingerprint="f",
    created=CREATED,
)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("web", "web", True),
        ("web", "Web", False),
        ("w*", "web", True),
        ("*", "", True),
        ("?", "", False),
        ("w?b", "web", True),
        ("w?b", "wb", False),
        ("***", "anything", True),
        (r"a\*b", "a*b", True),
        (r"a\*b", "axb", False),
        (r"a\?", "a?", True),
        ("a\\", "a\\", True),
        ("a.b*", "a.bc", True),
        ("a.b*", "axbc", False),
        ("a*b", "a\nb", True),
        ("[ab]*", "a", False),
    ],
)
def test_matching(pattern: str, text: str, expected: bool) -> None:
    assert matcher([pattern])[0](text) is expected


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_are_those_of_the_shell(pattern: str, text: str) -> None:
    assert matcher([pattern])[0](text) is bool(re.fullmatch(translate(pattern), text))


def test_many_stars_do_not_explode() -> None:
    match, _ = matcher(["*a" * 12 + "b"])
    assert not match("a" * 200)


def test_any_of_the_values() -> None:
    match, plain = matcher(["a", "b*"])
    assert not plain
    assert [match(text) for text in ("a", "bc", "c")] == [True, True, False]
    assert matcher(["a", "b"])[1]


def test_texts() -> None:
    assert list(texts([True, None, "", "x", 5, CREATED])) == ["true", "x", "5", "2027-01-02T03:04:05.678Z"]


def test_paths() -> None:
    item = {"A": {"B": [{"C": 1}, {"C": None}, {"C": 2}], "D": None}, "E": ["x", "y"]}
    assert list(path("A.B[].C")(item)) == ["1", "2"]
    assert list(path("A.D.E")(item)) == []
    assert list(path("E")(item)) == ["x", "y"]
    assert list(path("Missing[].C")(item)) == []


FILTERS = Filters(
    {"kind": "type", "made": "created", "shown": "Shown", "fixed": lambda record: ("1",)},
    index={"name": "name"},
)


def admitted(name: str, *values: str) -> bool:
    return FILTERS.parse([{"Name": name, "Values": list(values)}]).admits(PAIR)


def test_fields_and_functions_of_the_record() -> None:
    assert admitted("kind", "rsa", "x")
    assert not admitted("kind", "dsa")
    assert admitted("made", "2027-01-02*")
    assert admitted("fixed", "1")


def test_tags() -> None:
    assert admitted("tag:role", "w*")
    assert not admitted("tag:role", "db")
    assert not admitted("tag:other", "*")
    assert admitted("tag:empty", "")
    assert admitted("tag-key", "role")
    assert not admitted("tag-key", "web")
    assert admitted("tag-value", "web")


def test_plain_values_of_an_indexed_field_are_looked_up() -> None:
    query = FILTERS.parse([{"Name": "name", "Values": ["a", "b"]}])
    assert query.index == {"name": ["a", "b"]}
    assert not query.sifts


def test_wildcards_on_an_indexed_field_are_tested() -> None:
    query = FILTERS.parse([{"Name": "name", "Values": ["m*"]}])
    assert query.index == {}
    assert query.sifts
    assert query.admits(PAIR)


def test_a_second_filter_on_an_indexed_field_is_tested() -> None:
    query = FILTERS.parse([{"Name": "name", "Values": ["me"]}, {"Name": "name", "Values": ["you"]}])
    assert query.index == {"name": ["me"]}
    assert not query.admits(PAIR)


def test_items() -> None:
    query = FILTERS.parse([{"Name": "shown", "Values": ["yes"]}])
    assert query.needs_item
    assert query.admits(PAIR)
    assert query.matches({"Shown": "yes"})
    assert not query.matches({"Shown": "no"})
    assert query.plain == {"shown": ["yes"]}


@pytest.mark.parametrize("name", ["colour", "tag:", "", "Kind"])
def test_unknown(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        FILTERS.parse([{"Name": name, "Values": ["x"]}])
    assert caught.value.code == "InvalidParameterValue"
    assert caught.value.message == f"The filter '{name}' is invalid"


def test_no_tags_where_there_are_none() -> None:
    with pytest.raises(ApiError):
        Filters({}, tags=False).parse([{"Name": "tag:a", "Values": ["x"]}])


def test_nothing_given() -> None:
    query = FILTERS.parse(None)
    assert not query.sifts
    assert query.admits(PAIR)
    assert query.matches({})
