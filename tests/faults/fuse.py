"""A file system in memory that keeps a journal of all that is done to it: the FUSE protocol, by hand.

    python fuse.py MOUNTPOINT JOURNAL

The kernel's own interface (linux/fuse.h) rather than a library's: it speaks of inodes, as the journal does,
and needs nothing to be installed. Locks, memory maps and O_DIRECT are the kernel's business. Its cache is
written through, so requests come in the order of the system calls behind them.

Setting the attribute ``user.mark`` of the root writes its value into the journal.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import resource
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = 1
WRITE_BYTES_MAX = 1 << 20
REQUEST_BYTES_MAX = WRITE_BYTES_MAX + 4096
FOREVER = 1 << 30
"""Seconds for which the kernel may keep names and attributes: nobody else changes them."""
MS_NOSUID, MS_NODEV = 2, 4
BIG_WRITES, PARALLEL_DIROPS, MAX_PAGES = 1 << 5, 1 << 18, 1 << 22
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_MTIME = 1, 2, 4, 8, 32
KEEP_SIZE, PUNCH_HOLE = 1, 2
RENAME_NOREPLACE = 1
SPACE_BLOCKS = 1 << 24
BLOCK_BYTES = 4096

IN = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
TRANSFER = struct.Struct("<QQIIQII")


class Node:
    def __init__(self, ino: int, mode: int, uid: int, gid: int, target: bytes = b"") -> None:
        self.ino, self.mode, self.uid, self.gid, self.target = ino, mode, uid, gid, target
        self.links = self.opens = 0
        self.mtime_ns = time.time_ns()
        self.entries: dict[bytes, Node] = {}
        self.file = os.memfd_create(str(ino)) if stat.S_ISREG(mode) else None

    def release(self) -> None:
        if not self.links and not self.opens and self.file is not None:
            os.close(self.file)
            self.file = None

    def attributes(self) -> bytes:
        size = blocks = 0
        if self.file is not None:
            found = os.fstat(self.file)
            size, blocks = found.st_size, found.st_blocks
        elif self.target:
            size = len(self.target)
        seconds, nanoseconds = divmod(self.mtime_ns, 10**9)
        links = max(self.links, 1) + stat.S_ISDIR(self.mode)
        return ATTRIBUTES.pack(
            *(self.ino, size, blocks, seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds),
            *(self.mode, links, self.uid, self.gid, 0, BLOCK_BYTES, 0),
        )

    def entry(self) -> bytes:
        return ENTRY.pack(self.ino, 0, FOREVER, FOREVER, 0, 0) + self.attributes()

    def answer(self) -> bytes:
        return struct.pack("<QII", FOREVER, 0, 0) + self.attributes()


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def words(data: bytes, count: int = 1) -> list[bytes]:
    return data.split(b"\0")[:count]


class FileSystem:
    """Each request is a method: the node that it names, who asks, its data; returns the answer's data."""

    def __init__(self, journal: int) -> None:
        self.journal = journal
        self.nodes: dict[int, Node] = {}
        root = self.make(stat.S_IFDIR | 0o755, 0, 0)
        root.links = 1
        self.requests: dict[int, Callable[[Node, tuple[int, int], bytes], bytes]] = {
            1: self.lookup,
            3: self.getattr,
            4: self.setattr,
            5: self.readlink,
            6: self.symlink,
            8: self.mknod,
            9: self.mkdir,
            10: self.unlink,
            11: self.rmdir,
            12: self.rename,
            13: self.link,
            14: self.open,
            15: self.read,
            16: self.write,
            17: self.statfs,
            18: self.close,
            20: self.fsync,
            21: self.setxattr,
            25: self.nothing,
            26: self.init,
            27: self.opendir,
            28: self.readdir,
            29: self.nothing,
            30: self.fsync,
            35: self.create,
            43: self.fallocate,
            45: self.rename2,
            46: self.lseek,
        }

    def log(self, *operation: object) -> None:
        os.write(self.journal, marshal.dumps(operation))

    def make(self, mode: int, uid: int, gid: int, target: bytes = b"") -> Node:
        ino = len(self.nodes) + ROOT
        node = self.nodes[ino] = Node(ino, mode, uid, gid, target)
        if ino != ROOT:
            self.log("inode", ino, mode, os.fsdecode(target))
            if uid or gid:
                self.log("owner", ino, mode, uid, gid)
        return node

    def add(self, parent: Node, name: bytes, node: Node) -> None:
        parent.entries[name] = node
        node.links += 1
        parent.mtime_ns = time.time_ns()
        self.log("link", parent.ino, os.fsdecode(name), node.ino)

    def new(self, parent: Node, name: bytes, mode: int, who: tuple[int, int], target: bytes = b"") -> Node:
        if name in parent.entries:
            raise fail(errno.EEXIST)
        node = self.make(mode, *who, target)
        self.add(parent, name, node)
        return node

    def child(self, parent: Node, name: bytes) -> Node:
        if (node := parent.entries.get(name)) is None:
            raise fail(errno.ENOENT)
        return node

    # --- requests: names

    def init(self, _node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        offered = struct.unpack_from("<IIII", data)[3]
        flags = offered & (BIG_WRITES | PARALLEL_DIROPS | MAX_PAGES)
        pages = WRITE_BYTES_MAX // BLOCK_BYTES
        return struct.pack(
            "<IIIIHHIIHHIIHH20x",
            7,
            31,
            WRITE_BYTES_MAX,
            flags,
            16,
            12,
            WRITE_BYTES_MAX,
            1,
            pages,
            0,
            0,
            0,
            0,
            0,
        )

    def lookup(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        return self.child(node, words(data)[0]).entry()

    def readlink(self, node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        return node.target

    def symlink(self, node: Node, who: tuple[int, int], data: bytes) -> bytes:
        name, target = words(data, 2)
        return self.new(node, name, stat.S_IFLNK | 0o777, who, target).entry()

    def mknod(self, node: Node, who: tuple[int, int], data: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", data)
        return self.new(node, words(data[16:])[0], mode, who).entry()

    def mkdir(self, node: Node, who: tuple[int, int], data: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", data)
        return self.new(node, words(data[8:])[0], stat.S_IFDIR | stat.S_IMODE(mode), who).entry()

    def create(self, node: Node, who: tuple[int, int], data: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", data)
        made = self.new(node, words(data[16:])[0], mode, who)
        return made.entry() + self.open(made, who, b"")

    def link(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        (ino,) = struct.unpack_from("<Q", data)
        name = words(data[8:])[0]
        if name in node.entries:
            raise fail(errno.EEXIST)
        self.add(node, name, self.nodes[ino])
        return self.nodes[ino].entry()

    def unlink(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        name = words(data)[0]
        self.drop(self.child(node, name))
        del node.entries[name]
        self.log("unlink", node.ino, os.fsdecode(name))
        return b""

    def drop(self, node: Node) -> None:
        node.links -= 1
        node.release()

    def rmdir(self, node: Node, who: tuple[int, int], data: bytes) -> bytes:
        if self.child(node, words(data)[0]).entries:
            raise fail(errno.ENOTEMPTY)
        return self.unlink(node, who, data)

    def rename(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        (parent,) = struct.unpack_from("<Q", data)
        return self.move(node, self.nodes[parent], *words(data[8:], 2), 0)

    def rename2(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        parent, flags = struct.unpack_from("<QI", data)
        return self.move(node, self.nodes[parent], *words(data[16:], 2), flags)

    def move(self, old: Node, new: Node, old_name: bytes, new_name: bytes, flags: int) -> bytes:
        if flags & ~RENAME_NOREPLACE:
            raise fail(errno.EINVAL)
        node, replaced = self.child(old, old_name), new.entries.get(new_name)
        if replaced is node:
            return b""
        if replaced is not None:
            if flags:
                raise fail(errno.EEXIST)
            if replaced.entries:
                raise fail(errno.ENOTEMPTY)
            self.drop(replaced)
        del old.entries[old_name]
        new.entries[new_name] = node
        names = os.fsdecode(old_name), os.fsdecode(new_name)
        self.log("rename", old.ino, names[0], new.ino, names[1], node.ino)
        return b""

    def opendir(self, _node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def readdir(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(data)
        found = b""
        for number, (name, entry) in enumerate(list(node.entries.items())[offset:], offset + 1):
            one = struct.pack("<QQII", entry.ino, number, len(name), stat.S_IFMT(entry.mode) >> 12) + name
            one = one.ljust(-(-len(one) // 8) * 8, b"\0")
            if len(found) + len(one) > size:
                break
            found += one
        return found

    # --- requests: contents

    def getattr(self, node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        return node.answer()

    def setattr(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode, _, uid, gid, _ = SETATTR.unpack_from(data)
        if valid & (SET_MODE | SET_UID | SET_GID):
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode) if valid & SET_MODE else node.mode
            node.uid = uid if valid & SET_UID else node.uid
            node.gid = gid if valid & SET_GID else node.gid
            self.log("owner", node.ino, node.mode, node.uid, node.gid)
        if valid & SET_SIZE and node.file is not None:
            os.ftruncate(node.file, size)
            self.log("size", node.ino, size)
        node.mtime_ns = mtime * 10**9 + mtime_ns if valid & SET_MTIME else time.time_ns()
        return node.answer()

    def open(self, node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        node.opens += 1
        return struct.pack("<QII", 0, 0, 0)

    def close(self, node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        node.opens -= 1
        node.release()
        return b""

    def read(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(data)
        assert node.file is not None
        return os.pread(node.file, size, offset)

    def write(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(data)
        assert node.file is not None
        written = data[TRANSFER.size : TRANSFER.size + size]
        os.pwrite(node.file, written, offset)
        node.mtime_ns = time.time_ns()
        self.log("write", node.ino, offset, written)
        return struct.pack("<II", size, 0)

    def fallocate(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        _, offset, length, mode = struct.unpack_from("<QQQI", data)
        assert node.file is not None
        size = os.fstat(node.file).st_size
        if mode == 0:
            if offset + length > size:
                os.ftruncate(node.file, offset + length)
                self.log("size", node.ino, offset + length)
        elif mode == PUNCH_HOLE | KEEP_SIZE:
            zeros = max(0, min(length, size - offset))
            os.pwrite(node.file, bytes(zeros), offset)
            self.log("hole", node.ino, offset, length)
        else:
            raise fail(errno.EOPNOTSUPP)
        return b""

    def lseek(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        _, offset, whence = struct.unpack_from("<QQI", data)
        assert node.file is not None
        return struct.pack("<Q", os.lseek(node.file, offset, whence))

    def fsync(self, node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        self.log("sync", node.ino)
        return b""

    def setxattr(self, node: Node, _who: tuple[int, int], data: bytes) -> bytes:
        (size,) = struct.unpack_from("<I", data)
        name, _, rest = data[8:].partition(b"\0")
        if node.ino != ROOT or name != b"user.mark":
            raise fail(errno.EOPNOTSUPP)
        self.log("mark", rest[:size].decode())
        return b""

    def statfs(self, _node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        blocks = (SPACE_BLOCKS,) * 5
        return struct.pack("<QQQQQIIII24x", *blocks, BLOCK_BYTES, 255, BLOCK_BYTES, 0)

    def nothing(self, _node: Node, _who: tuple[int, int], _data: bytes) -> bytes:
        return b""

    # --- the kernel

    def serve(self, device: int) -> None:
        """Until the file system is unmounted."""
        while True:
            try:
                request = os.read(device, REQUEST_BYTES_MAX)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):  # the request was taken back
                    continue
                raise
            _, kind, unique, ino, uid, gid, _, _, _ = IN.unpack_from(request)
            if kind in (2, 36, 42):  # forget, interrupt: no answer
                continue
            failure, answer = 0, b""
            if (handle := self.requests.get(kind)) is None:
                failure = errno.ENOSYS
            else:
                try:
                    answer = handle(self.nodes.get(ino, self.nodes[ROOT]), (uid, gid), request[IN.size :])
                except OSError as error:
                    failure = error.errno or errno.EIO
            try:
                os.write(device, OUT.pack(OUT.size + len(answer), -failure, unique) + answer)
            except FileNotFoundError:  # nobody waits for it any more
                continue


def main(mountpoint: str, journal: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    files = FileSystem(os.open(Path(journal), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"journal", os.fsencode(mountpoint), b"fuse", MS_NOSUID | MS_NODEV, options.encode()):
        raise fail(ctypes.get_errno())
    print("mounted", flush=True)
    files.serve(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
