"""An OSD whose disk answers with errors when it is told so.

The kernel's answers to its reads or writes of data are changed on their way to it, by a library that is
loaded before libaio: all above that is as on a broken disk.
"""

from __future__ import annotations

import errno
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..host import environment

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct event { void *data; char *request; long result, more; };
enum { OPERATION = 16 };  /* where struct iocb has it: 0 and 7 read, 1 and 8 write */

int io_getevents(void *context, long least, long most, struct event *events, void *timeout) {
    static int (*real)(void *, long, long, struct event *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "io_getevents");
    int count = real(context, least, most, events, timeout);
    int writes, error;
    FILE *told = fopen(getenv("FAILING_DISK"), "r");
    if (told && fscanf(told, "%d %d", &writes, &error) == 2)
        for (int i = 0; i < count; i++) {
            short operation = *(short *)(events[i].request + OPERATION);
            if (operation == writes || operation == writes + 7) events[i].result = -error;
        }
    if (told) fclose(told);
    return count;
}
"""
WRAPPER = """#!/bin/bash
[[ " $* " == *" --id {id} "* ]] && export LD_PRELOAD={library} FAILING_DISK={told}
exec -a ceph-osd {program} "$@"
"""


class FailingDisk:
    """That of one OSD."""

    def __init__(self, directory: Path) -> None:
        self._told = directory / "told"

    @contextmanager
    def reads(self, error: int = errno.EIO) -> Iterator[None]:
        with self._fail(0, error):
            yield

    @contextmanager
    def writes(self, error: int = errno.EIO) -> Iterator[None]:
        with self._fail(1, error):
            yield

    @contextmanager
    def _fail(self, writes: int, error: int) -> Iterator[None]:
        new = self._told.with_suffix(".new")
        new.write_text(f"{writes} {error}")
        new.rename(self._told)
        try:
            yield
        finally:
            self._told.unlink()


@contextmanager
def failing_disk(id: int) -> Iterator[FailingDisk]:
    """Of the OSDs that are started meanwhile by whoever inherits the environment, this one's."""
    program = shutil.which("ceph-osd")
    assert program is not None
    # Ceph's own user must be able to pass, which it cannot below pytest's directories.
    directory = Path(tempfile.mkdtemp(prefix="gureum-san-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        source, library, wrapper = (directory / name for name in ("fail.c", "fail.so", "ceph-osd"))
        source.write_text(LIBRARY)
        build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(build, check=True, timeout=60)
        wrapper.write_text(WRAPPER.format(id=id, library=library, told=directory / "told", program=program))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        with environment({"PATH": f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin"}):
            yield FailingDisk(directory)
    finally:
        shutil.rmtree(directory)
