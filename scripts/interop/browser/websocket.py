#!/usr/bin/env python3
"""Checks WebSocket with the official client, @nats-io/nats-core, in headless Chromium.

Usage: websocket.py PATH_OF_MIDGE NODE_MODULES [--chromium PROGRAM]

A page publishes, subscribes, requests and reconnects, over ws and over wss, logged in by a cookie; a page
of another origin is kept out. Needs Chromium, openssl and Python's own library. Ends with status 1 and one
line for each thing that is not as it should be.
"""

import argparse
import http.server
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from dashboard import Browser, WAIT_SECONDS_MAX, check, free_port, problems

PAGE = """<!doctype html><meta charset=utf-8><title>WebSocket</title><link rel=icon href=data:>
<script src=/modules.js></script>"""

# What CommonJS modules expect, as far as these need it.
LOADER = """
const modules = %s, loaded = {};
function find(from, name) {
  const folder = from.split('/').slice(0, -1);
  for (const part of name.startsWith('.') ? name.split('/') : [])
    if (part === '..') folder.pop(); else if (part !== '.') folder.push(part);
  const path = name.startsWith('.') ? folder.join('/') : mains[name] ?? name;
  return [path, path + '.js', path + '/index.js'].find(one => one in modules);
}
function load(path) {
  if (!(path in loaded)) {
    loaded[path] = { exports: {} };
    const require = name => load(find(path, name));
    new Function('module', 'exports', 'require', modules[path])(loaded[path], loaded[path].exports, require);
  }
  return loaded[path].exports;
}
const nats = load(mains['@nats-io/nats-core']);
"""

# Functions of the page: each returns "ok", or says what is wrong.
CASES = """
const wait = 10000;
async function inTime(promise) {
  return Promise.race([promise, nats.delay(wait).then(() => { throw new Error('nothing came in time'); })]);
}
async function open(url, more) {
  return inTime(nats.wsconnect({ servers: url, name: 'page', maxReconnectAttempts: -1, reconnectTimeWait: 100, ...more }));
}
async function talk(url, size) {
  const [one, other] = [await open(url), await open(url)];
  const all = one.subscribe('page.>');
  one.subscribe('service', { callback: (_, message) => message.respond('to ' + message.string()) });
  await one.flush();
  for (let at = 0; at < 1000; at++) other.publish('page.' + at, 'message ' + at);
  let at = 0;
  for await (const message of all) {
    if (message.string() !== 'message ' + at) return `message ${at} is ${message.string()}`;
    if (++at === 1000) break;
  }
  const reply = await other.request('service', 'ask', { timeout: wait });
  if (reply.string() !== 'to ask') return 'the reply is ' + reply.string();
  const large = one.subscribe('large', { max: 1 });
  await one.flush();
  const payload = Uint8Array.from({ length: size }, (_, index) => index * index % 251);
  other.publish('large', payload);
  for await (const { data } of large)
    if (data.length !== size || data.some((byte, index) => byte !== payload[index])) return 'the large message is another';
  try {
    await other.request('nobody', '', { timeout: wait });
    return 'nobody answered';
  } catch (error) {
    if (!error.isNoResponders?.()) return 'nobody: ' + error;
  }
  await one.close();
  await other.close();
  return 'ok';
}
async function refused(url) {
  try {
    await (await nats.wsconnect({ servers: url, reconnect: false, maxReconnectAttempts: 0, timeout: wait })).close();
  } catch {
    return 'ok';
  }
  return 'it is let in';
}
async function keep(url) {
  window.kept = await open(url);
  window.statuses = [];
  (async () => { for await (const status of kept.status()) statuses.push(status.type); })();
  window.heard = [];
  kept.subscribe('again', { callback: (_, message) => heard.push(message.string()) });
  await kept.flush();
  return 'ok';
}
"""


def script(node_modules):
    """All modules of the client as one script."""
    modules, mains = {}, {}
    for package in ["@nats-io/nats-core", "@nats-io/nkeys", "@nats-io/nuid", "tweetnacl"]:
        folder = os.path.join(node_modules, package)
        with open(os.path.join(folder, "package.json")) as file:
            description = json.load(file)
        exports = description.get("exports", {})
        for name, path in (exports.items() if isinstance(exports, dict) else []):
            if isinstance(path, dict):
                path = path.get("require", path.get("default"))
            if isinstance(path, str):
                mains[os.path.normpath(os.path.join(package, name))] = os.path.normpath(os.path.join(package, path))
        mains.setdefault(package, os.path.normpath(os.path.join(package, description.get("main", "index.js"))))
        for place, _, files in os.walk(folder):
            for name in files:
                if name.endswith(".js"):
                    path = os.path.join(place, name)
                    with open(path) as file:
                        modules[os.path.relpath(path, node_modules)] = file.read()
    return f"const mains = {json.dumps(mains)};" + LOADER % json.dumps(modules) + CASES


def serve(text, folder, secure):
    """Serves the page and the script on a free port; returns the port. A browser sends no cookies over wss from a
    page that came in the clear."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_script = self.path == "/modules.js"
            body = (text if is_script else PAGE).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class Server:
    def __init__(self, program, folder, page_port, secure):
        self.program, self.port = program, free_port()
        tls = f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key" }}' if secure else "no_tls: true"
        self.path = os.path.join(folder, f"server-{self.port}.conf")
        with open(self.path, "w") as file:
            file.write(f"""listen: "127.0.0.1:-1"
authorization {{ users: [ {{user: app, password: s3cret}} ] }}
midge {{ shards: 2, pin: false }}
websocket {{
  listen: "127.0.0.1:{self.port}"
  {tls}
  compression: true
  allowed_origins: ["http{'s' if secure else ''}://127.0.0.1:{page_port}"]
  user_cookie: nats_user
  pass_cookie: nats_pass
}}
""")
        self.url = f"{'wss' if secure else 'ws'}://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "-c", self.path], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "Server is ready" in line:
                break
        else:
            sys.exit("the server does not start")
        # Read on, or the server would wait for its log to be taken.
        self.lines = []
        threading.Thread(target=self.lines.extend, args=[self.process.stderr], daemon=True).start()

    def stop(self):
        self.process.terminate()
        self.process.wait()


def make_certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-keyout", f"{folder}/server.key", "-out", f"{folder}/server.pem", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"], check=True, stderr=subprocess.DEVNULL)


def answers(browser, call, what):
    try:
        answer = browser.value(call)
    except RuntimeError as error:
        answer = str(error)
    check(answer == "ok", what if answer == "ok" else f"{what}: {answer}")


def open_page(browser, scheme, host, port):
    browser.call("Page.navigate", url=f"{scheme}://{host}:{port}/")
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not browser.value("document.readyState === 'complete' && typeof nats === 'object'"):
        if time.monotonic() > deadline:
            sys.exit("the page does not load")
        time.sleep(0.05)


def run(browser, server, port):
    name = server.url.split(":")[0]
    scheme = name.replace("ws", "http")
    open_page(browser, scheme, "127.0.0.1", port)
    browser.value("document.cookie = 'nats_user=app'; document.cookie = 'nats_pass=wrong'")
    answers(browser, f"refused('{server.url}')", f"{name}: a wrong cookie is refused")
    browser.value("document.cookie = 'nats_pass=s3cret'")
    answers(browser, f"talk('{server.url}', 900000)", f"{name}: a page publishes, subscribes and requests")
    answers(browser, f"keep('{server.url}')", f"{name}: a page stays connected")
    server.stop()
    server.start()
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not browser.value("statuses.includes('reconnect')") and time.monotonic() < deadline:
        time.sleep(0.1)
    browser.value("kept.publish('again', 'once more')")
    while not browser.value("heard.includes('once more')") and time.monotonic() < deadline:
        time.sleep(0.1)
    check(browser.value("heard.includes('once more')"), f"{name}: the page reconnects and hears again")
    open_page(browser, scheme, "localhost", port)
    browser.value("document.cookie = 'nats_user=app'; document.cookie = 'nats_pass=s3cret'")
    answers(browser, f"refused('{server.url}')", f"{name}: a page of another origin is kept out")
    reason = "websocket handshake error: origin not allowed: not in the allowed list"
    check(any(reason in line for line in server.lines), f"{name}: because of its origin")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("midge")
    parser.add_argument("node_modules")
    parser.add_argument("--chromium", default="chromium")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(folder)
        browser = Browser(arguments.chromium, "--ignore-certificate-errors")
        try:
            for secure in [False, True]:
                port = serve(script(arguments.node_modules), folder, secure)
                server = Server(arguments.midge, folder, port, secure)
                try:
                    run(browser, server, port)
                finally:
                    server.stop()
        finally:
            browser.close()
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
