//! Every bound of the server: unit, value, reason, and who enforces it.
//!
//! For bounds that an operator can change this is the default; the value in force is in
//! `config::options`.

use std::time::Duration;

/// Bytes of one control line's arguments. nats-server's `max_control_line`. Enforced by the parser.
pub const CONTROL_LINE_BYTES_MAX: usize = 4096;

/// Bytes of one message's headers and payload. nats-server's `max_payload`. Enforced by the session
/// when the control line is parsed, before payload bytes are read.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Bytes. A configured `max_payload` above this gets a warning at start, as in nats-server.
pub const PAYLOAD_BYTES_WARN: usize = 8 << 20;

/// Bytes queued for one connection. nats-server's `max_pending`. Enforced by `ByteQueue::push`: the
/// connection is closed as a slow consumer.
pub const PENDING_BYTES_MAX: usize = 64 << 20;

/// Bytes queued for one connection past which its publishers are slowed, as long as it keeps taking
/// data: bytes that are still in cache are cheap to send. Enforced by `Outbox::push`, obeyed by the
/// publisher's session.
pub const PENDING_BYTES_PACE: usize = 1 << 20;

/// Returns the same for a client whose limit is `pending_bytes_max`: at most three quarters of that
/// limit.
pub fn pace_bytes(pending_bytes_max: usize) -> usize {
    PENDING_BYTES_PACE.min(pending_bytes_max / 4 * 3)
}

/// Longest time that a client which gave its password in time waits for a helper thread and for the
/// bcrypt comparison. Generous, because after a restart everybody logs in at once and whoever is
/// turned away has to be checked again. Past it the client is told `Authentication Timeout`.
/// Enforced by the session's tick.
pub const PASSWORD_CHECK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Bytes of a JWT. Source: nats-server's jwt.MaxTokenSize. Enforced by `auth::jwt::token`.
pub const JWT_BYTES_MAX: usize = 1 << 20;

/// Accounts that one login's account may bring along because it imports from them, itself included.
/// Enforced by `server::run::account_source`.
pub const ACCOUNTS_PER_LOOKUP_MAX: usize = 1024;

/// Logins whose accounts are looked up together, for one new state of all accounts. Enforced by the
/// main thread.
pub const LOOKUPS_PER_STATE_MAX: usize = 1024;

/// Accounts that a cache of JWTs holds, unless the file says otherwise. Source: nats-server's default
/// of `limit`.
pub const CACHED_ACCOUNTS_DEFAULT: usize = 1000;

/// Subjects that the templates of one list of permissions may make for a user. Source: nats-server
/// maxPermTemplateSubjectExpansions. Enforced by `auth::jwt::template`.
pub const TEMPLATE_SUBJECTS_MAX: usize = 4096;

/// Bytes of a password that bcrypt looks at. Enforced by `auth::password`.
pub const BCRYPT_BYTES_MAX: usize = 72;

/// Waiting password checks after which a shard first looks for those whose clients are gone; then
/// whenever their number has doubled. Enforced by `shard::offload`.
pub const PASSWORD_CHECKS_SWEEP_MIN: usize = 1024;

/// Password checks of one shard that wait for a helper thread, including those of clients that are
/// already gone: clients that come and go quickly must not fill the memory. Past it no check is
/// queued, and the client runs into `PASSWORD_CHECK_WAIT_MAX`. Enforced by `shard::offload`.
pub const PASSWORD_CHECKS_MAX: usize = 1 << 17;
const _: () = assert!(PASSWORD_CHECKS_MAX > CONNECTIONS_MAX, "all clients may log in at once");

/// Password checks that one shard hands to one helper thread at a time: the one in progress and the
/// next. All others wait on their shard for whichever helper is free first. Enforced by
/// `shard::offload`.
pub const OFFLOAD_RING_SLOTS: usize = 2;

/// Helper threads for bcrypt. Each runs on a core that no shard is pinned to. Enforced by
/// `shard::offload`.
pub const OFFLOAD_THREADS_MAX: usize = 4;

/// Limit on open files below which even a small server may run out of them: four times the usual
/// soft limit of a login. Below it the start warns even if `max_connections` was left at its
/// default. Enforced by `server::host::machine`.
pub const OPEN_FILES_FEW: u64 = 4096;

/// Client connections over all shards. nats-server's `max_connections`. Enforced at accept.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Cached subjects examined for one change of a wildcard subscription. Past it the match cache is
/// emptied instead, since one SUB must not hold up a shard. Enforced by
/// `MatchCache::evict_matching`.
pub const MATCH_CACHE_SCAN_MAX: usize = 512;

/// Bytes of cached subjects compared for one change of a wildcard subscription, with the same effect
/// as `MATCH_CACHE_SCAN_MAX`. Subjects of up to 128 bytes never reach it.
pub const MATCH_CACHE_SCAN_BYTES_MAX: usize = 64 << 10;

/// Digits of a size argument, as in nats-server's parser: sizes are below 10^9.
pub const SIZE_DIGITS_MAX: usize = 9;

/// Log lines queued for the log writer, enough for a burst at start or at a reload. Past it lines
/// are dropped and counted. Enforced by `Logger::submit`.
pub const LOG_QUEUED_LINES_MAX: usize = 16_384;

/// Bytes of log lines queued for the log writer: lines may hold text from clients. Past it lines
/// are dropped and counted. Enforced by `Logger::submit`.
pub const LOG_QUEUED_BYTES_MAX: usize = 16 << 20;

/// Bytes of one log line; the rest is cut off. A traced payload of the default `max_payload` fits,
/// with room for its escapes. Enforced by `LineFormat::line`.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 20;

const _: () =
    assert!(LOG_LINE_BYTES_MAX <= LOG_QUEUED_BYTES_MAX, "one longest line must fit an empty queue");

/// Reply subjects that one connection remembers for `allow_responses`; nats-server has no bound.
/// Past it the oldest is forgotten, so that a response to it is refused. Enforced by
/// `auth::replies::ReplyTable`.
pub const TRACKED_REPLIES_MAX: usize = 1 << 17;

/// Bytes of those reply subjects, with the memory around each: room for `TRACKED_REPLIES_MAX`
/// inboxes of the usual length, and a sixtieth of what as many subjects of the greatest length
/// would take. Past it the oldest are forgotten. Enforced by `auth::replies::ReplyTable`.
pub const TRACKED_REPLY_BYTES_MAX: usize = 16 << 20;
const _: () =
    assert!(PAYLOAD_BYTES_MAX <= PENDING_BYTES_MAX, "one largest message must fit an empty outbox");
const _: () = assert!(PENDING_BYTES_PACE < PENDING_BYTES_MAX, "pacing comes before cutting");

/// Bytes that a session may leave unparsed without an end of line, in addition to the control
/// line's own limit: the verb and the blanks after it. Enforced by the parser.
pub const VERB_BYTES_MAX: usize = 64;

/// Bytes. Size classes of a connection's read buffer. An idle connection holds the smallest, enough
/// for PING and PONG; a new one begins with the second, whose size nothing else of a connection
/// has: once all connections are idle, these buffers leave no holes among what stays. Enforced by
/// `net::read_buffer`.
pub const READ_BUFFER_BYTES: [usize; 5] = [64, 640, 4 << 10, 64 << 10, 256 << 10];

/// Reads of one connection between two ticks of its shard up to which the connection counts as
/// slow. A slow connection's pending read may be cancelled, so that it idles on the smallest
/// buffer. Enforced by the reader in `net::connection`.
pub const SLOW_READS_MAX: u32 = 16;

/// Idle connections whose buffers are given back in one tick: each costs a cancelled read and a new
/// one, some microseconds. The others follow at the next ticks. Enforced by `shard::tick`.
pub const SHRINKS_PER_TICK_MAX: usize = 512;

/// Connections whose timers are checked in one turn: at some tenths of a microsecond each, others
/// wait less than a tenth of a millisecond for it. Enforced by `shard::tick`.
pub const TICKED_PER_TURN_MAX: usize = 128;

/// Sessions visited in one turn after a reload, or to be sent an INFO: some microseconds each. The
/// subscriptions of one session have a bound of their own. Enforced by `shard::walk`.
pub const REVIEWED_PER_TURN_MAX: usize = 64;

/// Connections closed in one turn of an order: some microseconds each. Enforced by `shard::walk`.
pub const CLOSED_PER_TURN_MAX: usize = 64;

/// Connections that are torn down in one turn, whatever ended them: a failing network ends
/// thousands at once. Enforced by `net::quota`.
pub const ENDED_PER_TURN_MAX: usize = 64;

/// Accounts that are given the server's own subscriptions in one turn after a reload. Enforced by
/// `shard::system`.
pub const SERVED_ACCOUNTS_PER_TURN_MAX: usize = 64;

/// Bytes of a message from which on a connection's buffers may grow to the largest class: for
/// smaller messages a buffer of 64 KiB stays in cache and is faster. Enforced by `net::read_buffer`
/// and `broker::byte_queue`.
pub const LARGE_MESSAGE_BYTES: usize = 4 << 10;

/// Bytes of a buffer up to which it is filled by one read, or sent by one write: the size of the
/// largest class. Enforced by `read_buffer::piece_end`.
pub const WHOLE_BYTES_MAX: usize = 256 << 10;

/// How many times the bytes that have arrived a buffer of more than `WHOLE_BYTES_MAX` may hold,
/// while it waits for the rest of a message. Each growth copies what is there, and so most messages
/// are copied once again in small part only. Enforced by `net::read_buffer`.
pub(crate) const LARGE_BUFFER_GROWTH: usize = 8;

/// Bytes of one turn's read or send of a buffer larger than `WHOLE_BYTES_MAX`: everybody else on
/// the shard waits while the kernel copies them. Not applied to smaller buffers, where it would
/// cost a tenth of the speed. Enforced by `read_buffer::piece_end`.
pub const PIECE_BYTES: usize = 128 << 10;

/// Bytes. Size classes of write chunks; a message larger than the largest gets a chunk of its own
/// size. Enforced by `broker::byte_queue`.
pub const CHUNK_BYTES: [usize; 5] = [128, 1 << 10, 8 << 10, 64 << 10, 256 << 10];

/// Bytes of free buffers of each class that a shard keeps for reuse, in each of its pools: enough
/// for a turn's sends. More would be memory that a burst leaves behind. Enforced by
/// `BufferPool::give_back`.
pub const POOLED_BYTES_MAX: usize = 1 << 20;

/// Free buffers of each class that a pool frees in one tick of its shard, of those that nobody
/// needed since the last tick: some hundredths of a microsecond each. Enforced by
/// `BufferPool::trim`.
pub const POOL_TRIMMED_MAX: usize = 1024;

/// Bytes. Size classes of buffers for decrypted TLS input: the largest holds one read, a record
/// that was waiting, and the part of a command before them. Enforced by `net::connection`.
pub const OPENED_BYTES: [usize; 4] = [512, 4 << 10, 32 << 10, 128 << 10];

/// Bytes of a WebSocket connection's frames that are decoded before its session is asked to handle
/// them: a deflated message of a few bytes may stand for very many. Enforced by `net::frames`.
pub const OPENED_PER_STEP_BYTES: usize = 64 << 10;

/// Bytes of deflated payload that are copied from the read buffer at a time, to be inflated.
/// Enforced by `protocol::websocket::frame`.
pub const DEFLATED_PIECE_BYTES: usize = 4 << 10;

/// Bytes held of an unfinished deflated message before it needs an inflater of its own, of some 50
/// KiB, which a peer that has not logged in does not get: it is closed. As many as a default
/// `max_control_line`, inflated. Enforced by `net::frames`.
pub const DEFLATED_HELD_BYTES_MAX: usize = 4 << 10;

/// Inflaters that a shard keeps for its connections: one is used at a time, unless messages come in
/// parts. Enforced by `net::frames`.
pub const INFLATERS_KEPT_MAX: usize = 4;

/// Bytes of unsent answers to a peer's WebSocket pings. Past it the oldest are dropped. Enforced by
/// `net::frames`.
pub const PONG_BYTES_MAX: usize = 4 << 10;

/// Bytes of the head of a WebSocket upgrade: room for the cookies of a page. Past it the answer is
/// 431. Enforced by `peer::upgrade`.
pub const UPGRADE_HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a WebSocket upgrade. Enforced by `peer::upgrade`.
pub const UPGRADE_HEADERS_MAX: usize = 100;

/// Time for the upgrade of a WebSocket connection, and before it for its TLS handshake, where
/// `handshake_timeout` gives none: nats-server then lets a peer be silent for ever. Enforced by
/// `peer::opening`.
pub const UPGRADE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Time in which a connection must show whether a proxy stands in front of it, where one may:
/// nats-server's `proxyProtoReadTimeout`. A peer that is silent for so long is closed. Enforced by
/// `peer::opening`.
pub const PROXY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes. Size classes of buffers for encrypted chunks: each holds a chunk of its class and what
/// TLS adds to it. Enforced by `net::codec`.
pub const SEALED_BYTES: [usize; 3] = [1536, 9 << 10, 65 << 10];

/// Bytes of a chunk that are encrypted and sent at a time. Enforced by `net::codec`.
pub const SEAL_BYTES_MAX: usize = 64 << 10;

/// Bytes of TLS input that are neither a whole record nor a whole handshake message. Past it the
/// handshake fails; no chain of certificates in use needs more. Enforced by `net::tls`.
pub const TLS_UNREAD_HANDSHAKE_BYTES_MAX: usize = 32 << 10;

/// The same after the handshake: one record, plus the pieces of a handshake message, which rustls
/// bounds at 64 KiB. Enforced by `net::tls`.
pub const TLS_UNREAD_BYTES_MAX: usize = 96 << 10;

/// Certificates that a client may send in addition to its own: chains in use have two or three.
/// Enforced by `net::client_certificate`.
pub const CHAIN_CERTIFICATES_MAX: usize = 10;

/// Signatures checked, in addition to webpki's own hundred, to find a chain for one client. One by
/// a P-521 key takes about as long as a handshake. Enforced by `net::client_certificate`.
pub const CHAIN_SIGNATURES_MAX: usize = 16;

/// Steps of TLS handshakes in one turn of a shard. With an RSA key of 2048 bits one takes about a
/// millisecond, as long as a turn's deliveries may take. Enforced by `net::quota`.
pub const HEAVY_STEPS_PER_TURN_MAX: usize = 1;

/// Slots of the interest lane of one ordered pair of shards. While fewer than `INTEREST_ROOM_MIN`
/// are free, a SUB or UNSUB is not read yet. A shard takes in everything that waits there before
/// anything is published on it, at about a microsecond each. Enforced by `mesh::outbound`.
pub const INTEREST_LANE_SLOTS: usize = 1024;

/// Slots of all interest lanes into one shard, of 56 bytes each, because the number of lanes grows
/// with the square of the number of shards. Enforced by `mesh::Lanes::of`, which gives no lane less
/// than four times `INTEREST_ROOM_MIN`.
pub const INTEREST_SLOTS_PER_SHARD: usize = 3072;

/// Free interest slots that a session needs before it executes a SUB or an UNSUB. Enforced by
/// `mesh::outbound`.
pub const INTEREST_ROOM_MIN: usize = 64;

/// Bytes of filters and queue names on one interest lane from which on further SUBs and UNSUBs are
/// not read yet: a filter of many tokens takes the other shard long. Enforced by `mesh::outbound`.
pub const INTEREST_LANE_BYTES_MAX: usize = 256 << 10;

/// Slots of the message lane of one ordered pair of shards; each holds one batch. Enforced by
/// `mesh::Lanes::of`.
pub const MESSAGE_LANE_SLOTS: usize = 64;

/// Empty batches waiting to be reused, per pair of shards and over all pairs with the same
/// producer; surplus batches are freed. Enforced by `mesh::Lanes::of`, which gives each pair room
/// for at least one.
pub const RETURNED_BATCHES_MAX: usize = 8;
pub const RETURNED_BATCHES_PER_SHARD: usize = 32;

/// Bytes of one batch on a message lane; a larger message travels alone. Enforced by
/// `mesh::outbound`.
pub const BATCH_BYTES: usize = 64 << 10;

/// Bytes in flight on one message lane that are always allowed, however small a client's
/// `max_pending`: a publisher then goes on after each turn of the other shard. Enforced by
/// `mesh::outbound`.
pub const LANE_BYTES_MIN: usize = 16 << 10;

/// Requests of one shard that went to several others and found nobody on some of them so far. Past
/// it the oldest is forgotten: its requester gets no 503. Enforced by `broker::no_responders`.
pub const UNHEARD_REQUESTS_MAX: usize = 1024;

/// Clients that wait for room on a lane and go on each time a flush finds some: some microseconds
/// each, and there may be room for one. The others go on at later flushes. Enforced by
/// `mesh::outbound`.
pub const ADMITTED_MAX: usize = 64;

/// Notes that nobody got a request, staged for one shard, from which on the messages of that shard do
/// not count as delivered: their lane gets full, and its publishers wait, until some are taken.
/// Enforced by `mesh::outbound`.
pub const UNHEARD_STAGED_FEW: usize = 1024;

/// Bytes of such notes that are staged for one shard: more than all messages of a lane can bring.
/// Past it, which takes messages that passed over a third shard, a note is dropped and counted, and
/// the requester gets no 503. Enforced by `mesh::outbound`.
pub const UNHEARD_STAGED_BYTES_MAX: usize = 16 << 20;

/// Times that a queue message looks for a member of its group on another shard than the one that
/// was picked for it, before it is dropped. Enforced by `broker::forward`.
pub const QUEUE_HOPS_MAX: u8 = 3;

/// Bytes of messages that one shard has to pass on and that find no room, from which on what they
/// followed from does not count as delivered: its publishers wait. What is under way to the shard
/// then comes on top. Enforced by `mesh::outbound`.
pub const PASSED_ON_BYTES_FEW: usize = 1 << 20;

/// Batches under way on one lane with messages that were passed on equally often. Enforced by
/// `mesh::passed_on`.
pub const PASSED_ON_SLOTS: usize = 4;

/// Work of one connection's turn, of one drain of a shard's lanes, and of one turn's background
/// work, in units of about 50 ns: examining a subscription is one unit, whether it gets the message
/// or not. A turn thus takes about a millisecond before others get theirs. Enforced by
/// `turn::Turn`, `Mesh::drain` and `Broker::work_off`.
pub const TURN_WORK_MAX: usize = 16_384;

/// Work in flight on one message lane, counted until it is delivered, at which nothing more is
/// added: a publisher for the other shard waits until some is done. With less, the two shards would
/// wait for each other. Enforced by `mesh::outbound`.
pub const LANE_WORK_MAX: usize = 4 * TURN_WORK_MAX;
const _: () = assert!(
    LANE_WORK_MAX * 128 + MESSAGE_LANE_SLOTS * BATCH_BYTES < UNHEARD_STAGED_BYTES_MAX,
    "each message on a lane may be a request that nobody gets"
);

/// Subscriptions of one filter from which on other shards are told whenever their number passes a
/// power of two. Enforced by `Broker::count_interest`.
pub const INTEREST_WEIGHT_MIN: u32 = 4;

/// Divisor: a message that needs at most this part of a turn's work is routed in one piece, even by
/// a turn that is nearly over. One that may need more is continued in the next turn. Enforced by
/// `turn::Turn`.
pub const WHOLE_WORK_SHARE: usize = 4;

/// Bytes of a message that cost one unit of work to copy.
pub const WORK_UNIT_BYTES: usize = 1024;

/// Imports of services that one request may pass. nats-server has no bound. Enforced by `broker::crossing`: past it the
/// request goes nowhere.
pub const SERVICE_HOPS_MAX: usize = 16;

/// Requests of one account to another that may wait for an answer on one shard. nats-server has no bound. Enforced by
/// `broker::responses`: past it a request finds nobody.
pub const RESPONSES_MAX: usize = 1 << 16;

/// Bytes of those, with the memory around each. Enforced as `RESPONSES_MAX`.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Requests per exporting account that are looked at now and then for their time. Enforced by `Broker::trim`.
pub const RESPONSE_LOOKS_PER_TRIM: usize = 64;

/// Units of work that it takes to bring a message into another account, before it is published there.
pub const CROSSING_WORK: usize = 4;

/// Units of work for adding or removing a subscription: it changes three tables and is told to
/// other shards. A long filter, and cached subjects that it is compared with, come on top
/// (`Broker::take_change_work`).
pub const SUBSCRIPTION_WORK: usize = 16;

/// Nodes of a user's denied subjects that a new subscription looks at to learn whether it overlaps
/// some of them; beyond it counts as overlapping. Enforced by `auth::subject_set`.
pub const OVERLAP_NODES_MAX: usize = 64;

/// Units of work for refusing a command: a line for the peer and one for the log.
pub const REFUSAL_WORK: usize = 64;

/// Units of work for a CONNECT of a client that is logged in already: it is decided and reported.
pub const CONNECT_WORK: usize = 128;

/// Bytes of JSON that cost one unit of work to parse.
pub const JSON_BYTES_PER_UNIT: usize = 16;

/// Bytes of a header block that cost one unit of work to look for a name in.
pub const HEADER_BYTES_PER_UNIT: usize = 64;

/// Bytes of a filter or a subject that cost one unit of work to go through token by token.
pub const TOKEN_BYTES_PER_UNIT: usize = 32;

/// Receivers of a message that are served between two checks of a turn's remaining work. Enforced
/// by `broker::walk`.
pub const FAN_OUT_PART: usize = 256;

/// Subscriptions of one client that are checked against new permissions in one turn. Enforced by
/// `client::review`.
pub const SUBSCRIPTIONS_REVIEWED_MAX: usize = 256;

/// Units of work for checking a message against a subscription's denied subjects.
pub const DENIAL_WORK: usize = 4;

/// Subscriptions up to which a matched list is dropped in one go; a longer one is dropped in parts
/// by `Broker::work_off`. Enforced by `broker::match_list`.
pub const DROPPED_AT_ONCE_MAX: usize = 32;

/// Bytes of the server's own messages that wait for an earlier one with many receivers. Past it the
/// publisher is told that there is no room. Enforced by `broker::backlog`.
pub const WAITING_FAN_OUT_BYTES_MAX: usize = 4 << 20;

/// Bytes of messages that wait behind after their publishers are gone, those of
/// `WAITING_FAN_OUT_BYTES_MAX` included: peers that publish to many and leave must not fill the
/// memory. One always finds room; past it a message ends, and is counted. Enforced by
/// `Broker::adopt`.
pub const ADOPTED_FAN_OUT_BYTES_MAX: usize = 64 << 20;

/// Subscriptions of lists that are not needed any more and wait to be dropped behind, at 8 bytes
/// each, from which on whoever makes a new list drops twice as many first. Enforced by
/// `broker::match_list`.
pub const LEFTOVERS_MAX: usize = 1 << 20;

/// Bytes of queue names that accompany one copy of a message over a link; more groups take another
/// copy. Enforced by `broker::walk`.
pub const PICKED_NAMES_BYTES_MAX: usize = 32 << 10;

/// Subscriptions of a matched list up to which a publisher keeps it between two reads. Longer ones,
/// one for each connection, would be memory that no bound counts. Enforced by
/// `RouteCache::end_batch`.
pub const ROUTE_LIST_KEPT_MAX: usize = 64;

/// Messages of one publisher on one subject that are routed together as a run. Enforced by
/// `Turn::run_max`.
pub const RUN_MESSAGES_MAX: usize = 256;

/// Bytes of a run from which on no further message is added: what was read is written on while it
/// is still in the nearest cache. Enforced by `plain::extend_run`.
pub const RUN_BYTES_MAX: usize = 4 << 10;

/// Receivers of a subject up to which its messages are routed in runs. Enforced by
/// `Broker::run_max`.
pub const RUN_RECEIVERS_MAX: usize = 1024;

/// Distinct log lines, by text and account, remembered as written recently. Past it such lines are
/// left out. Enforced by `peer::rare_lines`.
pub const RARE_LINES_MAX: usize = 256;

/// Milliseconds that a publisher waits for slow consumers, in all, after one read. nats-server's
/// stall limit per pass of its read loop. Enforced by `client::receive`.
pub const PACE_MS_MAX: u64 = 10;

/// Milliseconds of such a wait from which on the log reports it. nats-server's
/// `stallClientMaxDuration`.
pub const STALL_MS_LOGGED_MIN: u64 = 5;

/// Milliseconds without a completed send after which publishers no longer wait for a consumer.
/// Enforced by `broker::byte_queue`.
pub const PACE_MOVING_MS: u64 = 20;

/// The same for a consumer above three quarters of its pending limit: past it publishers go on, and
/// it is left to be closed as a slow consumer. Enforced by `broker::byte_queue`.
pub const PACE_STUCK_MS: u64 = 1000;

/// Subscriptions in a shard's tables from which on its memory may come in huge pages: the tables no
/// longer fit a core's cache, and a few pages more or less make no difference. Enforced by
/// `shard::tick`.
pub const HUGE_PAGES_SUBSCRIPTIONS_MIN: usize = 50_000;

/// Matched lists that a shard remembers per account. Enforced by `MatchCache`.
pub const MATCH_CACHE_ENTRIES: usize = 8192;

/// Bytes of the matched lists that a shard remembers, over all accounts; usual servers need a tenth
/// of it. Past it lists that were not asked for lately make room, or else the new one is not
/// remembered. Enforced by `match_cache::CachedBytes`.
pub const MATCH_CACHE_BYTES_MAX: usize = 32 << 20;

/// Bytes of one matched list that is remembered: about a million receivers. The list of a message
/// with more is made anew each time. Enforced by `MatchCache::insert`.
pub const MATCH_ANSWER_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(MATCH_ANSWER_BYTES_MAX <= MATCH_CACHE_BYTES_MAX);

const _: () = assert!(READ_BUFFER_BYTES[4] == WHOLE_BYTES_MAX && CHUNK_BYTES[4] == WHOLE_BYTES_MAX);
const _: () = assert!(INTEREST_ROOM_MIN < INTEREST_LANE_SLOTS);
const _: () = assert!(
    SEAL_BYTES_MAX < SEALED_BYTES[2] && CHUNK_BYTES[3] <= SEAL_BYTES_MAX,
    "a largest chunk is sealed in one go into a pooled buffer"
);

/// Nesting depth of lists, maps and braces in a configuration file, which is read recursively.
/// Enforced by the configuration parser.
pub const CONFIG_DEPTH_MAX: usize = 128;

/// Bytes of one configuration file: some hundred thousand accounts. An endless device is no
/// configuration. Enforced by `base::files::read`.
pub const CONFIG_FILE_BYTES_MAX: usize = 64 << 20;

/// Files that one configuration includes, and environment variables that it reads, each as often as
/// it is named: two includes per file, 23 files deep, would be eight million. Enforced by the
/// configuration parser.
pub const CONFIG_TEXTS_MAX: usize = 1 << 16;

/// Bytes of all those together; and of all keys and values of a configuration, where each counts as
/// often as variables refer to it. Enforced by the configuration parser.
pub const CONFIG_BYTES_MAX: usize = 4 * CONFIG_FILE_BYTES_MAX;

/// Bytes of a file with certificates or a key; bundles of all public authorities take less than one
/// MiB. Enforced by `base::files::read`.
pub const TLS_FILE_BYTES_MAX: usize = 16 << 20;

/// Bytes of a pid file that `--signal` reads. Enforced by `base::files::read`.
pub const PID_FILE_BYTES_MAX: usize = 64;

/// Nesting depth of files that include each other, and of environment variables that refer to each
/// other, so that a file that includes itself is an error. Enforced by the configuration parser.
pub const CONFIG_INCLUDE_DEPTH_MAX: usize = 32;

/// Subscriptions of one closed connection that are kept for monitoring: ten thousand closed
/// connections must not hold millions. Enforced by the session when it closes.
pub const CLOSED_SUBSCRIPTIONS_MAX: usize = 64;

/// Bytes kept of closed connections for monitoring, over all shards: names, subjects and queue
/// groups are of the peers' choosing. Past it the oldest are forgotten, however few they are.
/// Enforced by `monitor::closed`.
pub const CLOSED_BYTES_MAX: usize = 32 << 20;

/// Bytes of closed connections that one shard may keep even if its share of `CLOSED_BYTES_MAX` is
/// less. Enforced by `monitor::closed`.
pub const CLOSED_BYTES_PER_SHARD_MIN: usize = 1 << 20;

/// Bytes kept of one closed connection. Past it its subscriptions are left out. Enforced by
/// `monitor::closed`.
pub const CLOSED_CONNECTION_BYTES_MAX: usize = 512 << 10;
const _: () = assert!(
    (CLOSED_SUBSCRIPTIONS_MAX + 1) * 5 * CONTROL_LINE_BYTES_MAX / 4 < CLOSED_CONNECTION_BYTES_MAX
        && CLOSED_CONNECTION_BYTES_MAX < CLOSED_BYTES_PER_SHARD_MIN,
    "with control lines of the default length every connection is kept whole"
);

/// Connections or subscriptions that one monitoring task examines before the shard goes on with its
/// work: at some tens of nanoseconds each, well below a tenth of a millisecond. Enforced by
/// `shard::snapshot`.
pub const SNAPSHOT_ENTRIES_PER_TURN: usize = 256;

/// Buckets of a client's table of subscriptions, or entries of cached lists, that one monitoring
/// task examines: most buckets of a table that was once large are empty, at about a nanosecond
/// each. Enforced by `shard::snapshot`.
pub const SNAPSHOT_LOOKS_PER_TURN: usize = 16 * SNAPSHOT_ENTRIES_PER_TURN;

/// Connections described in full by one monitoring task: each takes a few allocations. Enforced by
/// `shard::snapshot`.
pub const SNAPSHOT_DETAILS_PER_TURN: usize = 64;

/// Cached subjects and their queue groups examined for the fan-out figures of one account on one
/// shard. Enforced by `Broker::fanout`.
pub const SNAPSHOT_FANOUT_LOOKS_MAX: usize = 512;

/// Messages waiting for one service of the server on one shard from which on its publishers wait,
/// until half of them have been taken. Enforced by `broker::mailbox`, obeyed by sessions, services
/// and, told by a note, other shards.
pub const LETTERS_MAX: usize = 4096;

/// Bytes waiting for one service of the server on one shard, with the same effect as `LETTERS_MAX`.
pub const LETTER_BYTES_MAX: usize = 4 << 20;

/// Messages and bytes that a full mailbox still takes: what was in flight when it became full, one
/// more of each publisher of this shard and what lies in the lanes. Past it a message is dropped
/// and counted. Enforced by `broker::mailbox`.
pub const LATE_LETTERS_MAX: usize = 16_384;
pub const LATE_LETTER_BYTES_MAX: usize = 16 << 20;

/// Watches of one subject up to which a change of the subject marks each of them; with more, all
/// watches are examined. Enforced by `broker::watch`.
pub const WATCHES_MARKED_MAX: usize = 16;

/// Requests of one shard that wait for the thread that answers `$SYS`: so many of the system
/// account, and as many of all others. Past it they are dropped and counted. Enforced by
/// `shard::system_door`.
pub const SYSTEM_DOOR_SLOTS: usize = 256;

/// Requests to `$SYS` that one shard passes on in one turn: each takes some allocations. Enforced
/// by `shard::system`.
pub const SYSTEM_REQUESTS_PER_TURN_MAX: usize = 64;

/// Bytes of the server's own events and answers that wait on one shard for their receivers to keep
/// up; one always finds room. Past it they are dropped and counted. Enforced by
/// `shard::system_publisher`.
pub const SYSTEM_WAITING_BYTES_MAX: usize = 8 << 20;

/// Waiting events and answers published in one turn. Enforced by `shard::system_publisher`.
pub const SYSTEM_WAITING_PER_TURN_MAX: usize = 64;

/// Bytes of waiting requests to `$SYS`, over all shards: room for one largest message of the
/// default `max_payload`. Enforced by `shard::system_door`.
pub const SYSTEM_REQUEST_BYTES_MAX: usize = 2 << 20;

const _: () =
    assert!(PAYLOAD_BYTES_MAX < SYSTEM_REQUEST_BYTES_MAX && PAYLOAD_BYTES_MAX < LETTER_BYTES_MAX);

/// Receivers and crossings of one traced message that a shard notes: some hundred bytes each, and
/// peers decide how many there are. Past it they are left out of the trace. Enforced by
/// `broker::message_trace`.
pub const TRACE_EVENTS_MAX: usize = 8192;

/// Traced messages of one shard that are not delivered everywhere: mostly one. Past it traces are
/// lost. Enforced by `broker::message_trace`.
pub const OPEN_TRACES_MAX: usize = 1024;

/// Seconds after which a part of a trace is over whatever became of its message. Enforced by
/// `broker::message_trace`.
pub const TRACE_OPEN_SECONDS_MAX: u64 = 30;

/// Bytes of finished parts of traces on one shard that wait for the thread that puts them together,
/// and as many of all shards on their way to it. Past it parts are dropped and counted. Enforced by
/// `broker::message_trace` and `shard::system_door`.
pub const TRACE_BYTES_MAX: usize = 8 << 20;

/// Requests of one shard that ended and whose durations are to be published: half a kilobyte each.
/// Past it they are dropped and counted. Enforced by `broker::latency`.
pub const LATENCY_NOTES_MAX: usize = 1024;

/// Records of traced messages and of durations that one shard passes on in one turn: each takes some
/// allocations. Enforced by `shard::pass_records`.
pub const RECORDS_PER_TURN_MAX: usize = 64;

/// Traces of which some parts are missing, on the thread that puts them together. Past it the
/// oldest is published as it is. Enforced by `server::answers::traces`.
pub const TRACES_GATHERED_MAX: usize = 4096;

/// Nice value of the threads beside the shards: password checks, monitoring, `$SYS` answers. They
/// wait for messages, not the other way round. A busy shard still leaves such a thread a tenth of
/// its core, enough for a login to finish before its client gives up.
pub const HELPER_NICE: i32 = 10;

/// Entries of the lists in one monitoring answer, subscriptions of all its connections included.
/// Past it the answer is cut and says so. Enforced by `server::answers::gather`.
pub const MONITOR_ENTRIES_MAX: usize = 1 << 18;

/// Bytes of the lists in one monitoring answer, as JSON: an entry's texts are of a peer's choosing.
/// Past it the answer is cut and says so. Enforced by `server::answers::gather`.
pub const MONITOR_ANSWER_BYTES_MAX: usize = 64 << 20;

/// Accounts that `/metrics` shows one by one, so that a scrape stays readable. Enforced by
/// `monitor::metrics`, which reports how many it left out.
pub const METRICS_ACCOUNTS_MAX: usize = 1024;

/// Bytes of one HTTP request head on the monitoring port: room for the cookies and tokens that
/// proxies and single sign-on add. Enforced by `protocol::http`.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 << 10;

/// Headers of one HTTP request. Enforced by `protocol::http`.
pub const HTTP_HEADERS_MAX: usize = 256;

/// Bytes of a request body that are read and discarded to keep the connection; no endpoint needs a
/// body. Enforced by `monitor::http`.
pub const HTTP_BODY_BYTES_MAX: usize = 64 << 10;

/// Connections to the monitoring port. Past it the connection that has waited longest for a request
/// is closed, so that half-sent requests take up neither memory nor the port. Enforced by
/// `server::answers::http`.
pub const HTTP_CONNECTIONS_MAX: usize = 256;

/// Connections that the monitoring port accepts in one pass before it serves those it has. Enforced
/// by `server::answers::http`.
pub const HTTP_ACCEPTS_PER_PASS: usize = 32;

/// Bytes of one answer sent in one pass before other connections are served: a peer that reads as
/// fast as we send must not monopolise the thread. Enforced by `server::answers::http`.
pub const HTTP_SENT_PER_PASS_BYTES: usize = 1 << 20;

/// TLS records in a row without a byte of a request that one pass takes from one monitoring
/// connection. Enforced by `server::answers::stream`.
pub const HTTP_IDLE_RECORDS_PER_PASS: usize = 16;

/// Bytes of answers on the monitoring port that wait for their readers, over all connections. Past
/// it the connection whose peer has taken nothing for longest is closed. Enforced by
/// `server::answers::http`.
pub const HTTP_ANSWERS_BYTES_MAX: usize = 128 << 20;

const _: () = assert!(
    HTTP_ANSWERS_BYTES_MAX >= 2 * MONITOR_ANSWER_BYTES_MAX,
    "a largest answer must fit beside another one"
);

/// Bytes of a journal's frame past which it takes no further record; one longer record makes a
/// longer frame. Half a millisecond of a disk's time here: a frame that waits behind a full one
/// waits no longer. Enforced by `storage::Journal::append`.
pub const FRAME_BYTES_FULL: usize = 1 << 20;

/// Bytes of a journal file that recovery holds at a time; a longer frame is held as a whole.
/// Enforced by `storage::recovery`.
pub const RECOVERY_WINDOW_BYTES: usize = 1 << 20;

/// Bytes of zeros written at a time to a new journal file: commits wait behind them on the same
/// disk. Enforced by `storage::Lane::keep_spare`.
pub const ZEROED_BYTES_AT_A_TIME: usize = 1 << 20;

/// Bytes of a journal's file: each lane has a few. The least still holds a largest message of the
/// default `max_payload` many times; the most is what a frame's length can count. Enforced by
/// `storage::folder`.
pub const JOURNAL_FILE_BYTES_MIN: u64 = 16 << 20;
pub const JOURNAL_FILE_BYTES_MAX: u64 = 2 << 30;

/// Bytes of a journal's file of a new store. Enforced by `server::run::jetstream`.
pub const JOURNAL_FILE_BYTES: u64 = 64 << 20;
const _: () =
    assert!(JOURNAL_FILE_BYTES_MIN >= 2 * PAYLOAD_BYTES_MAX as u64, "a message fits a file");
const _: () = assert!(JOURNAL_FILE_BYTES_MIN >= 4 * FRAME_BYTES_FULL as u64, "a file holds frames");

/// Files of a lane's journal, the current one among them, past which a checkpoint is taken: half of those that there
/// may be. Enforced by `storage::store::checkpoint`.
pub const JOURNAL_FILES_BEFORE_CHECKPOINT: usize = 2;

/// Files of a lane's journal past which publishers wait for the checkpoint under way, and a start reads no more. What
/// must go on, deletes and acknowledgements, may make more. Enforced by `storage::Store::is_crowded`.
pub const JOURNAL_FILES_MAX: usize = 4;
const _: () = assert!(
    JOURNAL_FILES_MAX >= 2 * JOURNAL_FILES_BEFORE_CHECKPOINT,
    "a checkpoint has as much of the journal to be done in as made it due"
);

/// Bytes that a lane keeps beside its reserve, for the manifest of a store of which most was purged: a start on a full
/// disk needs the reserve for the journal. Enforced by `storage::Lane`.
pub const SMALL_RESERVE_BYTES: u64 = 1 << 20;

/// The part of a journal's file, one of so many, that is kept for deletes and purges while no further file can be made:
/// acknowledgements leave it. The last of it is for a checkpoint, which has to note what was appended before it.
/// Enforced by `storage::Store`.
pub const SHORT_ROOM_SHARE: u64 = 4;
pub const SHORT_ROOM_SHARE_OF_DELETES: u64 = 16;
const _: () = assert!(SHORT_ROOM_SHARE < SHORT_ROOM_SHARE_OF_DELETES, "deletes have more room");

/// Bytes of messages, of all lanes together, that only the journal holds: a checkpoint is taken past it. Enforced by
/// `storage::Store::append`.
pub const TAIL_BYTES_MAX: usize = 64 << 20;

/// Manifests that say only what changed, behind one that says everything: what a start reads is bounded. Enforced by
/// `storage::store::checkpoint`.
pub const MANIFEST_DELTAS_MAX: u64 = 16;

/// Streams that a checkpoint looks at, and those of them that it notes, before others get their turn. Enforced by
/// `storage::store::checkpoint`.
pub const STREAMS_LOOKED_AT_PER_SLICE: usize = 1024;
pub const STREAMS_NOTED_PER_SLICE: usize = 64;

/// Messages that are looked at in one slice while a store starts or a checkpoint waits for a stream. Enforced by
/// `storage::loads`.
pub const SETTLED_PER_SLICE: usize = 1024;

/// Bytes of stored blocks that are kept in memory, of all lanes together, less the bytes that are not stored yet; those
/// past it that were not used for the longest time go. Enforced by `storage::loads`.
pub const CACHED_BYTES_MAX: usize = 64 << 20;

/// Blocks of a lane that are kept, however little that leaves for each: one question needs two. Enforced by
/// `storage::loads`.
pub const CACHED_BLOCKS_MIN: usize = 4;

/// Bytes of a part of an index as it is stored, about. Enforced by `storage::store::checkpoint`.
pub const INDEX_PART_BYTES: usize = 256 << 10;

/// Bytes that the stored parts of an index may have beyond twice those of the index, and how many parts there may be:
/// past that all of it is stored anew, so that a start reads no more. Enforced by `storage::stream::noted`.
pub const INDEX_BYTES_SPARE: u64 = 64 << 10;
pub const INDEX_PARTS_MAX: usize = 1024;

/// Bytes that are read at most for one block and those behind it, where blocks are read in order. Enforced by
/// `storage::loads`.
pub const READ_AHEAD_BYTES_MAX: usize = 1 << 20;

/// Times that a block is read before it counts as lost. Enforced by `storage::loads`.
pub const BLOCK_READS_MAX: usize = 3;

/// Bytes of blocks that a checkpoint stores anew at most because their segments are mostly superfluous: a segment of
/// which more is needed stays. More than the journal of the smallest files makes superfluous meanwhile. Enforced by
/// `storage::store::checkpoint`.
pub const SEGMENT_REWRITTEN_BYTES_MAX: u64 = 64 << 20;

/// Segments that are kept open to be read. Enforced by `storage::segment`.
pub const SEGMENTS_OPEN_MAX: usize = 64;

/// Bytes of a segment that are written at a time: a checkpoint shares the disk with commits, and its shard with
/// whatever else has a turn there. Enforced by `storage::segment`.
pub const SEGMENT_WRITE_BYTES: usize = 512 << 10;

/// Bytes of a manifest's frame past which it is written. Enforced by `storage::manifest`.
pub const MANIFEST_FRAME_BYTES: usize = 256 << 10;

/// Bytes of the longest frame of a manifest, which a start holds as a whole: the state of a consumer with eight million
/// messages pending. A checkpoint that would need a longer one is given up. Enforced by `storage::manifest`.
pub const MANIFEST_FRAME_BYTES_MAX: usize = 256 << 20;

/// Bytes of a list of accepted losses that is read: a hundred thousand of them. Enforced by `storage::check`.
pub const ACCEPTED_BYTES_MAX: u64 = 8 << 20;

/// Lanes of a store: one for each shard of the largest machine. Enforced by `storage::folder`.
pub const STORE_LANES_MAX: u32 = 1024;

/// Subscriptions, and lookups for them, examined to find out where a subject is wanted, once in a
/// connection's life, before it is given a shard. Past it the subject counts as wanted everywhere.
/// Enforced by `Broker::wanted_by`.
pub const PLACING_LOOKS_MAX: usize = 64;

/// Commands of one read that are searched for a PUB when a connection is given a shard. Enforced by
/// `ClientSession::first_published`.
pub const PLACING_COMMANDS_MAX: usize = 16;

/// Longest time that a shard spins before it sleeps, unless it is told another one: what the kernel needs to wake a
/// peer on an idle core, which then answers. Enforced by `net::busy_poll`.
pub const BUSY_POLL_MAX: Duration = Duration::from_micros(100);

/// The time that waking a sleeping shard may add to a pause before spinning is no longer tried. Enforced by `net::busy_poll`.
pub const BUSY_POLL_WAKE: Duration = Duration::from_micros(50);

/// Connections that a shard may have more than the one with the fewest before others are preferred, times the number
/// of shards: the fewer there are, the smaller is the part of the host that lies idle meanwhile. Enforced by
/// `shard::placement::ahead_max`.
pub const PLACING_CONNECTIONS_AHEAD_SUM: usize = 108;

/// The same for one shard at least. Enforced by `shard::placement::ahead_max`.
pub const PLACING_CONNECTIONS_AHEAD_MIN: usize = 6;

/// Thousandths of the last second that a shard's thread may have run before others are preferred.
/// Enforced by `shard::placement::place`.
pub const PLACING_BUSY_MAX: usize = 500;

/// Thousandths of the last second that a shard's thread must have run before it gives connections
/// away to others. Enforced by `shard::spread::plan`.
pub const SPREADING_BUSY_MIN: usize = 700;

/// Thousandths of a second by which a shard that gets a connection must stay below what the shard
/// that gives it had. Enforced by `shard::spread::plan`.
pub const SPREADING_GAIN_MIN: usize = 100;

const _: () = assert!(
    PLACING_BUSY_MAX + SPREADING_GAIN_MIN <= SPREADING_BUSY_MIN,
    "a shard that gives connections away does not get them back at once"
);

/// Connections that a shard considers moving at a tick: those with most reads and sends. Enforced by
/// `shard::spread::Heaviest`.
pub const SPREADING_CANDIDATES_MAX: usize = 32;

/// Subscriptions of a connection that may move to another shard. Enforced by
/// `Broker::can_hand_over`.
pub const HANDOVER_SUBSCRIPTIONS_MAX: usize = 64;

/// Subscriptions of a connection that comes from another shard that are made in one go. Enforced by
/// `Hosted::step`.
pub const HOSTED_SUBSCRIBED_MAX: usize = 16;

/// Bytes that may wait to be sent to a connection when its handover to another shard begins: the
/// shards wait for it to be sent. Enforced by `ClientSession::may_move`.
pub const HANDOVER_PENDING_BYTES_MAX: usize = 64 << 10;

/// Connections that moved from a shard for which it still takes notes that nobody got a request:
/// fewer than the generations of a key, so that no two of them have the same one. Enforced by
/// `Broker::note_moved`.
pub const MOVED_KEYS_MAX: usize = 128;

/// Ticks for which a connection that has moved stays where it is. Enforced by
/// `ConnectionControl::rests`.
pub const MOVED_REST_TICKS: u8 = 5;

/// Ids of a stream's messages that are known at a time, some 90 bytes each: as many as come in two minutes at 4,000 a
/// second. Past that the oldest is forgotten and counted. Enforced by `storage::Duplicates`.
pub const DUPLICATE_IDS_MAX: usize = 1 << 19;

/// Messages that a limit, a rollup or an age removes within the change that makes them go; more go by slices. Enforced
/// by `storage::Stream::settle`.
pub const REMOVED_AT_ONCE_MAX: usize = 256;

/// Messages of an atomic group: nats-server's limit of a batch. Enforced by `storage::Store::append_group`.
pub const GROUP_MESSAGES_MAX: usize = 1000;

/// Arrays and objects inside each other in one request of the JetStream API, as in Go's
/// `encoding/json`. Enforced by `jetstream::json::scanner`.
pub const JSON_DEPTH_MAX: usize = 10_000;

/// Bytes of the name of a stream or a durable consumer. nats-server's. Enforced by
/// `jetstream::stream_checks` and `jetstream::consumer_checks`.
pub const ASSET_NAME_BYTES_MAX: usize = 255;

/// Subjects of a stream, and filters of a consumer. Each is compared with each other one in one
/// go: two million comparisons. nats-server has no such limit. Enforced as above.
pub const ASSET_SUBJECTS_MAX: usize = 2048;

/// Bytes of the description of a stream or consumer. nats-server's. Enforced as above.
pub const ASSET_DESCRIPTION_BYTES_MAX: usize = 4 << 10;

/// Bytes of all keys and values in the metadata of a stream or consumer. nats-server's. Enforced as
/// above.
pub const ASSET_METADATA_BYTES_MAX: usize = 128 << 10;

/// Replicas that a stream's configuration may ask for, before it is told that one server has one.
/// nats-server's. Enforced by `jetstream::stream_checks`.
pub const REPLICAS_MAX: i64 = 5;

/// Characters of the name of a priority group. nats-server's. Enforced by
/// `jetstream::consumer_checks`.
pub const PRIORITY_GROUP_BYTES_MAX: usize = 16;

/// Bytes on their way to a push consumer with flow control that no answer covers: at first, and once answers came.
/// nats-server's figures. Enforced by `jetstream::consumer::flow`.
pub const FLOW_WINDOW_BYTES_MIN: usize = FLOW_WINDOW_BYTES_MAX / 16;
pub const FLOW_WINDOW_BYTES_MAX: usize = 32 << 20;

/// Messages of a consumer whose wait for an acknowledgement is found to be over at a time; more follow in the next
/// turn. Enforced by `jetstream::consumer::machine`.
pub const ACKS_EXPIRED_AT_ONCE_MAX: usize = 512;

/// Messages that a consumer remembers as delivered as often as they may be: reports count them. Past that the oldest
/// are forgotten. Enforced by `jetstream::consumer::redelivery`.
pub const EXHAUSTED_MESSAGES_MAX: usize = 1 << 16;

/// Bytes of messages of JetStream that wait for their commits, past which no further ones are made: what a disk that
/// stands still for a moment may hold up. Enforced by `jetstream::leaving`.
pub const LEAVING_BYTES_MAX: usize = 64 << 20;

/// Bytes of a chunk of them. Enforced by `jetstream::leaving`.
pub const LEAVING_CHUNK_BYTES: usize = 256 << 10;

/// Of them those that leave in one turn. Enforced by `jetstream::leaving`.
pub const LEAVING_PER_TURN_MAX: usize = 256;

/// Messages that a stream takes, and requests that an account has answered, in one turn. Enforced by `jetstream`.
pub const INGESTED_PER_TURN_MAX: usize = 128;

/// Messages and subjects that a request to JetStream looks at in one turn. Enforced by `jetstream`.
pub const LOOKED_AT_PER_TURN_MAX: usize = 1024;

/// Blocks of a stream that a count of its messages looks at in one turn. Enforced by `jetstream::reads`.
pub const PENDING_BLOCKS_PER_TURN_MAX: usize = 16;

/// Requests for messages of one account that wait for the disk at the same time; further ones wait for these. Enforced
/// by `jetstream::direct_get`.
pub const DIRECT_GETS_AT_ONCE_MAX: usize = 64;

/// Messages of an answer with the last ones of many subjects: nats-server's figure. Enforced by
/// `jetstream::direct_get`.
pub const LAST_OF_EACH_MAX: usize = 1024;

/// Letters that the consumers of a stream take in one turn of theirs. Enforced by `jetstream::delivery`.
pub const CONSUMER_LETTERS_PER_TURN_MAX: usize = 256;

/// Messages that the consumers of a stream deliver in one turn of theirs, and one of them in a row. Enforced by
/// `jetstream::delivery`.
pub const DELIVERED_PER_TURN_MAX: usize = 256;
pub const DELIVERED_AT_ONCE_MAX: usize = 64;
