#!/usr/bin/env python3
"""Runs `nats bench service request` against two servers in turns and shows which answers more requests.

    scripts/service-bench.py --cli nats --rounds 7 \\
        --a "target/release/midge -a 127.0.0.1 -p {port}" --b "nats-server -a 127.0.0.1 -p {port}"

Each round starts either server fresh on a free port, with `nats bench service serve` beside it; nothing is pinned.
Prints requests per second of all clients together, medians with the lowest and highest round, and the median of the
rounds' ratios, above 1 if A is faster.
"""

import argparse
import re
import shlex
import signal
import socket
import statistics
import subprocess
import time

START_SECONDS_MAX = 15
RUN_SECONDS_MAX = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(holds, what):
    deadline = time.monotonic() + START_SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} within {START_SECONDS_MAX} s: no")
        time.sleep(0.02)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


def answers(port, subject):
    """Returns true once the subject is served: a request without responders fails at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        lines = b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB i 1\r\n'
        client.sendall(lines + b"PUB %s i 0\r\n\r\nPING\r\n" % subject.encode())
        received = b""
        while b"PONG\r\n" not in received or b"MSG" not in received:
            received += client.recv(65536)
        return b" 503" not in received


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(words):
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def number(text):
    return float(text.replace(",", ""))


def round_of(command, arguments):
    """Returns the requests per second of one fresh server."""
    port = free_port()
    server = start(shlex.split(command.replace("{port}", str(port))))
    try:
        wait_until(lambda: accepts(port), f"'{command}' accepts")
        nats = [arguments.cli, "--no-context", "-s", f"nats://127.0.0.1:{port}", "bench", "service"]
        size = ["--no-progress", "--size", arguments.size]
        service = start([*nats, "serve", "first.try", "--clients", str(arguments.services), *size])
        try:
            wait_until(lambda: answers(port, "first.try"), "the service answers")
            request = [*nats, "request", "first.try", "--clients", str(arguments.clients), *size]
            done = subprocess.run(
                [*request, "--msgs", str(arguments.messages)],
                capture_output=True,
                text=True,
                timeout=RUN_SECONDS_MAX,
                check=False,
            )
        finally:
            end(service)
    finally:
        end(server)
    told = done.stdout + done.stderr
    sums = re.findall(r"aggregated stats: ([\d,.]+) msgs/sec", told)
    rates = sums or re.findall(r"stats: ([\d,.]+) msgs/sec", told)
    if done.returncode != 0 or not rates:
        raise SystemExit(f"nats bench failed:\n{told}")
    return number(rates[-1])


def spread(values):
    return f"{statistics.median(values):.0f}/s [{min(values):.0f} - {max(values):.0f}]"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--a", required=True, help="command line with {port} in it")
    parser.add_argument("--b", required=True, help="the second server")
    parser.add_argument("--cli", default="nats", help="the NATS command line tool")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--services", type=int, default=1)
    parser.add_argument("--messages", type=int, default=20000)
    parser.add_argument("--size", default="128B")
    arguments = parser.parse_args()

    rates = {"a": [], "b": []}
    for index in range(arguments.rounds):
        for side in ("ab", "ba")[index % 2]:
            rates[side].append(round_of(getattr(arguments, side), arguments))
    ratios = [a / b for a, b in zip(rates["a"], rates["b"])]
    print(f"A {spread(rates['a'])}, B {spread(rates['b'])}, {arguments.clients} clients")
    low, high = min(ratios), max(ratios)
    print(f"A {statistics.median(ratios):.2f} x B [{low:.2f} - {high:.2f}], {arguments.rounds} rounds")


if __name__ == "__main__":
    main()
