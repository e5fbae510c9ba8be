from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.cli.config import INDEX_COUNT, CloudConfig
from gureum.errors import NetworkError
from gureum.network.names import INDEX_MAX, LINK_SLOTS, NETWORK_ID_MAX, Names, choose_slot, tap_name

DEVICE_NAME_MAX = 15


@given(st.integers(0, INDEX_MAX), st.integers(0, NETWORK_ID_MAX))
def test_names_fit_and_are_found_again(index: int, network_id: int) -> None:
    names = Names(index)
    assert len(names.uplink(network_id)) <= DEVICE_NAME_MAX
    assert names.network_id(names.uplink(network_id)) == network_id
    assert names.network_id(names.namespace(network_id)) == network_id


@pytest.mark.parametrize("name", ["gm1-5", "gu11-5", "gu1-", "gu1-x", "eth0", "gm11-5x", ""])
def test_names_of_others_are_not_ours(name: str) -> None:
    names = Names(11)
    assert names.network_id("gu11-5") == 5
    if name != "gu11-5":
        assert names.network_id(name) is None


@pytest.mark.parametrize("index", [-1, 64])
def test_index_out_of_range(index: int) -> None:
    with pytest.raises(NetworkError):
        Names(index)


@given(st.integers(0, INDEX_MAX))
def test_the_usual_public_range_is_the_one_of_the_configuration(index: int) -> None:
    keys = {"access_key_id": "", "secret_access_key": ""}
    config = CloudConfig(name="cloud", index=index, account_id="1" * 12, **keys)
    assert str(Names(index).public) == config.public_cidr
    assert Names(index, "10.0.0.0/24").public == IPv4Network("10.0.0.0/24")


def test_there_is_a_range_for_every_index_that_a_cloud_can_have() -> None:
    assert INDEX_MAX == INDEX_COUNT - 1
    ranges = [Names(index).public for index in range(INDEX_COUNT)]
    assert sum(network.num_addresses for network in ranges) == 1 << 16
    assert all(network.subnet_of(IPv4Network("198.18.0.0/16")) for network in ranges)
    assert len(set(ranges)) == INDEX_COUNT


def test_link_addresses_belong_to_their_slot_and_cloud() -> None:
    names = Names(3)
    seen = {address for slot in range(LINK_SLOTS) for address in names.link(slot)}
    assert len(seen) == 2 * LINK_SLOTS
    assert names.link(127) == ("198.19.3.254", "198.19.3.255")
    assert names.slot("198.19.3.254") == 127
    assert names.slot("198.19.4.0") is None


@given(st.lists(st.integers(0, NETWORK_ID_MAX), max_size=LINK_SLOTS, unique=True))
def test_slots_are_distinct(network_ids: list[int]) -> None:
    used: set[int] = set()
    for network_id in network_ids:
        slot = choose_slot(network_id, used)
        assert slot not in used
        used.add(slot)


def test_slots_run_out() -> None:
    with pytest.raises(NetworkError, match="128"):
        choose_slot(1, set(range(LINK_SLOTS)))


@given(st.text(min_size=1))
def test_tap_names_fit(interface: str) -> None:
    assert len(tap_name(interface)) <= DEVICE_NAME_MAX
    assert tap_name(interface).isalnum()


def test_tap_name_shows_the_id() -> None:
    assert tap_name("eni-0123456789abcdef0") == "t3456789abcdef0"
