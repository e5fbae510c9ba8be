from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from gureum.sim.campaign import Done
from gureum.sim.campaign_ledger import Build, CampaignLedger, LedgerError, Range, include, includes
from gureum.sim.modes import MODES, runs

OLD, NEW = Build("0.8.0", "aaaa"), Build("0.8.0", "bbbb")


def done(mode: str, seed: int, violation: str = "") -> Done:
    return Done(seed=seed, mode=mode, cpu_seconds=0.5, calls=3, violation=violation)


def test_ranges_are_what_was_put_in() -> None:
    rng = random.Random(1)
    for _ in range(200):
        ranges: list[Range] = []
        seeds: set[int] = set()
        for _ in range(rng.randint(1, 40)):
            seed = rng.randrange(50)
            include(ranges, seed)
            seeds.add(seed)
        assert {seed for low, high in ranges for seed in range(low, high + 1)} == seeds
        assert all(after[0] > before[1] + 1 for before, after in itertools.pairwise(ranges))
        assert [includes(ranges, seed) for seed in range(51)] == [seed in seeds for seed in range(51)]


def test_another_one_goes_on_where_it_ended(tmp_path: Path) -> None:
    path, count = tmp_path / "ledger", 3 * len(MODES)
    ledger = CampaignLedger(path)
    ledger.open()
    todo = list(ledger.left(runs(0, count), OLD))
    assert todo == list(runs(0, count))
    for run in todo[:20]:
        ledger.add(done(run.mode, run.seed), OLD, "")
    ledger.save()
    ledger.close()
    after = CampaignLedger(path)
    assert list(after.left(runs(0, count), NEW)) == todo[20:]
    tally = after.book.modes["one host"][0]
    assert (tally.seeds, tally.runs, tally.cpu_seconds, tally.calls) == ([(0, 1)], 2, 1.0, 6)
    for run in todo[20:]:
        after.add(done(run.mode, run.seed), NEW, "")
    assert not list(after.left(runs(0, count), NEW))
    assert [(each.commit, each.seeds) for each in after.book.modes["one host"]] == [
        ("aaaa", [(0, 1)]),
        ("bbbb", [(2, 2)]),
    ]


def test_a_violation_is_open_until_the_same_run_is_right(tmp_path: Path) -> None:
    ledger = CampaignLedger(tmp_path / "ledger")
    ledger.add(done("quiet", 4, "it runs twice"), OLD, "gureum sim run 4")
    todo = [run for run in runs(4, len(MODES)) if run.mode == "quiet"]
    assert not ledger.has(todo[0])
    assert not list(ledger.left(todo, OLD))  # it would find the same
    assert list(ledger.left(todo, NEW)) == todo
    assert list(ledger.left(todo, Build("0.8.0", ""))) == todo
    ledger.add(done("quiet", 4, "it runs thrice"), NEW, "gureum sim run 4")
    [found] = ledger.open_violations()
    assert (found.message, found.commit, found.again) == ("it runs thrice", "bbbb", "gureum sim run 4")
    ledger.add(done("quiet", 4), Build("0.8.0", "cccc"), "")
    assert not list(ledger.open_violations())
    assert [each.right for each in ledger.book.violations] == ["cccc"]
    assert ledger.has(todo[0])


def test_what_is_uncommitted_is_never_the_same_code() -> None:
    ledger, changed = CampaignLedger(), Build("0.8.0", "aaaa+changed")
    ledger.add(done("quiet", 4, "it runs twice"), changed, "")
    todo = [run for run in runs(4, len(MODES)) if run.mode == "quiet"]
    assert list(ledger.left(todo, changed)) == todo


def test_only_one_writes_it(tmp_path: Path) -> None:
    first, second = CampaignLedger(tmp_path / "ledger"), CampaignLedger(tmp_path / "ledger")
    first.open()
    with pytest.raises(LedgerError, match="another campaign writes"):
        second.open()
    first.add(done("quiet", 1), OLD, "")
    first.save()
    first.close()
    second.open()
    assert second.book.modes["quiet"][0].seeds == [(1, 1)]
    second.close()


def test_what_is_no_ledger_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for text, said in (("{", "no ledger"), ('{"Format": 2}', "format 2"), ('{"Modes": 1}', "no ledger")):
        path.write_text(text)
        with pytest.raises(LedgerError, match=said):
            CampaignLedger(path)
        assert path.read_text() == text


def test_the_file_says_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = CampaignLedger(path)
    ledger.add(done("quiet", 4), OLD, "")
    ledger.add(done("quiet", 5, "it runs twice"), OLD, "gureum sim run 5")
    ledger.save()
    kept = json.loads(path.read_text())
    assert kept["Format"] == 1
    assert kept["Modes"]["quiet"][0]["Seeds"] == [[4, 4]]
    assert (kept["Violations"][0]["Mode"], kept["Violations"][0]["Seed"]) == ("quiet", 5)
    assert [each.name for each in tmp_path.iterdir()] == ["ledger"]
