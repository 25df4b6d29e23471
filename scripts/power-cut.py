#!/usr/bin/env python3
"""Power cuts under load on a block device that forgets what was not synced.

    scripts/power-cut.py [--rounds N] [--seed N] PROGRAM

PROGRAM is the built test `store_kill` (`cargo test --test store_kill --no-run` prints its path). Needs root, /dev/fuse
and loop devices; the kernel needs no device-mapper.

A file system of this script's own (FUSE) holds one file, the disk: what is written to it stays in memory until it is
synced. A loop device makes a block device of the file, whose flush is that sync; on it is ext4, and on that the store,
which says how many records are durable while it writes. After a random number of writes the disk keeps a random part of what was
not synced, sector by sector, and answers nothing but errors from then on. The image it leaves is mounted again, ext4
recovers, the store reads its journal, and every record that it called durable must be there, unchanged and in order.
"""

import argparse
import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

DISK_BYTES = 96 << 20
PAGE = 4096
SECTOR = 512
FILE_NODE = 2
HEADER = struct.Struct("<IIQQIIII")
EIO, ENOENT, ENOSYS = 5, 2, 38
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE = 1, 2, 3, 4, 14, 15, 16
STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, RELEASEDIR = 17, 18, 20, 25, 26, 27, 29
INTERRUPT, BATCH_FORGET = 36, 42

libc = ctypes.CDLL(None, use_errno=True)


def mount(source, target, kind, options):
    flags = 2 | 4  # no set-user-id programs, no devices
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount " + target)


class ForgetfulDisk(threading.Thread):
    """Serves the file until it loses its power, with the last write of so many; then errors."""

    def __init__(self, image, folder, generator):
        super().__init__(daemon=True)
        self.image = image
        self.generator = generator
        self.volatile = {}
        self.has_power = True
        self.writes_left = None
        self.outcome = "no power cut"
        self.syncs = 0
        self.device = os.open("/dev/fuse", os.O_RDWR)
        mount("disk", folder, "fuse", f"fd={self.device},rootmode=40000,user_id=0,group_id=0,max_read=131072")

    def cut(self):
        self.has_power = False
        chance = self.generator.choice([0.0, 0.1, 0.5, 0.9])
        kept = 0
        for page, data in self.volatile.items():
            for start in range(0, PAGE, SECTOR):
                if self.generator.random() < chance:
                    kept += 1
                    at = page * PAGE + start
                    self.image[at : at + SECTOR] = data[start : start + SECTOR]
        pages = len(self.volatile)
        self.outcome = f"{self.syncs} syncs, {pages} pages not synced, {kept} sectors of them kept"

    def run(self):
        while True:
            try:
                request = os.read(self.device, 1 << 20)
            except OSError:
                return  # unmounted
            _, opcode, unique, node, _, _, _, _ = HEADER.unpack_from(request)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer = self.answer(opcode, node, request[HEADER.size :])
            error, body = (answer, b"") if isinstance(answer, int) else (0, answer)
            head = struct.pack("<IiQ", 16 + len(body), -error, unique)
            try:
                os.write(self.device, head + body)
            except OSError:
                return

    def attributes(self, node):
        size, mode = (DISK_BYTES, 0o100600) if node == FILE_NODE else (0, 0o040700)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)

    def answer(self, opcode, node, body):
        if opcode == INIT:
            major, minor, readahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack("<IIIIHHIIHHIIIIII", 7, min(minor, 31), readahead, 0, 12, 10, 131072, 1, 32, 0, 0, 0, 0, 0, 0, 0)
        if opcode == LOOKUP:
            if body.rstrip(b"\0") != b"disk":
                return ENOENT
            return struct.pack("<QQQQII", FILE_NODE, 0, 3600, 3600, 0, 0) + self.attributes(FILE_NODE)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            # Past the page cache: what is written is here at once, and may be kept or lost sector by sector.
            return struct.pack("<QII", 0, 1 if opcode == OPEN else 0, 0)
        if opcode in (RELEASE, RELEASEDIR, FLUSH):
            return b""
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 20, 1 << 20, 10, 10, PAGE, 255, PAGE, 0)
        if not self.has_power:
            return EIO
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self.read(offset, size)
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self.write(offset, body[40 : 40 + size])
            if self.writes_left is not None:
                self.writes_left -= 1
                if self.writes_left == 0:
                    self.cut()
            return struct.pack("<II", size, 0)
        if opcode == FSYNC:
            for page, data in self.volatile.items():
                self.image[page * PAGE : (page + 1) * PAGE] = data
            self.volatile.clear()
            self.syncs += 1
            return b""
        return ENOSYS

    def read(self, offset, size):
        end = min(offset + size, DISK_BYTES)
        parts = bytearray(self.image[offset:end])
        for page in range(offset // PAGE, (end + PAGE - 1) // PAGE):
            if page in self.volatile:
                start, stop = max(page * PAGE, offset), min((page + 1) * PAGE, end)
                parts[start - offset : stop - offset] = self.volatile[page][start - page * PAGE : stop - page * PAGE]
        return bytes(parts)

    def write(self, offset, data):
        at = 0
        while at < len(data):
            page, inside = divmod(offset + at, PAGE)
            length = min(PAGE - inside, len(data) - at)
            if page not in self.volatile:
                self.volatile[page] = bytearray(self.image[page * PAGE : (page + 1) * PAGE])
            self.volatile[page][inside : inside + length] = data[at : at + length]
            at += length


def call(*words, quiet=False):
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(words, check=not quiet, stdout=output, stderr=output)


def loop_device(path):
    return subprocess.run(["losetup", "--find", "--show", path], check=True, capture_output=True, text=True).stdout.strip()


def last_number(lines):
    whole = [line for line in lines if line.endswith(".\n")]
    return int(whole[-1].rstrip(".\n")) if whole else None


def write_until_cut(program, image, folder, generator):
    """Lets the store write on the disk until its power is cut; returns what it called durable, or none."""
    disk_folder, store_folder = os.path.join(folder, "fuse"), os.path.join(folder, "mounted")
    disk = ForgetfulDisk(image, disk_folder, generator)
    disk.start()
    device = loop_device(os.path.join(disk_folder, "disk"))
    try:
        call("mount", "-t", "ext4", device, store_folder)
        disk.writes_left = generator.randrange(1, 400)
        environment = dict(os.environ, MIDGE_STORE_KILL_FOLDER=store_folder)
        child = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = child.stdout.readlines()  # it ends once a write fails
        child.wait(60)
        return last_number(lines), disk.outcome
    finally:
        call("umount", store_folder, quiet=True)
        call("losetup", "--detach", device, quiet=True)
        call("umount", "--lazy", disk_folder, quiet=True)


def read_back(program, image, folder):
    """The number of records that are there, each checked by the program; the image is as ext4 and the store left it."""
    path, store_folder = os.path.join(folder, "image"), os.path.join(folder, "mounted")
    with open(path, "wb") as file:
        file.write(image)
    device = loop_device(path)
    try:
        call("mount", "-t", "ext4", device, store_folder)
        environment = dict(os.environ, MIDGE_STORE_KILL_FOLDER=store_folder, MIDGE_STORE_KILL_READ="1")
        run = subprocess.run([program], env=environment, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit("what the power cut left is not read: " + run.stderr)
        count = last_number(run.stdout.splitlines(True))
    finally:
        call("umount", store_folder, quiet=True)
        call("losetup", "--detach", device, quiet=True)
    with open(path, "rb") as file:
        image[:] = file.read()
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"--seed {options.seed}")
    generator = random.Random(options.seed)
    folder = tempfile.mkdtemp(prefix="midge-power-cut-")
    try:
        for name in ("fuse", "mounted"):
            os.mkdir(os.path.join(folder, name))
        path = os.path.join(folder, "image")
        with open(path, "wb") as file:
            file.truncate(DISK_BYTES)
        call("mkfs.ext4", "-q", "-F", path)
        with open(path, "rb") as file:
            image = bytearray(file.read())
        before = 0
        for number in range(options.rounds):
            durable, what = write_until_cut(options.program, image, folder, generator)
            count = read_back(options.program, image, folder)
            print(f"round {number}: {before} before, {durable} durable, {count} there; {what}", flush=True)
            if count < max(durable or 0, before):
                sys.exit("records that were durable are gone")
            before = count
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
