"""What is read of a ping."""

import pytest

from gureum.bench.migration import longest_gap
from gureum.bench.servers import BenchError

SAID = """\
PING 198.18.0.5 (198.18.0.5) 56(84) bytes of data.
[1750000000.000000] 64 bytes from 198.18.0.5: icmp_seq=1 ttl=62 time=0.4 ms
[1750000000.002500] 64 bytes from 198.18.0.5: icmp_seq=2 ttl=62 time=0.4 ms
[1750000000.100000] From 198.18.0.1 icmp_seq=3 Destination Host Unreachable
[1750000000.252500] 64 bytes from 198.18.0.5: icmp_seq=100 ttl=62 time=0.4 ms
[1750000000.254500] 64 bytes from 198.18.0.5: icmp_seq=101 ttl=62 time=0.4 ms
"""


def test_only_answers_count() -> None:
    assert longest_gap(SAID) == pytest.approx(0.25)


def test_those_about_a_moment() -> None:
    assert longest_gap(SAID, 1750000000.3) == pytest.approx(0.25)
    assert longest_gap(SAID, 1750000000.354) == pytest.approx(0.002, rel=0.01)


def test_who_does_not_answer_has_no_gap() -> None:
    with pytest.raises(BenchError):
        longest_gap(SAID[:130])
