// Interoperability cases of the JavaScript client (@nats-io/transport-node, or @nats-io/nats-core over WebSocket). See ../README.md for
// what each case promises and for the lines a program exchanges with scripts/interop.sh.

import { createInterface } from "node:readline";
import { setImmediate as nextTurn } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import {
  connect as connectTo,
  errors,
  headers as newHeaders,
  nkeyAuthenticator,
  nkeys,
} from "@nats-io/transport-node";
import { wsconnect } from "@nats-io/nats-core";

const url = process.env.NATS_URL;
const waitMaxMs = 10_000;
const queueMembers = 24;
const queueMessages = 2400;
const queueShareMin = 50;
const queueShareMax = 150;
const fenceRounds = 1000;
const fencePairs = 4;
const publishedMessages = 1000;
const requestCount = 100;
const drainedMessages = 500;
const drainRounds = 10;
const noRespondersAgeMaxMs = 2000;

const standardInput = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function connect(options = {}) {
  // Over WebSocket as a browser connects, with its API.
  const connectHere = url.startsWith("ws") ? wsconnect : connectTo;
  return connectHere({ servers: url, name: "interop-js", timeout: waitMaxMs, ...options });
}

// Asks the script to do something to the server and waits until it is done.
async function control(verb) {
  console.log(`CONTROL ${verb}`);
  const { value } = await standardInput.next();
  check(value === "done", `the script answered ${value}`);
}

function check(condition, complaint) {
  if (!condition) throw new Error(complaint);
}

async function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${waitMaxMs} ms`)), waitMaxMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// The messages of a subscription one by one.
function reader(subscription) {
  const iterator = subscription[Symbol.asyncIterator]();
  return async () => (await within("message", iterator.next())).value;
}

async function publishSubscribe() {
  const subscriber = await connect();
  const publisher = await connect();
  const next = reader(subscriber.subscribe("js.publish"));
  await subscriber.flush();
  for (let number = 0; number < publishedMessages; number++) {
    publisher.publish("js.publish", `message ${number}`);
  }
  publisher.publish("js.publish");
  for (let number = 0; number < publishedMessages; number++) {
    const text = (await next()).string();
    check(text === `message ${number}`, `message ${number} is ${text}`);
  }
  const last = await next();
  check(last.data.length === 0, `expected an empty payload, got ${last.string()}`);
  await subscriber.close();
  await publisher.close();
}

async function wildcards() {
  const connection = await connect();
  const star = connection.subscribe("js.wild.*.price");
  const tail = connection.subscribe("js.wild.>");
  for (const rest of ["", ".usd", ".usd.price", ".usd.eur.price", ".last.price"]) {
    connection.publish(`js.wild${rest}`);
  }
  await expectSubjects(star, [".usd.price", ".last.price"]);
  await expectSubjects(tail, [".usd", ".usd.price", ".usd.eur.price", ".last.price"]);
  await connection.close();
}

async function expectSubjects(subscription, endings) {
  const expected = endings.map((ending) => `js.wild${ending}`);
  const received = [];
  const next = reader(subscription);
  while (received.at(-1) !== expected.at(-1)) received.push((await next()).subject);
  check(isDeepStrictEqual(received, expected), `expected ${expected}, got ${received}`);
}

async function requestReply() {
  const responder = await connect();
  const requester = await connect();
  responder.subscribe("js.service", {
    callback: (_, message) => message.respond(`reply to ${message.string()}`),
  });
  await responder.flush();
  for (let number = 0; number < requestCount; number++) {
    const reply = await requester.request("js.service", `${number}`, { timeout: waitMaxMs });
    check(reply.string() === `reply to ${number}`, `request ${number}: got ${reply.string()}`);
  }
  await responder.close();
  await requester.close();
}

async function noResponders() {
  const connection = await connect();
  const started = performance.now();
  let raised;
  try {
    await connection.request("js.nobody", "anyone?", { timeout: waitMaxMs });
  } catch (error) {
    raised = error;
  }
  const age = performance.now() - started;
  // The client wraps it in a RequestError, which says so too.
  check(raised instanceof errors.RequestError && raised.isNoResponders(), `got ${raised}`);
  check(age < noRespondersAgeMaxMs, `no responders was reported only after ${age} ms`);
  await connection.close();
}

async function queueGroups() {
  const counts = new Array(queueMembers).fill(0);
  const members = [];
  let total = 0;
  let plain = 0;
  for (let index = 0; index < queueMembers; index++) {
    const member = await connect();
    members.push(member);
    member.subscribe("js.work", {
      queue: "workers",
      callback: () => {
        counts[index]++;
        total++;
      },
    });
    await member.flush();
  }
  const publisher = await connect();
  publisher.subscribe("js.work", { callback: () => plain++ });
  for (let number = 0; number < queueMessages; number++) publisher.publish("js.work", "work");
  await publisher.flush();
  const deadline = performance.now() + waitMaxMs;
  while (Math.min(total, plain) < queueMessages && performance.now() < deadline) await nextTurn();
  // A second copy would be on its way before these answers.
  for (const member of members) await member.flush();
  for (const connection of [...members, publisher]) await connection.close();
  check(total === queueMessages, `the group got ${total} of ${queueMessages}`);
  check(plain === queueMessages, `a plain subscriber got ${plain} of ${queueMessages}`);
  counts.forEach((count, index) =>
    check(
      count >= queueShareMin && count <= queueShareMax,
      `member ${index} of ${queueMembers} got ${count} of ${queueMessages} messages`,
    )
  );
}

async function headers() {
  const subscriber = await connect();
  const publisher = await connect();
  const next = reader(subscriber.subscribe("js.headers"));
  await subscriber.flush();
  for (const payload of ["with a payload", ""]) {
    const sent = newHeaders();
    sent.append("Accept", "first");
    sent.append("Accept", "second");
    sent.append("trace-ID", "a: b, c");
    publisher.publish("js.headers", payload, { headers: sent });
    const message = await next();
    check(message.string() === payload, `expected payload ${payload}, got ${message.string()}`);
    check(message.headers !== undefined, "the headers are missing");
    const accepted = message.headers.values("Accept");
    check(isDeepStrictEqual(accepted, ["first", "second"]), `Accept is ${accepted}`);
    const traced = message.headers.values("trace-ID");
    check(isDeepStrictEqual(traced, ["a: b, c"]), `trace-ID is ${traced}`);
  }
  await subscriber.close();
  await publisher.close();
}

async function flushFence() {
  const subscribers = [];
  const publishers = [];
  for (let pair = 0; pair < fencePairs; pair++) {
    subscribers.push(await connect());
    publishers.push(await connect());
  }
  for (let round = 0; round < fenceRounds; round++) {
    // Every subscriber meets every publisher.
    const subscriber = subscribers[round % fencePairs];
    const publisher = publishers[Math.floor(round / fencePairs) % fencePairs];
    const subject = `js.fence.${round}`;
    const subscription = subscriber.subscribe(subject);
    const next = reader(subscription);
    await subscriber.flush();
    publisher.publish(subject, "x");
    await next().catch(() => check(false, `round ${round}: the message was lost`));
    subscription.unsubscribe();
  }
  for (const connection of [...subscribers, ...publishers]) await connection.close();
}

// Begins when the publisher's flush is over: from then on nothing may overtake its messages. A race
// does not show every time, hence the rounds.
async function drain() {
  for (let round = 0; round < drainRounds; round++) await drainOnce();
}

async function drainOnce() {
  const subscriber = await connect();
  const publisher = await connect();
  let received = 0;
  const subscription = subscriber.subscribe("js.drain");
  const handled = (async () => {
    for await (const _ of subscription) {
      await nextTurn(); // a handler that is still busy when the drain begins
      received++;
    }
  })();
  await subscriber.flush();
  for (let number = 0; number < drainedMessages; number++) publisher.publish("js.drain", "x");
  await publisher.flush();
  await subscriber.drain();
  await within("close after the drain", subscriber.closed());
  await within("end of the drained subscription", handled);
  await publisher.close();
  check(received === drainedMessages, `${received} of ${drainedMessages} messages were handled`);
}

async function maxPayload() {
  const subscriber = await connect();
  const publisher = await connect();
  const next = reader(subscriber.subscribe("js.large"));
  await subscriber.flush();
  const size = publisher.info.max_payload;
  const payload = Uint8Array.from({ length: size }, (_, index) => index % 251);
  publisher.publish("js.large", payload);
  const message = await next();
  check(
    Buffer.compare(message.data, payload) === 0,
    `a payload of ${size} bytes came back as ${message.data.length} other bytes`,
  );
  let raised;
  try {
    publisher.publish("js.large", new Uint8Array(size + 1));
  } catch (error) {
    raised = error;
  }
  check(
    raised instanceof errors.InvalidArgumentError && raised.message.includes("max_payload"),
    `one byte more: expected the max payload error, got ${raised}`,
  );
  publisher.publish("js.large", "still here");
  const text = (await next()).string();
  check(text === "still here", `got ${text.length} bytes`);
  await subscriber.close();
  await publisher.close();
}

// A connection that subscribes to a subject and tells of its ups and downs: seen(type) resolves
// when the client has reported that status.
async function connectReconnecting(subject) {
  const connection = await connect({ maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  const waiting = new Map();
  const settled = (type) => {
    if (!waiting.has(type)) waiting.set(type, deferred());
    return waiting.get(type);
  };
  (async () => {
    for await (const status of connection.status()) settled(status.type).resolve();
  })();
  const next = reader(connection.subscribe(subject));
  await connection.flush();
  return {
    seen: (type) => within(`${type} status`, settled(type).promise),
    // The script restarts the server; afterwards the old subscription must work again.
    restart: async function () {
      await control("restart");
      await this.seen("disconnect");
      await this.seen("reconnect");
      connection.publish(subject, "again");
      const text = (await next()).string();
      check(text === "again", `after the restart: got ${text}`);
      await connection.close();
    },
  };
}

function deferred() {
  let resolve;
  const promise = new Promise((resolved) => {
    resolve = resolved;
  });
  return { promise, resolve };
}

async function reconnect() {
  await (await connectReconnecting("js.reconnect")).restart();
}

async function lameDuck() {
  const peer = await connectReconnecting("js.lame_duck");
  await control("lame_duck");
  await peer.seen("ldm");
  await peer.restart();
}

async function closeCallbacks() {
  const connection = await connect();
  await connection.flush();
  const closed = connection.closed();
  await connection.close();
  const error = await within("closed promise", closed);
  check(error === undefined, `closed with ${error}`);
  let raised;
  try {
    connection.publish("js.closed");
  } catch (thrown) {
    raised = thrown;
  }
  check(raised instanceof errors.ClosedConnectionError, `publishing when closed: ${raised}`);
}

function connectSecurely(options, tls = { caFile: process.env.INTEROP_CA }) {
  const servers = process.env.INTEROP_SECURE_URL.replace("tls://", "");
  return connectTo({ servers, tls, reconnect: false, maxReconnectAttempts: 0, ...options });
}

async function echo(connection, subject) {
  const messages = connection.subscribe(subject, { max: 1 })[Symbol.asyncIterator]();
  connection.publish(subject, "sealed");
  const { value } = await within("the message", messages.next());
  check(value.string() === "sealed", `got ${value.string()}`);
  await connection.close();
}

async function isRefused(what, options, tls) {
  let connection;
  try {
    connection = await connectSecurely(options, tls);
  } catch {
    return;
  }
  await connection.close();
  throw new Error(`${what} is let in`);
}

async function tlsPassword() {
  await echo(await connectSecurely({ user: "app", pass: "s3cret" }), "js.tls");
  await isRefused("a wrong password", { user: "app", pass: "wrong" });
  await isRefused("nobody", {});
  await isRefused("a stranger to the authority", { user: "app", pass: "s3cret" }, {});
}

async function tlsNkey() {
  const seed = (text) => nkeyAuthenticator(new TextEncoder().encode(text));
  const known = seed(process.env.INTEROP_NKEY_SEED);
  await echo(await connectSecurely({ authenticator: known }), "js.nkey");
  const stranger = nkeyAuthenticator(nkeys.createUser().getSeed());
  await isRefused("a stranger's nkey", { authenticator: stranger });
}

const cases = {
  publish_subscribe: publishSubscribe,
  wildcards,
  request_reply: requestReply,
  no_responders: noResponders,
  queue_groups: queueGroups,
  headers,
  flush_fence: flushFence,
  drain,
  max_payload: maxPayload,
  reconnect,
  lame_duck: lameDuck,
  close_callbacks: closeCallbacks,
  tls_password: tlsPassword,
  tls_nkey: tlsNkey,
};

for (const name of process.env.INTEROP_CASES.split(/\s+/).filter(Boolean)) {
  try {
    await cases[name]();
    console.log(`RESULT ${name} pass`);
  } catch (error) {
    console.log(`RESULT ${name} fail ${String(error).replaceAll(/\s+/g, " ")}`);
  }
}
process.exit(0);
