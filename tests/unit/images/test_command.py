import pytest

from gureum.images import command
from gureum.images.command import run
from gureum.images.errors import CommandError


async def test_output_and_input() -> None:
    assert await run("cat", timeout_s=10, stdin=b"text") == b"text"
    assert await run("sh", "-c", "echo $WORD $LC_ALL", timeout_s=10, env={"WORD": "hello"}) == b"hello C\n"


async def test_failure_names_the_command_and_its_last_words() -> None:
    with pytest.raises(CommandError, match="sh: exit status 3: no good"):
        await run("sh", "-c", "echo no good >&2; exit 3", timeout_s=10)


async def test_missing_command() -> None:
    with pytest.raises(CommandError, match="no-such-tool: No such file"):
        await run("no-such-tool", timeout_s=10)


async def test_time_limit_kills_the_whole_group() -> None:
    with pytest.raises(CommandError, match="no end after"):
        await run("sh", "-c", "sleep 1000 & sleep 1000", timeout_s=0.2)


async def test_output_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "OUTPUT_BYTES_MAX", 1000)
    with pytest.raises(CommandError):
        await run("yes", timeout_s=10)


async def test_command_that_ignores_its_input() -> None:
    assert await run("true", timeout_s=10, stdin=b"x" * (1 << 20)) == b""
