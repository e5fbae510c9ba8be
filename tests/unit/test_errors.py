from __future__ import annotations

import inspect

from gureum import errors
from gureum.errors import ApiError, GureumError


def test_the_tree_in_the_docstring_names_every_error_below_its_parent() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        words = line.lstrip("│├└─ ").split()
        if not words or not words[0][0].isupper() or words[0] not in vars(errors):
            continue
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        path[depth:] = [words[0]]
        drawn[words[0]] = path[depth - 1] if depth else ""
    real = {
        name: each.__base__.__name__
        for name, each in vars(errors).items()
        if inspect.isclass(each)
        and issubclass(each, GureumError)
        and each is not GureumError
        and each.__base__
    }
    assert drawn == {"GureumError": "", **real}


def test_an_api_error_carries_what_a_client_gets() -> None:
    error = ApiError("NoSuchThing", "no", 404, fields={"Resource": "x"})
    assert (error.code, error.message, error.status) == ("NoSuchThing", "no", 404)
    assert error.fields == {"Resource": "x"}
    assert str(error) == "NoSuchThing: no"
