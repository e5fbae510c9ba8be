"""The commands of the CLI: one line of help each, and what they need to be installed.

Standard library only: the launcher shows this help and looks up needs before there is a virtual environment.
"""

from dataclasses import dataclass, field

from gureum.cli.packages import Need

TYPED_VARIABLE = "GUREUM_TYPED"
"""In the environment: how the launcher was called, where `gureum` alone would not be found."""


@dataclass(frozen=True)
class Command:
    """`dev` asks for the development lock (test tools) rather than the one that runs a cloud."""

    help: str
    needs: frozenset[Need] = field(default_factory=frozenset)
    dev: bool = False


_RUN = frozenset({Need.RUN})
_RUN_IMAGE = frozenset({Need.RUN, Need.IMAGE})

COMMANDS: dict[str, Command] = {
    "up": Command("Start a cloud, in the foreground or with -d in the background.", _RUN_IMAGE),
    "down": Command("Stop a cloud and power its guests off; `up` starts them again."),
    "status": Command("Show processes, endpoint and instances of a cloud."),
    "env": Command('Print shell exports for AWS tools: eval "$(gureum env)".'),
    "console": Command("Connect to an instance's serial console."),
    "logs": Command("Show the logs of a cloud's processes."),
    "host": Command("List, add, drain and remove the hosts of a cloud.", _RUN),
    "manager": Command("Let other machines have managers of a cloud, to take over from each other.", _RUN),
    "instance": Command(
        "List instances with their hosts, and say where they are to be and what becomes of them."
    ),
    "events": Command("Show what happened to hosts and instances, and what was decided.", _RUN),
    "san": Command("Show, check, back up and restore a cloud's storage, and change its disks."),
    "volume": Command("Move a cloud's volumes between pools, also while guests write to them."),
    "net": Command("Ask about a cloud's network: would a packet get there?"),
    "sim": Command("Simulate a cloud: random runs from a seed, and named situations."),
    "image": Command("Build and list machine images.", _RUN_IMAGE),
    "doctor": Command("Tell what this machine can and cannot do, and what helps."),
    "demo": Command("Run the whole story on a cloud of its own, checking every step.", _RUN_IMAGE),
    "bench": Command("Measure this machine's cloud against its peers.", _RUN_IMAGE | {Need.TEST}, dev=True),
    "test": Command("Run the checks and tests.", frozenset({Need.TEST}), dev=True),
    "version": Command("Print the version."),
}

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "something is missing on this machine (packages, root, Python), and may not be installed unasked",
    4: "the cloud is not running",
    130: "interrupted",
}


def exit_code_help() -> str:
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
