import os
import subprocess

from gureum.bench import losses
from gureum.bench.losses import Lost


def test_the_longest_is_promised() -> None:
    started, answered = losses._figures("a host is killed", [Lost(6.0, 20.0), Lost(10.5, 19.0)])
    assert (started.value, started.is_met, started.samples) == (10.5, False, (6.0, 10.5))
    assert (answered.value, answered.is_met) == (20.0, None)


def test_state_of_a_process() -> None:
    assert losses.state(os.getpid()) in ("R", "S")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        pass
    assert losses.state(process.pid) == ""
