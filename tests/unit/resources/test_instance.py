"""What an instance's record says of itself."""

from __future__ import annotations

from tests.unit.control.conftest import instance


def test_the_next_generation_is_one_that_no_machine_of_it_has_had() -> None:
    assert instance(generation=3).next_generation == 4
    assert instance(generation=3, generations=7).next_generation == 8
    assert instance(generation=8, generations=7).next_generation == 9
