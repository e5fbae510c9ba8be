"""Whether the way to other hosts is there."""

from gureum.network.uplink import is_down


def test_a_device_that_runs() -> None:
    assert not is_down("lo")


def test_a_device_that_is_not_there() -> None:
    assert is_down("gureum-none")
