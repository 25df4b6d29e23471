#!/usr/bin/env python3
"""Measures what scraping costs other clients: the latency of a pair with and without it.

Starts Midge, and in each round measures a talking pair beside many idle connections twice: once without scraping,
once while all monitoring endpoints are requested 100 times a second. Every second round begins with the scraped
half. Prints each round, then the medians and the median ratio of each percentile. Rounds in which scraping was too
slow, a scrape failed, connections were missing or the harness found a measurement invalid are left out.
Ends with status 2 if there was such a round, or if --ratio-max is given and the median ratio of p99 is above it; with
status 1 if it could not measure at all.

Cores: the server gets --pin-server, load and scraper share --pin-load. The server's monitoring thread runs on the
server's cores, below the shards' priority.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PERCENTILES = [50.0, 90.0, 99.0, 99.9]


def cores(text):
    found = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


class Scraper:
    """A persistent HTTP/1.1 connection, as cheap as possible: it shares the load's core, and its cost there would
    be counted against the server."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.socket = None
        self.buffer = bytearray(1 << 22)

    def ask(self, request):
        """Returns (status, bytes of the body). Raises OSError if the server closes or gives no length."""
        if self.socket is None:
            self.socket = socket.create_connection(self.address, timeout=10)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.sendall(request)
            have, whole, view = 0, None, memoryview(self.buffer)
            while whole is None or have < whole:
                got = self.socket.recv_into(view[have:])
                if got == 0:
                    raise OSError("closed in the middle of an answer")
                have += got
                if whole is None:
                    head = self.buffer.find(b"\r\n\r\n", 0, have)
                    if head >= 0:
                        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", self.buffer[:head])
                        if length is None:
                            raise OSError("an answer without Content-Length")
                        body = int(length[1])
                        whole = head + 4 + body
            return int(self.buffer[9:12]), body
        except OSError:
            self.socket.close()
            self.socket = None
            raise


def scrape(address, paths, per_second, pinned, stop, result):
    """Open loop: a scrape that is late does not move those after it."""
    if pinned:
        os.sched_setaffinity(0, pinned)
    scraper = Scraper(address)
    requests = [f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode() for path in paths]
    begin = time.monotonic()
    done, failed, sizes, slowest = 0, 0, 0, 0.0
    while not stop.is_set():
        due = begin + done / per_second
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        asked = time.monotonic()
        try:
            status, size = scraper.ask(requests[done % len(requests)])
            sizes += size
            failed += status != 200
        except OSError:
            failed += 1
        slowest = max(slowest, time.monotonic() - asked)
        done += 1
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result.put({"done": done, "failed": failed, "bytes": sizes, "slowest": slowest,
                "cpu_us": (usage.ru_utime + usage.ru_stime) * 1e6 / max(1, done),
                "per_second": done / (time.monotonic() - begin)})


def probe(arguments, port, work):
    """Makes one run of the harness; returns percentiles in microseconds of the pair beside the idle connections."""
    command = [arguments.bench, "connections", "--server", f"nats://127.0.0.1:{port}",
               "--connections", str(arguments.connections), "--rate", arguments.rate,
               "--duration", arguments.duration, "--no-floor", "--quiet", "--format", "json"]
    if arguments.pin_load:
        command += ["--pin-load", arguments.pin_load]
    with open(os.path.join(work, "bench.log"), "w") as log:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=False)
    if ended.returncode not in (0, 2):
        with open(os.path.join(work, "bench.log")) as log:
            sys.exit(f"midge-bench failed: {log.read()}")
    run = json.loads(ended.stdout)["runs"][0]
    # The probe before is ignored, and an invalid one has no curve.
    parts = [part for part in run.get("invalid_parts", []) if not part.startswith("probe before")]
    faults = run.get("faults", []) + parts
    curve = run.get("curves", {}).get("probe with all open")
    if curve is None and not faults:
        faults = ["no probe with all connections open"]

    def at(percentile):
        # The smallest percentile that is not below it.
        points = curve["points"]
        return next((value for share, value in points if share >= percentile), points[-1][1]) / 1000

    return {"faults": faults, "open": run["figures"]["connections_open"]["value"],
            "us": None if faults else {p: at(p) for p in PERCENTILES}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release")
    parser.add_argument("--midge", default=os.path.join(here, "midge"))
    parser.add_argument("--bench", default=os.path.join(here, "midge-bench"))
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--scrapes", type=float, default=100, help="a second, over all endpoints (default 100)")
    parser.add_argument("--paths", default="/metrics,/varz,/connz,/subsz,/accstatz,/healthz",
                        help="asked in turn (default %(default)s)")
    parser.add_argument("--rate", default="5k", help="messages a second of the pair (default 5k)")
    parser.add_argument("--duration", default="10s", help="of each half of a round (default 10s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--pin-server", default="", help="cores, as 0 or 0-3")
    parser.add_argument("--pin-load", default="")
    parser.add_argument("--ratio-max", type=float, default=0.0)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        log_path = os.path.join(work, "midge.log")
        command = [arguments.midge, "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--shards", str(arguments.shards)]
        command += ["--cores", arguments.pin_server] if arguments.pin_server else ["--no-pin"]
        if arguments.pin_server:
            # The monitoring thread stays off the load's cores, too.
            command = ["taskset", "--cpu-list", arguments.pin_server] + command
        with open(log_path, "w") as log:
            server = subprocess.Popen(command, stderr=log)
        try:
            return measure(arguments, server, log_path, work)
        finally:
            server.terminate()
            server.wait()


def measure(arguments, server, log_path, work):
    deadline = time.monotonic() + 20
    while True:
        with open(log_path) as log:
            text = log.read()
        if "Server is ready" in text:
            break
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the server does not start:\n{text}")
        time.sleep(0.05)
    port = int(re.search(r"Listening for client connections on \S+:(\d+)", text)[1])
    monitor = re.search(r"Starting http monitor on (\S+)", text)[1].replace("0.0.0.0", "127.0.0.1")
    pinned = cores(arguments.pin_load) if arguments.pin_load else set()
    paths = arguments.paths.split(",")

    rounds, good = [], True
    for number in range(arguments.rounds):
        halves = {}
        for scraped in ([False, True] if number % 2 == 0 else [True, False]):
            if scraped:
                stop, result = multiprocessing.Event(), multiprocessing.Queue()
                scraper = multiprocessing.Process(
                    target=scrape, args=(monitor, paths, arguments.scrapes, pinned, stop, result))
                scraper.start()
            halves[scraped] = probe(arguments, port, work)
            if scraped:
                stop.set()
                told = result.get(timeout=30)
                scraper.join()
        faults = []
        for scraped, half in halves.items():
            when = "with" if scraped else "without"
            if half["open"] < arguments.connections:
                faults.append(f"only {half['open']:.0f} connections were open {when} scrapes (ulimit -n?)")
            faults += [f"{when} scrapes: {fault}" for fault in half["faults"]]
        if told["failed"] or told["per_second"] < arguments.scrapes * 0.95:
            faults.append("the scrapes did not happen as asked")
        scrapes = (f"{told['per_second']:.1f} scrapes/s, {told['failed']} failed, "
                   f"slowest {told['slowest'] * 1000:.0f} ms, {told['bytes'] / max(1, told['done']) / 1024:.0f} KiB and "
                   f"{told['cpu_us']:.0f} us of the load's core each")
        if faults:
            good = False
            print(f"round {number + 1}: INVALID, left out; {scrapes}")
            for fault in faults:
                print(f"  {fault}", flush=True)
            continue
        rounds.append(halves)
        shown = "  ".join(f"p{p:g} {halves[False]['us'][p]:.0f} -> {halves[True]['us'][p]:.0f} us" for p in PERCENTILES)
        print(f"round {number + 1}: {shown}; {scrapes}", flush=True)

    if not rounds:
        print("no valid round")
        return 2
    for percentile in PERCENTILES:
        before = statistics.median(half[False]["us"][percentile] for half in rounds)
        after = statistics.median(half[True]["us"][percentile] for half in rounds)
        ratio = statistics.median(half[True]["us"][percentile] / half[False]["us"][percentile] for half in rounds)
        print(f"p{percentile:g}: {before:.0f} us without, {after:.0f} us with scrapes, median ratio {ratio:.2f}")
        if percentile == 99.0 and arguments.ratio_max and ratio > arguments.ratio_max:
            print(f"the ratio of p99 is above {arguments.ratio_max:g}")
            return 2
    return 0 if good else 2


sys.exit(main())
