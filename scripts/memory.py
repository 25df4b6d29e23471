#!/usr/bin/env python3
"""Measures how much resident memory a burst costs a server, and how much of it is given back.

    target/release/midge -a 127.0.0.1 -p 4222 --shards 1 --no-pin &
    scripts/memory.py --port 4222 --server-pid $! connections --count 9000
    scripts/memory.py --port 4222 --server-pid $! subscriptions --count 1000000

`connections` opens that many clients, each with a name and one subscription, and lets them idle; `subscriptions`
makes that many on one connection. Both then disconnect. A freshly started server gives reproducible figures.
The limit on open files must be above the count, for the server too.
"""

import argparse
import resource
import socket
import time

CONNECT = b'CONNECT {"verbose":false,"lang":"py","version":"1.0.0","protocol":1,"name":"c%d"}\r\n'
LINES_AT_ONCE = 5000


def resident_kib(process):
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def until_pong(client):
    unread = b""
    while b"PONG\r\n" not in unread:
        received = client.recv(65536)
        if not received:
            raise SystemExit("the server closed a connection")
        unread = unread[-8:] + received


def connect(port, index):
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(CONNECT % index + b"PING\r\n")
    until_pong(client)
    return client


def open_connections(port, count):
    clients = []
    for index in range(count):
        client = connect(port, index)
        client.sendall(b"SUB idle.%d 1\r\nPING\r\n" % index)
        until_pong(client)
        clients.append(client)
    return clients


def open_subscriptions(port, count):
    client = connect(port, 0)
    for begin in range(0, count, LINES_AT_ONCE):
        sids = range(begin, min(begin + LINES_AT_ONCE, count))
        client.sendall(b"".join(b"SUB idle.%d %d\r\n" % (sid, sid) for sid in sids) + b"PING\r\n")
        until_pong(client)
    return [client]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--settle", type=float, default=50, help="seconds, before each figure")
    parser.add_argument("burst", choices=["connections", "subscriptions"])
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = resident_kib(arguments.server_pid)
    opener = open_connections if arguments.burst == "connections" else open_subscriptions
    clients = opener(arguments.port, arguments.count)
    time.sleep(arguments.settle)
    grown = resident_kib(arguments.server_pid) - before
    for client in clients:
        client.close()
    time.sleep(arguments.settle)
    after = resident_kib(arguments.server_pid)
    print(f"before {before} KiB, each of {arguments.burst} {grown * 1024 / arguments.count:.0f} bytes")
    print(f"after {after} KiB, {after / before:.2f} times as much as before")


if __name__ == "__main__":
    main()
