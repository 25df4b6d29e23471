import io.nats.client.Connection;
import io.nats.client.ConnectionListener.Events;
import io.nats.client.Dispatcher;
import io.nats.client.ErrorListener;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;

/**
 * Interoperability cases of the Java client (io.nats:jnats). See ../README.md for what each case
 * promises and for the lines a program exchanges with scripts/interop.sh.
 */
public final class Interop {
    private static final Duration WAIT_MAX = Duration.ofSeconds(10);
    private static final int QUEUE_MEMBERS = 24;
    private static final int QUEUE_MESSAGES = 2400;
    private static final int QUEUE_SHARE_MIN = 50;
    private static final int QUEUE_SHARE_MAX = 150;
    private static final int FENCE_ROUNDS = 1000;
    private static final int FENCE_PAIRS = 4;
    private static final int PUBLISHED_MESSAGES = 1000;
    private static final int REQUEST_COUNT = 100;
    private static final int DRAINED_MESSAGES = 500;
    private static final int DRAIN_ROUNDS = 10;
    private static final long NO_RESPONDERS_AGE_MAX_MS = 2000;

    private static final BufferedReader STANDARD_INPUT =
            new BufferedReader(new InputStreamReader(System.in));

    private interface Case {
        void run() throws Exception;
    }

    private static Options.Builder options() {
        return new Options.Builder()
                .server(System.getenv("NATS_URL"))
                .connectionName("interop-java")
                .connectionTimeout(WAIT_MAX)
                // The default listener logs every event; failures are told by the result lines.
                .errorListener(new ErrorListener() {});
    }

    private static Connection connect() throws Exception {
        return Nats.connect(options().build());
    }

    private static void check(boolean condition, String complaint) {
        if (!condition) {
            throw new IllegalStateException(complaint);
        }
    }

    /** Asks the script to do something to the server and waits until it is done. */
    private static void control(String verb) throws Exception {
        System.out.println("CONTROL " + verb);
        String answer = STANDARD_INPUT.readLine();
        check("done".equals(answer), "the script answered " + answer);
    }

    private static byte[] bytes(String text) {
        return text.getBytes();
    }

    private static Message next(Subscription subscription) throws Exception {
        Message message = subscription.nextMessage(WAIT_MAX);
        check(message != null, "no message within " + WAIT_MAX);
        return message;
    }

    private static String nextText(Subscription subscription) throws Exception {
        return new String(next(subscription).getData());
    }

    private static void publishSubscribe() throws Exception {
        try (Connection subscriber = connect();
                Connection publisher = connect()) {
            Subscription subscription = subscriber.subscribe("java.publish");
            subscriber.flush(WAIT_MAX);
            for (int number = 0; number < PUBLISHED_MESSAGES; number++) {
                publisher.publish("java.publish", bytes("message " + number));
            }
            publisher.publish("java.publish", new byte[0]);
            for (int number = 0; number < PUBLISHED_MESSAGES; number++) {
                String text = nextText(subscription);
                check(text.equals("message " + number), "message " + number + " is " + text);
            }
            String text = nextText(subscription);
            check(text.isEmpty(), "expected an empty payload, got " + text);
        }
    }

    private static void wildcards() throws Exception {
        try (Connection connection = connect()) {
            Subscription star = connection.subscribe("java.wild.*.price");
            Subscription tail = connection.subscribe("java.wild.>");
            for (String rest : List.of("", ".usd", ".usd.price", ".usd.eur.price", ".last.price")) {
                connection.publish("java.wild" + rest, new byte[0]);
            }
            expectSubjects(star, ".usd.price", ".last.price");
            expectSubjects(tail, ".usd", ".usd.price", ".usd.eur.price", ".last.price");
        }
    }

    private static void expectSubjects(Subscription subscription, String... endings)
            throws Exception {
        List<String> expected =
                Arrays.stream(endings).map(ending -> "java.wild" + ending).toList();
        String last = expected.get(expected.size() - 1);
        List<String> received = new ArrayList<>();
        do {
            received.add(next(subscription).getSubject());
        } while (!received.get(received.size() - 1).equals(last));
        check(received.equals(expected), "expected " + expected + ", got " + received);
    }

    private static void requestReply() throws Exception {
        try (Connection responder = connect();
                Connection requester = connect()) {
            Dispatcher dispatcher =
                    responder.createDispatcher(
                            message ->
                                    responder.publish(
                                            message.getReplyTo(),
                                            bytes("reply to " + new String(message.getData()))));
            dispatcher.subscribe("java.service");
            responder.flush(WAIT_MAX);
            for (int number = 0; number < REQUEST_COUNT; number++) {
                Message reply = requester.request("java.service", bytes("" + number), WAIT_MAX);
                check(reply != null, "request " + number + ": no reply");
                String text = new String(reply.getData());
                check(text.equals("reply to " + number), "request " + number + ": got " + text);
            }
        }
    }

    private static void noResponders() throws Exception {
        try (Connection connection = Nats.connect(options().reportNoResponders().build())) {
            long started = System.nanoTime();
            try {
                Message reply =
                        connection
                                .request("java.nobody", bytes("anyone?"))
                                .get(WAIT_MAX.toSeconds(), TimeUnit.SECONDS);
                check(false, "expected no responders, got " + reply);
            } catch (ExecutionException error) {
                String text = String.valueOf(error.getCause());
                check(text.contains("503"), "expected no responders, got " + text);
            }
            long ageMs = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - started);
            check(
                    ageMs < NO_RESPONDERS_AGE_MAX_MS,
                    "no responders was reported only after " + ageMs + " ms");
        }
    }

    private static void queueGroups() throws Exception {
        AtomicIntegerArray counts = new AtomicIntegerArray(QUEUE_MEMBERS);
        AtomicInteger total = new AtomicInteger();
        AtomicInteger plain = new AtomicInteger();
        List<Connection> members = new ArrayList<>();
        try (Connection publisher = connect()) {
            for (int member = 0; member < QUEUE_MEMBERS; member++) {
                int index = member;
                Connection connection = connect();
                members.add(connection);
                connection
                        .createDispatcher(
                                message -> {
                                    counts.incrementAndGet(index);
                                    total.incrementAndGet();
                                })
                        .subscribe("java.work", "workers");
                connection.flush(WAIT_MAX);
            }
            publisher
                    .createDispatcher(message -> plain.incrementAndGet())
                    .subscribe("java.work");
            for (int number = 0; number < QUEUE_MESSAGES; number++) {
                publisher.publish("java.work", bytes("work"));
            }
            publisher.flush(WAIT_MAX);
            long deadline = System.nanoTime() + WAIT_MAX.toNanos();
            while (Math.min(total.get(), plain.get()) < QUEUE_MESSAGES
                    && System.nanoTime() < deadline) {
                Thread.sleep(1);
            }
            // A second copy would be on its way before these answers.
            for (Connection member : members) {
                member.flush(WAIT_MAX);
            }
        } finally {
            for (Connection member : members) {
                member.close();
            }
        }
        check(total.get() == QUEUE_MESSAGES, "the group got " + total + " of " + QUEUE_MESSAGES);
        check(
                plain.get() == QUEUE_MESSAGES,
                "a plain subscriber got " + plain + " of " + QUEUE_MESSAGES);
        for (int index = 0; index < QUEUE_MEMBERS; index++) {
            int count = counts.get(index);
            check(
                    count >= QUEUE_SHARE_MIN && count <= QUEUE_SHARE_MAX,
                    "member " + index + " got " + count + " of " + QUEUE_MESSAGES + " messages");
        }
    }

    private static void headers() throws Exception {
        try (Connection subscriber = connect();
                Connection publisher = connect()) {
            Subscription subscription = subscriber.subscribe("java.headers");
            subscriber.flush(WAIT_MAX);
            for (String payload : List.of("with a payload", "")) {
                Headers sent = new Headers();
                sent.add("Accept", "first", "second");
                sent.add("trace-ID", "a: b, c");
                publisher.publish(
                        NatsMessage.builder()
                                .subject("java.headers")
                                .headers(sent)
                                .data(payload)
                                .build());
                Message message = next(subscription);
                String text = new String(message.getData());
                check(text.equals(payload), "expected payload " + payload + ", got " + text);
                check(message.hasHeaders(), "the headers are missing");
                List<String> accepted = message.getHeaders().get("Accept");
                check(List.of("first", "second").equals(accepted), "Accept is " + accepted);
                List<String> traced = message.getHeaders().get("trace-ID");
                check(List.of("a: b, c").equals(traced), "trace-ID is " + traced);
            }
        }
    }

    private static void flushFence() throws Exception {
        List<Connection> subscribers = new ArrayList<>();
        List<Connection> publishers = new ArrayList<>();
        try {
            for (int pair = 0; pair < FENCE_PAIRS; pair++) {
                subscribers.add(connect());
                publishers.add(connect());
            }
            for (int round = 0; round < FENCE_ROUNDS; round++) {
                // Every subscriber meets every publisher.
                Connection subscriber = subscribers.get(round % FENCE_PAIRS);
                Connection publisher = publishers.get(round / FENCE_PAIRS % FENCE_PAIRS);
                String subject = "java.fence." + round;
                Subscription subscription = subscriber.subscribe(subject);
                subscriber.flush(WAIT_MAX);
                publisher.publish(subject, bytes("x"));
                check(
                        subscription.nextMessage(WAIT_MAX) != null,
                        "round " + round + ": the message was lost");
                subscription.unsubscribe();
            }
        } finally {
            for (Connection connection : subscribers) {
                connection.close();
            }
            for (Connection connection : publishers) {
                connection.close();
            }
        }
    }

    /**
     * Begins when the publisher's flush is over: from then on nothing may overtake its messages. A
     * race does not show every time, hence the rounds.
     */
    private static void drain() throws Exception {
        for (int round = 0; round < DRAIN_ROUNDS; round++) {
            drainOnce();
        }
    }

    private static void drainOnce() throws Exception {
        try (Watched watched = new Watched();
                Connection publisher = connect()) {
            AtomicInteger received = new AtomicInteger();
            watched.connection
                    .createDispatcher(
                            message -> {
                                // A handler that is still busy when the drain begins.
                                TimeUnit.MICROSECONDS.sleep(100);
                                received.incrementAndGet();
                            })
                    .subscribe("java.drain");
            watched.connection.flush(WAIT_MAX);
            for (int number = 0; number < DRAINED_MESSAGES; number++) {
                publisher.publish("java.drain", bytes("x"));
            }
            publisher.flush(WAIT_MAX);
            boolean drained =
                    watched.connection.drain(WAIT_MAX).get(WAIT_MAX.toSeconds(), TimeUnit.SECONDS);
            check(drained, "the client says that the drain failed");
            watched.await(Events.CLOSED);
            check(
                    received.get() == DRAINED_MESSAGES,
                    received + " of " + DRAINED_MESSAGES + " messages were handled");
        }
    }

    private static void maxPayload() throws Exception {
        try (Connection subscriber = connect();
                Connection publisher = connect()) {
            Subscription subscription = subscriber.subscribe("java.large");
            subscriber.flush(WAIT_MAX);
            byte[] payload = new byte[(int) publisher.getMaxPayload()];
            for (int index = 0; index < payload.length; index++) {
                payload[index] = (byte) (index % 251);
            }
            publisher.publish("java.large", payload);
            byte[] received = next(subscription).getData();
            check(
                    Arrays.equals(received, payload),
                    payload.length + " bytes came back as " + received.length + " other bytes");
            try {
                publisher.publish("java.large", new byte[payload.length + 1]);
                check(false, "one byte more raised no error");
            } catch (IllegalArgumentException error) {
                check(
                        error.getMessage().toLowerCase().contains("payload"),
                        "one byte more: " + error);
            }
            publisher.publish("java.large", bytes("still here"));
            String text = nextText(subscription);
            check(text.equals("still here"), "got " + text.length() + " bytes");
        }
    }

    /** A connection that remembers which events the client has told of. */
    private static final class Watched implements AutoCloseable {
        final Map<Events, CountDownLatch> seen = new ConcurrentHashMap<>();
        final Connection connection;

        Watched() throws Exception {
            connection =
                    Nats.connect(
                            options()
                                    .maxReconnects(-1)
                                    .reconnectWait(Duration.ofMillis(100))
                                    .connectionListener((from, event) -> latch(event).countDown())
                                    .build());
        }

        private CountDownLatch latch(Events event) {
            return seen.computeIfAbsent(event, unseen -> new CountDownLatch(1));
        }

        void await(Events event) throws Exception {
            check(
                    latch(event).await(WAIT_MAX.toSeconds(), TimeUnit.SECONDS),
                    "no event '" + event + "' within " + WAIT_MAX);
        }

        /** The script restarts the server; afterwards the old subscription must work again. */
        void restart(String subject, Subscription subscription) throws Exception {
            control("restart");
            await(Events.DISCONNECTED);
            await(Events.RECONNECTED);
            await(Events.RESUBSCRIBED);
            connection.publish(subject, bytes("again"));
            String text = nextText(subscription);
            check(text.equals("again"), "after the restart: got " + text);
        }

        @Override
        public void close() throws InterruptedException {
            connection.close();
        }
    }

    private static void reconnect() throws Exception {
        try (Watched watched = new Watched()) {
            Subscription subscription = watched.connection.subscribe("java.reconnect");
            watched.connection.flush(WAIT_MAX);
            watched.restart("java.reconnect", subscription);
        }
    }

    private static void lameDuck() throws Exception {
        try (Watched watched = new Watched()) {
            Subscription subscription = watched.connection.subscribe("java.lame_duck");
            watched.connection.flush(WAIT_MAX);
            control("lame_duck");
            watched.await(Events.LAME_DUCK);
            watched.restart("java.lame_duck", subscription);
        }
    }

    private static void closeCallbacks() throws Exception {
        Watched watched = new Watched();
        watched.connection.flush(WAIT_MAX);
        watched.connection.close();
        // A close by the application is no disconnect to this client: it tells only of the close.
        watched.await(Events.CLOSED);
        try {
            watched.connection.publish("java.closed", new byte[0]);
        } catch (IllegalStateException closed) {
            return;
        }
        check(false, "publishing on a closed connection raised no error");
    }

    public static void main(String[] arguments) {
        Map<String, Case> cases =
                Map.ofEntries(
                        Map.entry("publish_subscribe", Interop::publishSubscribe),
                        Map.entry("wildcards", Interop::wildcards),
                        Map.entry("request_reply", Interop::requestReply),
                        Map.entry("no_responders", Interop::noResponders),
                        Map.entry("queue_groups", Interop::queueGroups),
                        Map.entry("headers", Interop::headers),
                        Map.entry("flush_fence", Interop::flushFence),
                        Map.entry("drain", Interop::drain),
                        Map.entry("max_payload", Interop::maxPayload),
                        Map.entry("reconnect", Interop::reconnect),
                        Map.entry("lame_duck", Interop::lameDuck),
                        Map.entry("close_callbacks", Interop::closeCallbacks));
        for (String name : System.getenv("INTEROP_CASES").trim().split("\\s+")) {
            try {
                cases.get(name).run();
                System.out.println("RESULT " + name + " pass");
            } catch (Exception error) {
                System.out.println(
                        "RESULT " + name + " fail " + String.valueOf(error).replaceAll("\\s+", " "));
            }
        }
        System.exit(0);
    }
}
