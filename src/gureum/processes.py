"""What manager and agent have in common as processes."""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import time
from pathlib import Path

OPEN_FILES_MAX = 65536
"""1024, what a process may usually have open, are 250 guests of an agent, with up to four sockets a port; and
fewer hosts than a manager lets in.
"""


def arguments(program: str, description: str) -> argparse.Namespace:
    """The command line: ``--state-dir`` (absolute), a manager's ``--number``, an agent's ``--host``,
    ``--evacuate``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--state-dir", type=lambda text: Path(text).absolute(), required=True)
    if program == "gureum.control":
        parser.add_argument("--number", type=int, help="which of several managers on this machine")
    if program == "gureum.agent":
        parser.add_argument(
            "--host",
            type=int,
            help="which of several hosts on this machine; without it the machine is the host",
        )
        parser.add_argument(
            "--evacuate",
            action="store_true",
            help="shut every guest down, remove this cloud's network from the host, and end",
        )
    return parser.parse_args()


def log_to_stderr(level: int = logging.INFO) -> None:
    """Lines for people, in UTC: time, level, module, text."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler])


def allow_files() -> None:
    """As many as this process may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
