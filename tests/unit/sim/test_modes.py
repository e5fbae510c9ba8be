from __future__ import annotations

from gureum.cli.campaign import again_of
from gureum.sim.modes import MODES, Seeded, runs


def test_each_seed_has_a_run_of_each_mode() -> None:
    count = 2 * len(MODES) + 1
    found = list(runs(7, count))
    assert len(set(found)) == count
    assert found[: len(MODES)] == [Seeded(mode, 7) for mode in MODES]
    assert found[-1] == Seeded(next(iter(MODES)), 9)


def test_a_mode_is_what_the_cli_can_say() -> None:
    said = {mode: again_of(mode, 5) for mode in MODES}
    assert len(set(said.values())) == len(MODES)
    assert said["lost hosts"] == "gureum sim run 5 --hosts 3 --shared --ha"
    assert said["parked"] == "gureum sim run 5 --hosts 3 --shared --parking --pace 25 --steps 40"
    assert "--autosizing" in said["autosized"]
