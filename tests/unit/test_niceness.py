from __future__ import annotations

import subprocess
import sys

import pytest

from gureum.niceness import SESSION

PROGRAM = """
import os
from gureum.niceness import SESSION, set_niceness
set_niceness(7)
print(os.getpriority(os.PRIO_PROCESS, 0), SESSION.read_text() if SESSION.exists() else "")
"""


def said() -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, start_new_session=True, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_a_process_is_nice_to_those_of_its_session() -> None:
    assert said()[0] == "7"


@pytest.mark.skipif(not SESSION.exists(), reason="this kernel has no autogroup")
def test_and_its_session_to_others() -> None:
    assert said()[2:] == ["nice", "7"]
