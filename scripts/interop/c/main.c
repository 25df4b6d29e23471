// Interoperability cases of the C client (Debian's libnats). See ../README.md for what each case
// promises and for the lines a program exchanges with scripts/interop.sh.

#include <nats/nats.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WAIT_MAX_MS = 10000,
    QUEUE_MEMBERS = 24,
    QUEUE_MESSAGES = 2400,
    QUEUE_SHARE_MIN = 50,
    QUEUE_SHARE_MAX = 150,
    FENCE_ROUNDS = 1000,
    FENCE_PAIRS = 4,
    PUBLISHED_MESSAGES = 1000,
    REQUEST_COUNT = 100,
    DRAINED_MESSAGES = 500,
    DRAIN_ROUNDS = 10,
    NO_RESPONDERS_AGE_MAX_MS = 2000,
    CONNECTIONS_MAX = 64,
};

// What went wrong in the case that runs. A case is over at its first failure: it returns, and
// what it opened is closed by close_all.
static char failure[512];

#define FAIL(...)                                          \
    do {                                                   \
        snprintf(failure, sizeof(failure), __VA_ARGS__);   \
        return;                                            \
    } while (0)

#define CHECK(condition, ...)                              \
    do {                                                   \
        if (!(condition)) FAIL(__VA_ARGS__);               \
    } while (0)

#define OK(call)                                           \
    do {                                                   \
        natsStatus status_ = (call);                       \
        CHECK(status_ == NATS_OK, "%s: %s", #call, natsStatus_GetText(status_)); \
    } while (0)

// Runs a step that may itself have failed.
#define STEP(call)                                         \
    do {                                                   \
        call;                                              \
        if (failure[0] != '\0') return;                    \
    } while (0)

static natsConnection *connections[CONNECTIONS_MAX];
static natsSubscription *subscriptions[CONNECTIONS_MAX];
static int connection_count;
static int subscription_count;

// What the client has told of the connection under test.
static struct {
    sem_t disconnected;
    sem_t reconnected;
    sem_t closed;
    sem_t lame_duck;
} events;

static void on_event(natsConnection *connection, void *semaphore) {
    (void)connection;
    sem_post(semaphore);
}

static void wait_for(sem_t *semaphore, const char *what) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += WAIT_MAX_MS / 1000;
    CHECK(sem_timedwait(semaphore, &deadline) == 0, "no %s within %d ms", what, WAIT_MAX_MS);
}

static void open_connection(natsConnection **connection, bool watched) {
    natsOptions *options = NULL;
    *connection = NULL;
    OK(natsOptions_Create(&options));
    natsStatus status = natsOptions_SetURL(options, getenv("NATS_URL"));
    if (status == NATS_OK) status = natsOptions_SetName(options, "interop-c");
    if (status == NATS_OK) status = natsOptions_SetTimeout(options, WAIT_MAX_MS);
    if (watched) {
        sem_init(&events.disconnected, 0, 0);
        sem_init(&events.reconnected, 0, 0);
        sem_init(&events.closed, 0, 0);
        sem_init(&events.lame_duck, 0, 0);
        if (status == NATS_OK) status = natsOptions_SetMaxReconnect(options, -1);
        if (status == NATS_OK) status = natsOptions_SetReconnectWait(options, 100);
        if (status == NATS_OK)
            status = natsOptions_SetDisconnectedCB(options, on_event, &events.disconnected);
        if (status == NATS_OK)
            status = natsOptions_SetReconnectedCB(options, on_event, &events.reconnected);
        if (status == NATS_OK) status = natsOptions_SetClosedCB(options, on_event, &events.closed);
        if (status == NATS_OK)
            status = natsOptions_SetLameDuckModeCB(options, on_event, &events.lame_duck);
    }
    if (status == NATS_OK) status = natsConnection_Connect(connection, options);
    natsOptions_Destroy(options);
    CHECK(status == NATS_OK, "connecting: %s", natsStatus_GetText(status));
    connections[connection_count++] = *connection;
}

static void close_all(void) {
    while (subscription_count > 0) natsSubscription_Destroy(subscriptions[--subscription_count]);
    while (connection_count > 0) natsConnection_Destroy(connections[--connection_count]);
}

static void subscribe(natsSubscription **subscription, natsConnection *connection,
                      const char *subject) {
    OK(natsConnection_SubscribeSync(subscription, connection, subject));
    subscriptions[subscription_count++] = *subscription;
    OK(natsConnection_Flush(connection));
}

// A subscriber and a publisher on their own connections.
static void open_pair(const char *subject, natsSubscription **subscription,
                      natsConnection **publisher) {
    natsConnection *subscriber;
    STEP(open_connection(&subscriber, false));
    STEP(open_connection(publisher, false));
    STEP(subscribe(subscription, subscriber, subject));
}

static void expect_message(natsSubscription *subscription, const char *expected) {
    natsMsg *message = NULL;
    OK(natsSubscription_NextMsg(&message, subscription, WAIT_MAX_MS));
    bool equal = natsMsg_GetDataLength(message) == (int)strlen(expected) &&
                 memcmp(natsMsg_GetData(message), expected, strlen(expected)) == 0;
    int length = natsMsg_GetDataLength(message);
    natsMsg_Destroy(message);
    CHECK(equal, "expected '%s', got %d other bytes", expected, length);
}

// Asks the script to do something to the server and waits until it is done.
static void control(const char *verb) {
    char answer[64];
    printf("CONTROL %s\n", verb);
    CHECK(fgets(answer, sizeof(answer), stdin) != NULL, "the script did not answer");
    CHECK(strcmp(answer, "done\n") == 0, "the script answered '%s'", answer);
}

static void publish_subscribe(void) {
    natsSubscription *subscription;
    natsConnection *publisher;
    char text[64];
    STEP(open_pair("c.publish", &subscription, &publisher));
    for (int number = 0; number < PUBLISHED_MESSAGES; number++) {
        snprintf(text, sizeof(text), "message %d", number);
        OK(natsConnection_PublishString(publisher, "c.publish", text));
    }
    OK(natsConnection_Publish(publisher, "c.publish", NULL, 0));
    for (int number = 0; number < PUBLISHED_MESSAGES; number++) {
        snprintf(text, sizeof(text), "message %d", number);
        STEP(expect_message(subscription, text));
    }
    STEP(expect_message(subscription, ""));
}

static void expect_subjects(natsSubscription *subscription, const char *const *expected) {
    for (; *expected != NULL; expected++) {
        natsMsg *message = NULL;
        OK(natsSubscription_NextMsg(&message, subscription, WAIT_MAX_MS));
        char subject[64];
        snprintf(subject, sizeof(subject), "%s", natsMsg_GetSubject(message));
        natsMsg_Destroy(message);
        CHECK(strcmp(subject, *expected) == 0, "expected %s, got %s", *expected, subject);
    }
}

static void wildcards(void) {
    static const char *const published[] = {"c.wild",
                                            "c.wild.usd",
                                            "c.wild.usd.price",
                                            "c.wild.usd.eur.price",
                                            "c.wild.last.price"};
    static const char *const of_star[] = {"c.wild.usd.price", "c.wild.last.price", NULL};
    static const char *const of_tail[] = {"c.wild.usd", "c.wild.usd.price", "c.wild.usd.eur.price",
                                          "c.wild.last.price", NULL};
    natsConnection *connection;
    natsSubscription *star, *tail;
    STEP(open_connection(&connection, false));
    STEP(subscribe(&star, connection, "c.wild.*.price"));
    STEP(subscribe(&tail, connection, "c.wild.>"));
    for (size_t index = 0; index < sizeof(published) / sizeof(published[0]); index++) {
        OK(natsConnection_PublishString(connection, published[index], ""));
    }
    STEP(expect_subjects(star, of_star));
    STEP(expect_subjects(tail, of_tail));
}

static void respond(natsConnection *connection, natsSubscription *subscription, natsMsg *message,
                    void *closure) {
    (void)subscription;
    (void)closure;
    char text[128];
    int length = snprintf(text, sizeof(text), "reply to %.*s", natsMsg_GetDataLength(message),
                          natsMsg_GetData(message));
    natsConnection_Publish(connection, natsMsg_GetReply(message), text, length);
    natsMsg_Destroy(message);
}

static void request_reply(void) {
    natsConnection *responder, *requester;
    STEP(open_connection(&responder, false));
    STEP(open_connection(&requester, false));
    OK(natsConnection_Subscribe(&subscriptions[subscription_count], responder, "c.service",
                                respond, NULL));
    subscription_count++;
    OK(natsConnection_Flush(responder));
    for (int number = 0; number < REQUEST_COUNT; number++) {
        char text[64], expected[64], received[64];
        natsMsg *reply = NULL;
        snprintf(text, sizeof(text), "%d", number);
        snprintf(expected, sizeof(expected), "reply to %d", number);
        OK(natsConnection_RequestString(&reply, requester, "c.service", text, WAIT_MAX_MS));
        snprintf(received, sizeof(received), "%.*s", natsMsg_GetDataLength(reply),
                 natsMsg_GetData(reply));
        natsMsg_Destroy(reply);
        CHECK(strcmp(received, expected) == 0, "expected '%s', got '%s'", expected, received);
    }
}

static void no_responders(void) {
    natsConnection *connection;
    natsMsg *reply = NULL;
    STEP(open_connection(&connection, false));
    int64_t started = nats_Now();
    natsStatus status =
        natsConnection_RequestString(&reply, connection, "c.nobody", "anyone?", WAIT_MAX_MS);
    int64_t age_ms = nats_Now() - started;
    natsMsg_Destroy(reply);
    CHECK(status == NATS_NO_RESPONDERS, "expected no responders, got %s",
          natsStatus_GetText(status));
    CHECK(age_ms < NO_RESPONDERS_AGE_MAX_MS, "no responders was reported only after %ld ms",
          (long)age_ms);
}

static void count_message(natsConnection *connection, natsSubscription *subscription,
                          natsMsg *message, void *counter) {
    (void)connection;
    (void)subscription;
    atomic_fetch_add((atomic_int *)counter, 1);
    natsMsg_Destroy(message);
}

static void queue_groups(void) {
    // Static: callbacks may still run when a failing case has returned.
    static atomic_int counts[QUEUE_MEMBERS], plain;
    natsConnection *members[QUEUE_MEMBERS], *publisher;
    atomic_store(&plain, 0);
    for (int index = 0; index < QUEUE_MEMBERS; index++) {
        atomic_store(&counts[index], 0);
        STEP(open_connection(&members[index], false));
        OK(natsConnection_QueueSubscribe(&subscriptions[subscription_count], members[index],
                                         "c.work", "workers", count_message, &counts[index]));
        subscription_count++;
        OK(natsConnection_Flush(members[index]));
    }
    STEP(open_connection(&publisher, false));
    OK(natsConnection_Subscribe(&subscriptions[subscription_count], publisher, "c.work",
                                count_message, &plain));
    subscription_count++;
    for (int number = 0; number < QUEUE_MESSAGES; number++) {
        OK(natsConnection_PublishString(publisher, "c.work", "work"));
    }
    OK(natsConnection_Flush(publisher));
    int total = 0;
    for (int64_t deadline = nats_Now() + WAIT_MAX_MS; nats_Now() < deadline; nats_Sleep(1)) {
        total = 0;
        for (int index = 0; index < QUEUE_MEMBERS; index++) total += atomic_load(&counts[index]);
        if (total >= QUEUE_MESSAGES && atomic_load(&plain) >= QUEUE_MESSAGES) break;
    }
    // A second copy would be on its way before these answers.
    total = 0;
    for (int index = 0; index < QUEUE_MEMBERS; index++) {
        OK(natsConnection_Flush(members[index]));
        total += atomic_load(&counts[index]);
    }
    CHECK(total == QUEUE_MESSAGES, "the group got %d of %d", total, QUEUE_MESSAGES);
    CHECK(atomic_load(&plain) == QUEUE_MESSAGES, "a plain subscriber got %d of %d",
          atomic_load(&plain), QUEUE_MESSAGES);
    for (int index = 0; index < QUEUE_MEMBERS; index++) {
        int count = atomic_load(&counts[index]);
        CHECK(count >= QUEUE_SHARE_MIN && count <= QUEUE_SHARE_MAX,
              "member %d of %d got %d of %d messages", index, QUEUE_MEMBERS, count,
              QUEUE_MESSAGES);
    }
}

static void check_headers(natsMsg *message, const char *payload) {
    const char **accepted = NULL;
    const char *traced = NULL;
    int accepted_count = 0;
    CHECK(natsMsg_GetDataLength(message) == (int)strlen(payload),
          "the payload has %d bytes instead of %zu", natsMsg_GetDataLength(message),
          strlen(payload));
    CHECK(memcmp(natsMsg_GetData(message), payload, strlen(payload)) == 0, "another payload");
    OK(natsMsgHeader_Values(message, "Accept", &accepted, &accepted_count));
    bool equal = accepted_count == 2 && strcmp(accepted[0], "first") == 0 &&
                 strcmp(accepted[1], "second") == 0;
    free((void *)accepted);
    CHECK(equal, "Accept has %d other values", accepted_count);
    OK(natsMsgHeader_Get(message, "trace-ID", &traced));
    CHECK(strcmp(traced, "a: b, c") == 0, "trace-ID is '%s'", traced);
}

static void headers(void) {
    static const char *const payloads[] = {"with a payload", ""};
    natsSubscription *subscription;
    natsConnection *publisher;
    STEP(open_pair("c.headers", &subscription, &publisher));
    for (int index = 0; index < 2; index++) {
        const char *payload = payloads[index];
        natsMsg *message = NULL;
        OK(natsMsg_Create(&message, "c.headers", NULL, payload, (int)strlen(payload)));
        natsStatus status = natsMsgHeader_Add(message, "Accept", "first");
        if (status == NATS_OK) status = natsMsgHeader_Add(message, "Accept", "second");
        if (status == NATS_OK) status = natsMsgHeader_Add(message, "trace-ID", "a: b, c");
        if (status == NATS_OK) status = natsConnection_PublishMsg(publisher, message);
        natsMsg_Destroy(message);
        message = NULL;
        OK(status);
        OK(natsSubscription_NextMsg(&message, subscription, WAIT_MAX_MS));
        check_headers(message, payload);
        natsMsg_Destroy(message);
        if (failure[0] != '\0') return;
    }
}

static void flush_fence(void) {
    natsConnection *subscribers[FENCE_PAIRS], *publishers[FENCE_PAIRS];
    for (int pair = 0; pair < FENCE_PAIRS; pair++) {
        STEP(open_connection(&subscribers[pair], false));
        STEP(open_connection(&publishers[pair], false));
    }
    for (int round = 0; round < FENCE_ROUNDS; round++) {
        // Every subscriber meets every publisher.
        natsConnection *subscriber = subscribers[round % FENCE_PAIRS];
        natsConnection *publisher = publishers[round / FENCE_PAIRS % FENCE_PAIRS];
        natsSubscription *subscription = NULL;
        natsMsg *message = NULL;
        char subject[64];
        snprintf(subject, sizeof(subject), "c.fence.%d", round);
        OK(natsConnection_SubscribeSync(&subscription, subscriber, subject));
        natsStatus status = natsConnection_Flush(subscriber);
        if (status == NATS_OK) status = natsConnection_PublishString(publisher, subject, "x");
        if (status == NATS_OK)
            status = natsSubscription_NextMsg(&message, subscription, WAIT_MAX_MS);
        natsMsg_Destroy(message);
        natsSubscription_Destroy(subscription);
        CHECK(status == NATS_OK, "round %d: %s", round, natsStatus_GetText(status));
    }
}

static void handle_slowly(natsConnection *connection, natsSubscription *subscription,
                          natsMsg *message, void *counter) {
    usleep(100);  // a handler that is still busy when the drain begins
    count_message(connection, subscription, message, counter);
}

static void drain_once(void) {
    static atomic_int received;
    natsConnection *subscriber, *publisher;
    atomic_store(&received, 0);
    STEP(open_connection(&subscriber, true));
    STEP(open_connection(&publisher, false));
    OK(natsConnection_Subscribe(&subscriptions[subscription_count], subscriber, "c.drain",
                                handle_slowly, &received));
    subscription_count++;
    OK(natsConnection_Flush(subscriber));
    for (int number = 0; number < DRAINED_MESSAGES; number++) {
        OK(natsConnection_PublishString(publisher, "c.drain", "x"));
    }
    OK(natsConnection_Flush(publisher));
    OK(natsConnection_Drain(subscriber));
    STEP(wait_for(&events.closed, "close after the drain"));
    CHECK(atomic_load(&received) == DRAINED_MESSAGES, "%d of %d messages were handled",
          atomic_load(&received), DRAINED_MESSAGES);
}

// Begins when the publisher's flush is over: from then on nothing may overtake its messages. A race
// does not show every time, hence the rounds.
static void drain(void) {
    for (int round = 0; round < DRAIN_ROUNDS; round++) {
        STEP(drain_once());
        close_all();
    }
}

static void max_payload(void) {
    natsSubscription *subscription;
    natsConnection *publisher;
    STEP(open_pair("c.large", &subscription, &publisher));
    int size = (int)natsConnection_GetMaxPayload(publisher);
    char *payload = malloc((size_t)size + 1);
    CHECK(payload != NULL, "out of memory");
    for (int index = 0; index <= size; index++) payload[index] = (char)(index % 251);
    natsMsg *message = NULL;
    natsStatus status = natsConnection_Publish(publisher, "c.large", payload, size);
    if (status == NATS_OK) status = natsSubscription_NextMsg(&message, subscription, WAIT_MAX_MS);
    bool equal = status == NATS_OK && natsMsg_GetDataLength(message) == size &&
                 memcmp(natsMsg_GetData(message), payload, (size_t)size) == 0;
    natsMsg_Destroy(message);
    natsStatus above = natsConnection_Publish(publisher, "c.large", payload, size + 1);
    free(payload);
    OK(status);
    CHECK(equal, "a payload of %d bytes came back as other bytes", size);
    CHECK(above == NATS_MAX_PAYLOAD, "one byte more: expected the max payload error, got %s",
          natsStatus_GetText(above));
    OK(natsConnection_PublishString(publisher, "c.large", "still here"));
    STEP(expect_message(subscription, "still here"));
}

static void open_watched(const char *subject, natsConnection **connection,
                         natsSubscription **subscription) {
    STEP(open_connection(connection, true));
    STEP(subscribe(subscription, *connection, subject));
}

// The script restarts the server; afterwards the old subscription must work again.
static void restart(const char *subject, natsConnection *connection,
                    natsSubscription *subscription) {
    STEP(control("restart"));
    STEP(wait_for(&events.disconnected, "disconnected callback"));
    STEP(wait_for(&events.reconnected, "reconnected callback"));
    OK(natsConnection_PublishString(connection, subject, "again"));
    STEP(expect_message(subscription, "again"));
}

static void reconnect(void) {
    natsConnection *connection;
    natsSubscription *subscription;
    STEP(open_watched("c.reconnect", &connection, &subscription));
    STEP(restart("c.reconnect", connection, subscription));
}

static void lame_duck(void) {
    natsConnection *connection;
    natsSubscription *subscription;
    STEP(open_watched("c.lame_duck", &connection, &subscription));
    STEP(control("lame_duck"));
    STEP(wait_for(&events.lame_duck, "lame duck callback"));
    STEP(restart("c.lame_duck", connection, subscription));
}

static void close_callbacks(void) {
    natsConnection *connection;
    STEP(open_connection(&connection, true));
    OK(natsConnection_Flush(connection));
    natsConnection_Close(connection);
    STEP(wait_for(&events.disconnected, "disconnected callback"));
    STEP(wait_for(&events.closed, "closed callback"));
    natsStatus status = natsConnection_PublishString(connection, "c.closed", "");
    CHECK(status == NATS_CONNECTION_CLOSED, "publishing on a closed connection: %s",
          natsStatus_GetText(status));
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"publish_subscribe", publish_subscribe},
    {"wildcards", wildcards},
    {"request_reply", request_reply},
    {"no_responders", no_responders},
    {"queue_groups", queue_groups},
    {"headers", headers},
    {"flush_fence", flush_fence},
    {"drain", drain},
    {"max_payload", max_payload},
    {"reconnect", reconnect},
    {"lame_duck", lame_duck},
    {"close_callbacks", close_callbacks},
};

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (char *name = strtok(getenv("INTEROP_CASES"), " "); name != NULL; name = strtok(NULL, " ")) {
        snprintf(failure, sizeof(failure), "this program has no such case");
        for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++) {
            if (strcmp(cases[index].name, name) == 0) {
                failure[0] = '\0';
                cases[index].run();
                close_all();
            }
        }
        printf("RESULT %s %s %s\n", name, failure[0] == '\0' ? "pass" : "fail", failure);
    }
    nats_Close();
    return 0;
}
