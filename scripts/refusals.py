#!/usr/bin/env python3
"""Measures the CPU time that a refused connection costs a server: Midge and nats-server, in turns."""

import argparse
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PASSWORD = b'CONNECT {"verbose":false,"pedantic":false,"user":"a","pass":"no"}\r\n'
KINDS = {
    "bad login": ("authorization { users: [ {user: a, password: a} ] }\n", PASSWORD),
    "one too many": ("max_connections: 1\n", b""),
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_ns(process):
    """Returns user and system time of all threads, ended ones included, with the resolution of the kernel's tick."""
    with open(f"/proc/{process}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def open_one(port):
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    return client


def refuse(port, says, count, at_once):
    """Connects `count` times, `at_once` at a time, and waits until each has its error and is closed."""
    selector, left, done = selectors.DefaultSelector(), count, 0
    until = time.monotonic() + 120
    while done < count:
        while left > 0 and len(selector.get_map()) < at_once:
            left -= 1
            selector.register(open_one(port), selectors.EVENT_READ, [False, b""])
        if time.monotonic() > until:
            sys.exit("not all were refused within two minutes")
        for key, _ in selector.select(1):
            client, state = key.fileobj, key.data
            try:
                heard = client.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                heard = b""
            state[1] += heard
            if heard and not state[0] and state[1].startswith(b"INFO"):
                state[0] = True
                if says:
                    client.send(says)
            if not heard:
                if b"-ERR" not in state[1]:
                    sys.exit(f"closed without a word: {state[1]}")
                selector.unregister(client)
                client.close()
                done += 1


def measure(command, kind, arguments):
    text, says = KINDS[kind]
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(text)
        config.flush()
        command = [*command.split(), "-a", "127.0.0.1", "-p", str(port), "-c", config.name]
        server = subprocess.Popen(
            ["taskset", "-c", arguments.pin_server, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        try:
            until = time.monotonic() + 10
            while True:
                try:
                    # The connection that occupies the only place.
                    first = open_one(port)
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > until:
                        sys.exit(f"{command[0]} does not accept")
                    time.sleep(0.05)
            time.sleep(0.3)
            refuse(port, says, 500, arguments.at_once)
            before = cpu_ns(server.pid)
            refuse(port, says, arguments.count, arguments.at_once)
            spent = cpu_ns(server.pid) - before
            first.close()
        finally:
            server.terminate()
            server.wait()
    return spent / arguments.count / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--midge", default="target/release/midge --shards 1 --no-pin")
    parser.add_argument("--nats", default="nats-server")
    parser.add_argument("--count", type=int, default=10_000, help="refusals of a run (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=100, help="connections at a time (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="each runs both servers (default %(default)s)")
    parser.add_argument("--pin-server", default="0", help="core of the server (default %(default)s)")
    parser.add_argument("--pin-load", default="1", help="core of the load (default %(default)s)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {int(core) for core in re.split(",", arguments.pin_load)})
    for kind in KINDS:
        figures = {"midge": [], "nats-server": []}
        for turn in range(arguments.rounds):
            pair = [("midge", arguments.midge), ("nats-server", arguments.nats)]
            for name, command in pair if turn % 2 == 0 else reversed(pair):
                figures[name].append(measure(command, kind, arguments))
        for name, all_rounds in figures.items():
            middle = statistics.median(all_rounds)
            print(
                f"{kind:14} {name:12} {middle:7.1f} us of CPU per refusal"
                f" [{min(all_rounds):.1f} - {max(all_rounds):.1f}]"
            )


if __name__ == "__main__":
    main()
