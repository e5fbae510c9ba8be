"""How tests are shared out among processes."""

import os
import subprocess
import sys
from pathlib import Path

from support.shares import FIRST, TOGETHER, VPC

ROOT = Path(__file__).resolve().parents[2]
HOOK = """
from support.shares import Shares
def pytest_xdist_make_scheduler(config, log):
    return Shares(config, log)
"""
TEST = """
import os, time
from pathlib import Path
def test_one():
    with open({order!r}, "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + " {name}\\n")
    time.sleep(0.5)
def test_two():
    test_one()
"""


def test_what_is_named_is_there() -> None:
    assert [each for each in (*FIRST, *TOGETHER) if not (ROOT / each).exists()] == []


def test_a_directory_stays_together_and_what_takes_long_is_begun_first(tmp_path: Path) -> None:
    order = tmp_path / "order"
    names = ("tests/a_test.py", "tests/b_test.py", f"{VPC}c_test.py", f"{VPC}d_test.py", FIRST[0])
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TEST.format(order=str(order), name=name))
    (tmp_path / "conftest.py").write_text(HOOK)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npython_files = ["*test*.py"]\naddopts = ["--import-mode=importlib"]\n'
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadfile",
    ]
    subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")}, check=True, timeout=120
    )
    ran: dict[str, list[str]] = {}
    for line in order.read_text().splitlines():
        worker, name = line.split()
        ran.setdefault(worker, []).append(name)
    begun = {found[0] for found in ran.values()}
    assert begun == {FIRST[0], names[2]}
    [of_vpc] = [found for found in ran.values() if found[0] == names[2]]
    assert of_vpc[:4] == [names[2]] * 2 + [names[3]] * 2
    assert sorted(name for found in ran.values() for name in found) == sorted(names * 2)
