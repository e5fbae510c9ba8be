import json
import shlex
import subprocess

import pytest

from gureum.cli.config import CloudConfig
from gureum.cli.exports import render, variables
from gureum.cli.output import CliError

CONFIG = CloudConfig(
    name="c", index=0, account_id="123456789012", access_key_id="GUKEY", secret_access_key="a'b\\c$d+/ e"
)


def test_shell_gives_back_what_was_put_in() -> None:
    code = render(CONFIG, "shell") + "\nprintenv AWS_SECRET_ACCESS_KEY; printenv AWS_ENDPOINT_URL"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [CONFIG.secret_access_key, "http://127.0.0.1:4566"]


def test_fish_quotes() -> None:
    assert "set -gx AWS_SECRET_ACCESS_KEY 'a\\'b\\\\c$d+/ e'" in render(CONFIG, "fish")


def test_json() -> None:
    assert json.loads(render(CONFIG, "json")) == variables(CONFIG)


def test_names() -> None:
    names = [shlex.split(line)[1].partition("=")[0] for line in render(CONFIG, "shell").splitlines()]
    assert names == [
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    ]


def test_unknown_style() -> None:
    with pytest.raises(CliError, match="no format 'csh'"):
        render(CONFIG, "csh")
