"""Running a tool: no shell, a time limit, bounded output, an error that says what went wrong."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gureum.images.errors import CommandError

OUTPUT_BYTES_MAX = 4 << 20


async def run(
    *argv: str | Path,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Runs `argv` and returns its standard output.

    `env` is added to the environment, whose language is always C. Raises CommandError when the command is
    missing, fails, takes longer than `timeout_s`, or talks too much.
    """
    name = Path(argv[0]).name
    # Input from a nameless file: unlike a pipe it never blocks, whatever the reader does.
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *map(str, argv),
                stdin=source,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C", "PATH": search_path(), **(env or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"{name}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output = await _read(process)
            status = await process.wait()
    except TimeoutError as error:
        raise CommandError(f"{name}: no end after {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    if status != 0 or len(output) > OUTPUT_BYTES_MAX:
        last = b" ".join(output[-600:].split()).decode(errors="replace")
        raise CommandError(f"{name}: exit status {status}: {last}")
    return output


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    chunks: list[bytes] = []
    size = 0
    while size <= OUTPUT_BYTES_MAX and (chunk := await process.stdout.read(65536)):
        chunks.append(chunk)
        size += len(chunk)
    if size > OUTPUT_BYTES_MAX:
        process.kill()
    return b"".join(chunks)


def search_path() -> str:
    """PATH with the system directories, where mkfs and debugfs are, and which a user's PATH may lack."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
