"""What manager and agent have in common as processes."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path


def arguments(program: str, description: str) -> argparse.Namespace:
    """The command line: ``--state-dir`` (absolute), and the agent's ``--host`` and ``--evacuate``."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--state-dir", type=lambda text: Path(text).absolute(), required=True)
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
