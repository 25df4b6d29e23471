#!/usr/bin/env python3
"""Checks the live dashboard in headless Chromium: it loads, shows what /varz reports, survives a restart.

Usage: dashboard.py PATH_OF_MIDGE [--screenshots DIRECTORY] [--chromium PROGRAM]

Needs Chromium and Python's own library. Speaks the DevTools protocol over a pipe, and NATS over plain
sockets. Ends with status 1 and one line for each thing that is not as it should be.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

WAIT_SECONDS_MAX = 30
MESSAGES = 10_000
MARKUP = "<img src=x onerror=alert(1)>"

problems = []


def check(holds, text):
    print(("ok      " if holds else "FAILED  ") + text, flush=True)
    if not holds:
        problems.append(text)


def wait_for(what, holds):
    """Asks until it holds; says so when it never does."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        if holds():
            check(True, what)
            return True
        time.sleep(0.05)
    check(False, what)
    return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """One NATS client on a plain socket."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS_MAX)
        self.received = b""
        options = {"verbose": False, "name": name, "lang": "test", "version": "1"}
        self.send(f"CONNECT {json.dumps(options)}\r\n")
        self.round_trip()

    def send(self, text):
        self.socket.sendall(text.encode())

    def round_trip(self):
        self.send("PING\r\n")
        while b"PONG\r\n" not in self.received:
            self.received += self.socket.recv(65536)
        self.received = self.received.split(b"PONG\r\n", 1)[1]

    def close(self):
        self.socket.close()


class Server:
    def __init__(self, program):
        self.program = program
        self.port, self.monitor, self.web = free_port(), free_port(), free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "-c", self.configuration()],
            stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            try:
                return self.varz()
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit("the server does not start")
                time.sleep(0.05)

    def configuration(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
            file.write(f"""listen: "127.0.0.1:{self.port}"
http: "127.0.0.1:{self.monitor}"
server_name: dashboard-test
max_payload: 100000
max_pending: 1000000
midge {{ shards: 2, pin: false }}
websocket {{ listen: "127.0.0.1:{self.web}", no_tls: true, compression: true }}
""")
            return file.name

    def varz(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/varz", timeout=5) as answer:
            return json.load(answer)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Browser:
    """Chromium at the other end of two pipes; messages end with a zero byte."""

    def __init__(self, program, *flags):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, own_out = os.pipe()
        own_in, from_browser = os.pipe()

        def ends():
            # The numbers that Chromium expects. Both are moved out of the way first: they may be 3 and 4.
            read_end, write_end = os.dup(to_browser), os.dup(from_browser)
            read_end, write_end = os.dup(read_end), os.dup(write_end)
            os.dup2(read_end, 3)
            os.dup2(write_end, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--disable-extensions",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", *flags, "about:blank"],
            preexec_fn=ends, close_fds=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.out = own_out
        self.input = own_in
        os.set_blocking(self.input, True)
        self.buffer = b""
        self.number = 0
        self.events = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self.page = page["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=self.page, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def read(self):
        while b"\0" not in self.buffer:
            chunk = os.read(self.input, 1 << 20)
            if not chunk:
                sys.exit("the browser is gone")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key, code=None, text=None):
        common = {"key": key, "code": code or f"Key{key.upper()}"}
        if key == "Tab":
            common["windowsVirtualKeyCode"] = 9
        if key == "Enter":
            common["windowsVirtualKeyCode"] = 13
            text = "\r"
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, directory, name):
        if directory:
            picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            with open(os.path.join(directory, name + ".png"), "wb") as file:
                file.write(base64.b64decode(picture["data"]))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()


TILES = """Object.fromEntries([...document.querySelectorAll('.tile')].map(tile =>
  [tile.querySelector('span').textContent, tile.querySelector('b').textContent]))"""


def rows(target):
    return f"""[...document.querySelectorAll('#{target} tbody tr')].map(row =>
      [...row.children].map(cell => cell.textContent))"""


def make_slow(server):
    """A consumer that is closed for being slow; shrinks its socket's buffers first."""
    slow = Client(server.port, "sleeper")
    slow.send("SUB big.orders 1\r\n")
    slow.round_trip()
    publisher = Client(server.port, "pusher")
    message = "PUB big.orders 60000\r\n" + "x" * 60_000 + "\r\n"
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while server.varz()["slow_consumers"] == 0 and time.monotonic() < deadline:
        for _ in range(40):
            publisher.send(message)
        publisher.round_trip()
    publisher.close()
    return slow


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("midge")
    parser.add_argument("--screenshots")
    parser.add_argument("--chromium", default="chromium")
    arguments = parser.parse_args()
    if arguments.screenshots:
        os.makedirs(arguments.screenshots, exist_ok=True)
    server = Server(arguments.midge)
    browser = Browser(arguments.chromium)
    try:
        run(server, browser, arguments.screenshots)
    finally:
        browser.close()
        server.stop()
    print(f"{len(problems)} problems")
    return 1 if problems else 0


def run(server, browser, screenshots):
    clients = [Client(server.port, name) for name in ["reader", MARKUP, "writer"]]
    reader, marked, writer = clients
    reader.send("SUB orders.> 1\r\nSUB prices.* 2\r\n")
    marked.send("SUB orders.new workers 1\r\n")
    reader.round_trip()
    marked.round_trip()

    browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)
    browser.call("Page.navigate", url=f"http://127.0.0.1:{server.monitor}/")
    wait_for("the first page links to the dashboard", lambda: browser.value(
        "document.readyState === 'complete' && [...document.links].some(link => link.pathname === '/dashboard')"))
    browser.value("[...document.links].find(link => link.pathname === '/dashboard').click()")
    wait_for("the dashboard is live", lambda: browser.value(
        "document.getElementById('state')?.textContent") == "live")
    browser.value("document.getElementById('pace').value = '1000'; poll()")

    for _ in range(MESSAGES // 100):
        writer.send("PUB orders.new 5\r\nhello\r\n" * 100)
        time.sleep(0.02)
    writer.round_trip()
    wait_for("all messages are counted", lambda: browser.value("last && last.in_msgs") == MESSAGES)
    varz = server.varz()
    shown = browser.value("last")
    for name in ["in_msgs", "in_bytes", "out_msgs", "out_bytes", "connections", "subscriptions", "slow_consumers"]:
        check(shown[name] == varz[name], f"{name} is that of /varz: {shown[name]}, {varz[name]}")
    check(varz["out_msgs"] == 2 * MESSAGES, f"each message went to two: {varz['out_msgs']}")
    tiles = browser.value(TILES)
    check(tiles["connections"] == str(varz["connections"]), f"tile of connections: {tiles['connections']}")
    check(tiles["subscriptions"] == str(varz["subscriptions"]), f"tile of subscriptions: {tiles['subscriptions']}")
    peak = browser.value("Math.max(...history.map(point => point.inMessages || 0))")
    check(0 < peak <= MESSAGES / 0.5, f"the rate was between nothing and twice all in a second: {peak:.0f}")
    check(browser.value("history.some(point => point.p99 > 0 && point.p50 <= point.p99)"), "latencies are shown")
    shards = browser.value(rows("shards"))
    check(len(shards) == 2 and sum(int(row[2]) for row in shards) == varz["connections"], f"shards: {shards}")
    connections = {row[0]: row for row in browser.value(rows("connections"))}
    check(connections["writer"][7] == "10.0 k", f"the writer's messages in: {connections['writer']}")
    check(connections["reader"][8] == "10.0 k", f"the reader's messages out: {connections['reader']}")
    check(MARKUP in connections and browser.value("document.querySelectorAll('img').length") == 0,
          "what clients say is text")

    browser.press("/", "Slash")
    check(browser.value("document.activeElement.id") == "subject", "/ goes to the field of subjects")
    browser.call("Input.insertText", text="orders.new")
    browser.press("Enter", "Enter")
    wait_for("who would hear a subject", lambda: sorted(
        row[0] for row in browser.value(rows("interest"))) == ["orders.>", "orders.new"])
    browser.value("subject.value = ''; subject.blur(); poll()")
    wait_for("interest by subject", lambda: sorted(
        row[0] for row in browser.value(rows("interest"))) == ["orders.>", "orders.new", "prices.*"])
    heard = {row[0]: row for row in browser.value(rows("interest"))}
    check(heard["orders.new"][1] == "workers" and heard["orders.>"][4] == "10.0 k", f"interest: {heard}")

    wait_for("the live tap is there where the server listens for WebSocket", lambda: browser.value("!$('tap').hidden"))
    browser.value("$('tap-subject').value = 'tapped.>'; $('tap-button').click()")
    wait_for("its connection is a client of the server", lambda: browser.value("tap && tap.told === true"))
    writer.send("PUB tapped.one 8\r\n<b>1</b>\r\nPUB tapped.two 3\r\ntwo\r\n")
    writer.round_trip()
    wait_for("it shows the messages of a subject, the newest first", lambda: [
        row[1:] for row in browser.value(rows("tapped"))] == [["tapped.two", "3", "two"], ["tapped.one", "8", "<b>1</b>"]])
    browser.value("$('tap-button').click()")
    wait_for("and stops", lambda: browser.value("tap === null"))

    slow = make_slow(server)
    wait_for("a cut consumer is named with subject and bytes", lambda: any(
        row[0] == "sleeper" and row[5] == "big.orders" and row[3].endswith("KiB")
        for row in browser.value(rows("cut"))))
    closed = {row[0]: row for row in browser.value(rows("closed"))}
    check(closed["sleeper"][4] == "Slow Consumer (Pending Bytes)", f"closed: {closed.get('sleeper')}")

    for scheme in ["light", "dark"]:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.screenshot(screenshots, f"desktop-{scheme}")
    light = "getComputedStyle(document.body).backgroundColor"
    dark_colour = browser.value(light)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    check(browser.value(light) != dark_colour, "light and dark differ")
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    check(browser.value("document.documentElement.scrollWidth <= innerWidth"), "a phone scrolls down only")
    browser.screenshot(screenshots, "phone-light")
    browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)

    reached = set()
    for _ in range(30):
        browser.press("Tab", "Tab")
        reached.add(browser.value("document.activeElement.id || document.activeElement.tagName"))
    wanted = {"pace", "pause", "sort", "subject", "tap-subject", "shards", "connections", "closed"}
    check(wanted <= reached, f"the tabulator reaches all controls: {wanted - reached or 'yes'}")
    browser.value("document.activeElement.blur()")

    def polls():
        return server.varz()["http_req_stats"]["/connz"]

    def stands_still():
        """Longer than the page waits between two looks."""
        before = polls()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            time.sleep(0.1)
        return polls() == before

    browser.press("p")
    wait_for("p pauses", lambda: browser.value("document.getElementById('state').textContent") == "paused")
    check(stands_still(), "a paused page asks for nothing")
    browser.press("p")
    wait_for("p goes on", lambda: browser.value("document.getElementById('state').textContent") == "live")
    other = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.call("Target.activateTarget", targetId=other)
    if browser.value("document.hidden"):
        check(stands_still(), "a page in a hidden tab asks for nothing")
    else:
        # This Chromium shows every tab when it has no window: the page is told.
        browser.value("""Object.defineProperty(document, 'hidden', { value: true, configurable: true });
          document.dispatchEvent(new Event('visibilitychange'))""")
        check(stands_still(), "a page that is told it is hidden asks for nothing")
        browser.value("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    browser.call("Target.closeTarget", targetId=other)
    browser.call("Target.activateTarget", targetId=browser.page)
    wait_for("a shown page goes on", lambda: browser.value("document.getElementById('state').textContent") == "live")

    server.stop()
    wait_for("a page without a server says so", lambda: browser.value(
        "document.getElementById('state').className") == "lost")
    browser.screenshot(screenshots, "lost")
    server.start()
    wait_for("and goes on with the next", lambda: browser.value(
        "document.getElementById('state').textContent") == "live")
    fresh = server.varz()
    wait_for("whose numbers it shows", lambda: browser.value("last.server_id") == fresh["server_id"]
             and browser.value("last.in_msgs") == 0)
    slow.close()

    requests = {event["params"]["request"]["url"] for event in browser.events
                if event.get("method") == "Network.requestWillBeSent"}
    own = (f"http://127.0.0.1:{server.monitor}/", f"ws://127.0.0.1:{server.web}", "data:", "about:blank")
    check(all(url.startswith(own) for url in requests), "nothing is loaded from elsewhere")
    thrown = [event["params"] for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    check(not thrown, f"no error in the page: {thrown[:2]}")
    logged = [event["params"]["entry"]["text"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    refused = [text for text in logged if "ERR_CONNECTION" not in text and "ERR_EMPTY_RESPONSE" not in text]
    check(not refused, f"no complaint of the browser: {refused[:2]}")


if __name__ == "__main__":
    sys.exit(main())
