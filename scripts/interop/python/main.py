"""Interoperability cases of the Python client (nats-py).

See ../README.md for what each case promises and for the lines a program exchanges with
scripts/interop.sh.
"""

import asyncio
import os
import ssl
import sys
import time

import nats
import nkeys
from nats.errors import ConnectionClosedError, MaxPayloadError, NoRespondersError

URL = os.environ["NATS_URL"]
WAIT_MAX_S = 10
QUEUE_MEMBERS = 24
QUEUE_MESSAGES = 2400
QUEUE_SHARE_MIN = 50
QUEUE_SHARE_MAX = 150
FENCE_ROUNDS = 1000
FENCE_PAIRS = 4
PUBLISHED_MESSAGES = 1000
REQUEST_COUNT = 100
DRAINED_MESSAGES = 500
DRAIN_ROUNDS = 10
NO_RESPONDERS_AGE_MAX_S = 2


async def report_error(error):
    print(f"client error: {error!r}", file=sys.stderr)


async def connect(**options):
    return await nats.connect(
        URL, name="interop-python", connect_timeout=WAIT_MAX_S, error_cb=report_error, **options
    )


async def fence(connection):
    """After this, the server has taken in all that was sent on the connection.

    One flush is not enough: nats-py writes its PING past the commands that it still buffers. By the
    time the PONG is there the buffer is on its way, and the second PING follows it.
    """
    await connection.flush()
    await connection.flush()


async def control(verb):
    """Asks the script to do something to the server and waits until it is done."""
    print("CONTROL", verb, flush=True)
    answer = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert answer.strip() == "done", f"the script answered {answer!r}"


async def wait_for(what, event):
    try:
        await asyncio.wait_for(event.wait(), WAIT_MAX_S)
    except asyncio.TimeoutError:
        raise AssertionError(f"no {what} within {WAIT_MAX_S} s") from None


def callback(event):
    async def on_event(*_):
        event.set()

    return on_event


async def publish_subscribe():
    subscriber, publisher = await connect(), await connect()
    subscription = await subscriber.subscribe("python.publish")
    await fence(subscriber)
    for number in range(PUBLISHED_MESSAGES):
        await publisher.publish("python.publish", b"message %d" % number)
    await publisher.publish("python.publish")
    for number in range(PUBLISHED_MESSAGES):
        message = await subscription.next_msg(WAIT_MAX_S)
        assert message.data == b"message %d" % number, f"message {number} is {message.data!r}"
    message = await subscription.next_msg(WAIT_MAX_S)
    assert message.data == b"", f"expected an empty payload, got {message.data!r}"
    await subscriber.close()
    await publisher.close()


async def wildcards():
    connection = await connect()
    star = await connection.subscribe("python.wild.*.price")
    tail = await connection.subscribe("python.wild.>")
    for rest in ["", ".usd", ".usd.price", ".usd.eur.price", ".last.price"]:
        await connection.publish("python.wild" + rest)
    await expect_subjects(star, [".usd.price", ".last.price"])
    await expect_subjects(tail, [".usd", ".usd.price", ".usd.eur.price", ".last.price"])
    await connection.close()


async def expect_subjects(subscription, endings):
    expected = ["python.wild" + ending for ending in endings]
    received = []
    while not received or received[-1] != expected[-1]:
        received.append((await subscription.next_msg(WAIT_MAX_S)).subject)
    assert received == expected, f"{subscription.subject}: expected {expected}, got {received}"


async def request_reply():
    responder, requester = await connect(), await connect()

    async def respond(message):
        await message.respond(b"reply to " + message.data)

    await responder.subscribe("python.service", cb=respond)
    await fence(responder)
    for number in range(REQUEST_COUNT):
        reply = await requester.request("python.service", b"%d" % number, timeout=WAIT_MAX_S)
        assert reply.data == b"reply to %d" % number, f"request {number}: got {reply.data!r}"
    await responder.close()
    await requester.close()


async def no_responders():
    connection = await connect()
    started = time.monotonic()
    try:
        reply = await connection.request("python.nobody", b"anyone?", timeout=WAIT_MAX_S)
    except NoRespondersError:
        age = time.monotonic() - started
        assert age < NO_RESPONDERS_AGE_MAX_S, f"no responders was reported only after {age} s"
    else:
        raise AssertionError(f"expected no responders, got {reply.data!r}")
    await connection.close()


async def queue_groups():
    counts = [0] * QUEUE_MEMBERS
    plain = 0
    members = []

    def member_callback(index):
        async def on_message(_):
            counts[index] += 1

        return on_message

    async def on_plain(_):
        nonlocal plain
        plain += 1

    for index in range(QUEUE_MEMBERS):
        member = await connect()
        members.append(member)
        await member.subscribe("python.work", queue="workers", cb=member_callback(index))
        await fence(member)
    publisher = await connect()
    await publisher.subscribe("python.work", cb=on_plain)
    for _ in range(QUEUE_MESSAGES):
        await publisher.publish("python.work", b"work")
    await fence(publisher)
    deadline = time.monotonic() + WAIT_MAX_S
    while min(sum(counts), plain) < QUEUE_MESSAGES and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    # A second copy would be on its way before these answers.
    for member in members:
        await fence(member)
        await member.close()
    await publisher.close()
    assert sum(counts) == QUEUE_MESSAGES, f"the group got {sum(counts)} of {QUEUE_MESSAGES}"
    assert plain == QUEUE_MESSAGES, f"a plain subscriber got {plain} of {QUEUE_MESSAGES}"
    for index, count in enumerate(counts):
        assert QUEUE_SHARE_MIN <= count <= QUEUE_SHARE_MAX, (
            f"member {index} of {QUEUE_MEMBERS} got {count} of {QUEUE_MESSAGES} messages"
        )


async def headers():
    subscriber, publisher = await connect(), await connect()
    subscription = await subscriber.subscribe("python.headers")
    await fence(subscriber)
    # nats-py maps each key to one string, so there are no repeated keys here.
    sent = {"Accept": "first", "trace-ID": "a: b, c"}
    for payload in [b"with a payload", b""]:
        await publisher.publish("python.headers", payload, headers=sent)
        message = await subscription.next_msg(WAIT_MAX_S)
        assert message.data == payload, f"expected payload {payload!r}, got {message.data!r}"
        assert message.headers == sent, f"headers are {message.headers!r}"
    await subscriber.close()
    await publisher.close()


async def flush_fence():
    subscribers = [await connect() for _ in range(FENCE_PAIRS)]
    publishers = [await connect() for _ in range(FENCE_PAIRS)]
    for number in range(FENCE_ROUNDS):
        # Every subscriber meets every publisher.
        subscriber = subscribers[number % FENCE_PAIRS]
        publisher = publishers[number // FENCE_PAIRS % FENCE_PAIRS]
        subject = f"python.fence.{number}"
        subscription = await subscriber.subscribe(subject)
        await fence(subscriber)
        await publisher.publish(subject, b"x")
        try:
            await subscription.next_msg(WAIT_MAX_S)
        except nats.errors.TimeoutError:
            raise AssertionError(f"round {number}: the message was lost") from None
        await subscription.unsubscribe()
    for connection in subscribers + publishers:
        await connection.close()


async def drain():
    """Begins when the publisher's flush is over: from then on nothing may overtake its messages.

    A race does not show every time, hence the rounds.
    """
    for _ in range(DRAIN_ROUNDS):
        await drain_once()


async def drain_once():
    closed = asyncio.Event()
    subscriber, publisher = await connect(closed_cb=callback(closed)), await connect()
    received = 0

    async def on_message(_):
        nonlocal received
        await asyncio.sleep(0)  # a handler that is still busy when the drain begins
        received += 1

    await subscriber.subscribe("python.drain", cb=on_message)
    await fence(subscriber)
    for _ in range(DRAINED_MESSAGES):
        await publisher.publish("python.drain", b"x")
    await fence(publisher)
    await subscriber.drain()
    await wait_for("close after the drain", closed)
    await publisher.close()
    assert received == DRAINED_MESSAGES, f"{received} of {DRAINED_MESSAGES} messages were handled"


async def max_payload():
    subscriber, publisher = await connect(), await connect()
    subscription = await subscriber.subscribe("python.large")
    await fence(subscriber)
    payload = bytes(index % 251 for index in range(publisher.max_payload))
    await publisher.publish("python.large", payload)
    message = await subscription.next_msg(WAIT_MAX_S)
    assert message.data == payload, (
        f"a payload of {len(payload)} bytes came back as {len(message.data)} other bytes"
    )
    try:
        await publisher.publish("python.large", payload + b"x")
    except MaxPayloadError:
        pass
    else:
        raise AssertionError("one byte more raised no error")
    await publisher.publish("python.large", b"still here")
    message = await subscription.next_msg(WAIT_MAX_S)
    assert message.data == b"still here", f"got {len(message.data)} bytes"
    await subscriber.close()
    await publisher.close()


class Reconnecting:
    """A connection that subscribes to a subject and tells of its ups and downs."""

    async def open(self, subject):
        self.subject = subject
        self.disconnected, self.reconnected = asyncio.Event(), asyncio.Event()
        self.lame_duck = asyncio.Event()
        self.connection = await connect(
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            disconnected_cb=callback(self.disconnected),
            reconnected_cb=callback(self.reconnected),
            lame_duck_mode_cb=callback(self.lame_duck),
        )
        self.subscription = await self.connection.subscribe(subject)
        await fence(self.connection)
        return self

    async def restart(self):
        """The script restarts the server; afterwards the old subscription must work again."""
        await control("restart")
        await wait_for("disconnected callback", self.disconnected)
        await wait_for("reconnected callback", self.reconnected)
        await self.connection.publish(self.subject, b"again")
        message = await self.subscription.next_msg(WAIT_MAX_S)
        assert message.data == b"again", f"after the restart: got {message.data!r}"
        await self.connection.close()


async def reconnect():
    await (await Reconnecting().open("python.reconnect")).restart()


async def lame_duck():
    peer = await Reconnecting().open("python.lame_duck")
    await control("lame_duck")
    await wait_for("lame duck callback", peer.lame_duck)
    await peer.restart()


async def close_callbacks():
    closed, disconnected = asyncio.Event(), asyncio.Event()
    connection = await connect(closed_cb=callback(closed), disconnected_cb=callback(disconnected))
    await fence(connection)
    await connection.close()
    await wait_for("disconnected callback", disconnected)
    await wait_for("closed callback", closed)
    try:
        await connection.publish("python.closed")
    except ConnectionClosedError:
        return
    raise AssertionError("publishing on a closed connection raised no error")


async def connect_securely(**options):
    trust = options.pop("trust", os.environ["INTEROP_CA"])
    return await nats.connect(
        os.environ["INTEROP_SECURE_URL"],
        tls=ssl.create_default_context(cafile=trust),
        connect_timeout=WAIT_MAX_S,
        allow_reconnect=False,
        max_reconnect_attempts=0,
        error_cb=report_error,
        **options,
    )


async def echo(connection, subject):
    subscription = await connection.subscribe(subject)
    await connection.publish(subject, b"sealed")
    message = await subscription.next_msg(WAIT_MAX_S)
    assert message.data == b"sealed", f"got {message.data!r}"
    await connection.close()


async def is_refused(what, expected, **options):
    try:
        connection = await connect_securely(**options)
    except Exception as error:  # the client has several names for it
        text = f"{type(error).__name__} {error}"
        assert expected.lower() in text.lower(), f"{what}: {text}"
        return
    await connection.close()
    raise AssertionError(f"{what} is let in")


async def tls_password():
    await echo(await connect_securely(user="app", password="s3cret"), "python.tls")
    await is_refused("a wrong password", "Authorization", user="app", password="wrong")
    await is_refused("nobody", "Authorization")
    await is_refused(
        "a stranger to the authority", "certificate", trust=None, user="app", password="s3cret"
    )


async def tls_nkey():
    seed = os.environ["INTEROP_NKEY_SEED"]
    await echo(await connect_securely(nkeys_seed_str=seed), "python.nkey")
    stranger = nkeys.encode_seed(bytes([8] * 32), nkeys.PREFIX_BYTE_USER).decode()
    await is_refused("a stranger's nkey", "Authorization", nkeys_seed_str=stranger)


CASES = {
    case.__name__: case
    for case in [
        publish_subscribe,
        wildcards,
        request_reply,
        no_responders,
        queue_groups,
        headers,
        flush_fence,
        drain,
        max_payload,
        reconnect,
        lame_duck,
        close_callbacks,
        tls_password,
        tls_nkey,
    ]
}


async def main():
    for name in os.environ["INTEROP_CASES"].split():
        try:
            await CASES[name]()
        except Exception as error:  # every failure is a result line
            detail = " ".join(f"{type(error).__name__}: {error}".split())
            print("RESULT", name, "fail", detail, flush=True)
        else:
            print("RESULT", name, "pass", flush=True)


asyncio.run(main())
