"""Reports that are not told again: whatever is lost, the other end has what was meant, or is told it all."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from gureum.errors import TransportError
from gureum.hostspec import HostReport, MachineReport, MachineState
from gureum.transport.messages import Report, Same, Word, decode, encode
from gureum.transport.reports import ReportReceiver, ReportSender

MACHINE = MachineReport(id="i-1", generation=1, state=MachineState.running)


def report(sequence: int, **values: object) -> HostReport:
    said = HostReport(cloud="c", host="h", boot_id="b", revision=7, sequence=sequence, machines=(MACHINE,))
    return replace(said, **values)


def wired(message: Report | Same | Word) -> Report | Same | Word:
    received = decode(encode(message)[4:])
    assert isinstance(received, Report | Same | Word)
    return received


def test_what_was_answered_and_is_still_so_is_not_told_again() -> None:
    sender, receiver = ReportSender(), ReportReceiver()
    first = sender.message(report(1))
    assert first == Report(report(1))
    sender.answered(Word(1, same=True))
    second = sender.message(report(2))
    assert second == Same(sequence=2, base=1)
    assert [receiver.take(each) for each in (first, second)] == [report(1), report(2)]
    assert len(encode(second)) < 40
    news = sender.message(report(3, uplink_down=True))
    assert news == Report(report(3, uplink_down=True))
    sender.answered(Word(2, same=True))  # of what was before
    assert isinstance(sender.message(report(4, uplink_down=True)), Report)


@pytest.mark.parametrize("word", [Word(1), Word(0, same=True), Word(2, same=True)])
def test_without_an_answer_of_one_who_knows_of_it_all_are_whole(word: Word) -> None:
    sender = ReportSender()
    sender.message(report(1))
    sender.answered(word)
    assert isinstance(sender.message(report(2)), Report)


def test_a_manager_of_before_says_nothing_of_it() -> None:
    assert encode(Word(5))[4:] == b"\x82\xa4type\xa4word\xa8sequence\x05"


def test_one_that_is_as_what_never_came_ends_the_link() -> None:
    receiver = ReportReceiver()
    with pytest.raises(TransportError, match="there was none"):
        receiver.take(Same(sequence=2, base=1))
    receiver.take(Report(report(3)))
    with pytest.raises(TransportError, match="the last one is 3"):
        receiver.take(Same(sequence=4, base=1))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_or_comes_twice(seed: int) -> None:
    chance, sender, receiver = random.Random(seed), ReportSender(), ReportReceiver()
    said, brief = report(0), 0
    for sequence in range(1, 300):
        if chance.random() < 0.2:
            said = replace(said, revision=chance.randrange(3))
        meant = replace(said, sequence=sequence)
        message = sender.message(meant)
        brief += isinstance(message, Same)
        for _ in range(chance.choice((0, 1, 1, 2))):
            taken = wired(message)
            assert not isinstance(taken, Word)
            assert receiver.take(taken) == meant
            if chance.random() < 0.7:
                word = wired(Word(sequence, same=True))
                assert isinstance(word, Word)
                sender.answered(word)
    assert brief > 50
