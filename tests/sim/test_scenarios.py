"""Every named situation: what happens in it is what its log says. `gureum sim scenario NAME --update` keeps
another one.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from gureum.sim.scenario import LOG, folders, golden, play, read

FOLDERS = list(folders(Path(__file__).parent / "scenarios"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_it_goes_as_its_log_says(folder: Path) -> None:
    played = play(read(folder))
    assert played.failure == "", f"{played.failure}\n\n{played.log}"
    kept = golden(folder).splitlines()
    difference = difflib.unified_diff(kept, played.log.splitlines(), "kept", "now", lineterm="", n=2)
    if text := "\n".join(difference):
        pytest.fail(f"{text}\n\nIf this is right: gureum sim scenario {folder.name} --update", pytrace=False)


def test_every_log_is_of_a_situation() -> None:
    root = Path(__file__).parent / "scenarios"
    assert {path.parent for path in root.glob(f"*/{LOG}")} == set(FOLDERS)
