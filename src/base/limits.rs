//! Every bound of the server: its unit, its value, why, and who enforces it.
//!
//! Bounds an operator can change have their default here; the value in force is in `config::Options`.

use std::time::Duration;

/// Bytes of arguments of one control line. nats-server's `max_control_line`. Enforced by the parser.
pub const CONTROL_LINE_BYTES_MAX: usize = 4096;

/// Bytes of one message's headers and payload. nats-server's `max_payload`. Enforced by the session when
/// the control line is parsed, before payload bytes are read.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Bytes. Above this a configured `max_payload` earns a warning at start, as in nats-server.
pub const PAYLOAD_BYTES_WARN: usize = 8 << 20;

/// Bytes queued for one connection. nats-server's `max_pending`. Enforced by `ByteQueue::push`: the
/// connection is closed as a slow consumer.
pub const PENDING_BYTES_MAX: usize = 64 << 20;

/// Bytes queued for one connection past which its producers are slowed while it keeps moving: what is
/// still in cache is cheap to send. Enforced by `Outbox::push`, obeyed by the publisher's session.
pub const PENDING_BYTES_PACE: usize = 1 << 20;

/// The same for a client that may have `pending_bytes_max` queued: of a small bound three quarters.
pub fn pace_bytes(pending_bytes_max: usize) -> usize {
    PENDING_BYTES_PACE.min(pending_bytes_max / 4 * 3)
}

/// A client that gave a password in time waits so long at most for its turn with the helper threads and for
/// the bcrypt comparison: after a restart everybody comes at once, and whoever is turned away has to be
/// checked again. Past it the client is told `Authentication Timeout`. Enforced by the session's tick.
pub const PASSWORD_CHECK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Password checks of one shard that wait for a helper thread, those of clients that are gone included: who comes
/// and goes fast must not fill the memory between two of them. Past it a check is not made and its client runs into
/// `PASSWORD_CHECK_WAIT_MAX`. Enforced by `shard::Offload`.
pub const PASSWORD_CHECKS_MAX: usize = 1 << 17;
const _: () = assert!(PASSWORD_CHECKS_MAX > CONNECTIONS_MAX, "all clients may log in at once");

/// Password checks handed to one helper thread by one shard at a time: one under way, one that it goes on with.
/// The others wait with their shard, for whichever helper is free first. Enforced by `shard::Offload`.
pub const OFFLOAD_RING_SLOTS: usize = 2;

/// Helper threads for bcrypt at most. They use cores that no shard is pinned to, one each. Enforced by
/// `shard::Offload`.
pub const OFFLOAD_THREADS_MAX: usize = 4;

/// Open files below which even a small server may run out of them: the usual soft limit of a login, four times.
/// A start then warns although nobody chose `max_connections`. Enforced by `server::host::machine`.
pub const OPEN_FILES_FEW: u64 = 4096;

/// Client connections. nats-server's `max_connections`. Enforced at accept over all shards.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Cached subjects looked at for one wildcard change. Past this the match cache is emptied instead: one
/// SUB must not hold a shard. Enforced by `MatchCache::evict_matching`.
pub const MATCH_CACHE_SCAN_MAX: usize = 512;

/// Digits of a size argument: what nats-server's parser accepts, so a size is below 10^9.
pub const SIZE_DIGITS_MAX: usize = 9;

/// Log lines waiting for the log writer. Enough for a burst at start or a reload; past it lines are
/// dropped and counted. Enforced by `Logger::submit`.
pub const LOG_QUEUED_LINES_MAX: usize = 16_384;

/// Bytes of log lines waiting for the log writer: 16,384 lines of a client's text must not be the memory
/// of the server. Enforced by `Logger::submit`.
pub const LOG_QUEUED_BYTES_MAX: usize = 16 << 20;

/// Bytes of one log line; the rest is cut off. A traced payload of the default `max_payload` fits with
/// room for its escapes. Enforced by `LineFormat::line`.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 20;

const _: () =
    assert!(LOG_LINE_BYTES_MAX <= LOG_QUEUED_BYTES_MAX, "one longest line must fit an empty queue");
/// Reply subjects one connection remembers for `allow_responses`. nats-server sets no bound. Enforced by
/// `auth::replies::ReplyTable`: the oldest is forgotten, so its answer is refused.
pub const TRACKED_REPLIES_MAX: usize = 1 << 17;

/// Bytes of those subjects, with the memory around each: room for the full number of usual inboxes, and a sixtieth of
/// what as many of the longest subjects would take. Enforced by `auth::replies::ReplyTable`: the oldest are forgotten.
pub const TRACKED_REPLY_BYTES_MAX: usize = 16 << 20;
const _: () =
    assert!(PAYLOAD_BYTES_MAX <= PENDING_BYTES_MAX, "one largest message must fit an empty outbox");
const _: () = assert!(PENDING_BYTES_PACE < PENDING_BYTES_MAX, "pacing comes before cutting");

/// Bytes a session may leave unparsed without an end of line beyond the control line's own limit: the verb
/// and its blanks. Enforced by the parser.
pub const VERB_BYTES_MAX: usize = 64;

/// Bytes. Read buffer classes of a connection: one that is idle holds the smallest, enough for PING and PONG;
/// a new one begins with the next. That one is of a size nothing else of a connection has: when all of them are
/// idle it leaves no holes in the memory of what stays. Enforced by `net::read_buffer`.
pub const READ_BUFFER_BYTES: [usize; 5] = [64, 640, 4 << 10, 64 << 10, 256 << 10];

/// Reads of one connection between two ticks of its shard up to which it is a slow one, whose reads can be
/// taken back so that it idles on the smallest buffer. Enforced by the reader in `net::connection`.
pub const SLOW_READS_MAX: u32 = 16;

/// Idle connections that give their buffers back in one tick: each costs a cancelled read and a new one, some
/// microseconds. The others follow at the next ticks. Enforced by the shard's ticker.
pub const SHRINKS_PER_TICK_MAX: usize = 512;

/// Connections whose timers are looked at in one turn: at some tenths of a microsecond each, what others wait
/// for it stays below a tenth of a millisecond. Enforced by the shard's ticker.
pub const TICKED_PER_TURN_MAX: usize = 128;

/// Sessions looked at in one turn after a reload, or to be told something: some microseconds each, for a login
/// decided again or an INFO written. Subscriptions of one session have their own bound. Enforced by `shard::walk`.
pub const REVIEWED_PER_TURN_MAX: usize = 64;

/// Connections that one turn of an order closes: some microseconds each. Enforced by `shard::walk`.
pub const CLOSED_PER_TURN_MAX: usize = 64;

/// Connections whose end is carried out in one turn, whatever ended them: a network that fails ends thousands at
/// once. Enforced by `net::quota`.
pub const ENDED_PER_TURN_MAX: usize = 64;

/// Accounts that are given the server's own subscriptions in one turn after a reload. Enforced by `shard::system`.
pub const SERVED_ACCOUNTS_PER_TURN_MAX: usize = 64;

/// Bytes of a message from which on a connection's buffers may grow to the largest class: for small messages
/// a buffer of 64 KiB stays in cache and is faster. Enforced by `net::read_buffer` and `broker::byte_queue`.
pub const LARGE_MESSAGE_BYTES: usize = 4 << 10;

/// Bytes of a buffer up to which it is read into, or sent, as a whole: the largest of a class. Enforced as follows.
pub const WHOLE_BYTES_MAX: usize = 256 << 10;

/// Bytes of one turn's read or send where a message needs a larger buffer: the kernel copies them meanwhile, and
/// everybody else on the shard waits. Enforced by `net::read_buffer` and the writer in `net::connection`; as pieces
/// of all buffers they would cost a tenth of the speed.
pub const PIECE_BYTES: usize = 128 << 10;

/// Bytes. Write chunk classes; a message larger than the largest gets a chunk of its own size. Enforced
/// by `broker::byte_queue`.
pub const CHUNK_BYTES: [usize; 5] = [128, 1 << 10, 8 << 10, 64 << 10, 256 << 10];

/// Bytes of free buffers of each class that a shard keeps for reuse, in each of its pools. Enough for a turn's
/// sends; more would be memory that a burst leaves behind.
pub const POOLED_BYTES_MAX: usize = 1 << 20;

/// Free buffers of each class that a pool gives up in one tick of its shard, of those nobody needed since the
/// last one: some hundredths of a microsecond each. Enforced by `BufferPool::trim`.
pub const POOL_TRIMMED_MAX: usize = 1024;

/// Bytes. Buffer classes for what TLS opened: the largest holds what one read brings, a record that was
/// waiting, and the part of a command before them. Enforced by `net::connection`.
pub const OPENED_BYTES: [usize; 4] = [512, 4 << 10, 32 << 10, 128 << 10];

/// Bytes. Classes of the buffers that sealed chunks are sent from: each holds a chunk of its class and what
/// TLS adds to it. Enforced by `net::codec`.
pub const SEALED_BYTES: [usize; 3] = [1536, 9 << 10, 65 << 10];

/// Bytes of a chunk sealed and sent at a time. Enforced by the writer in `net::connection`.
pub const SEAL_BYTES_MAX: usize = 64 << 10;

/// Bytes of TLS input that are neither a whole record nor a whole handshake message. Past this a handshake
/// fails: it takes no more for any chain of certificates in use. Enforced by `net::tls`.
pub const TLS_UNREAD_HANDSHAKE_BYTES_MAX: usize = 32 << 10;

/// The same after the handshake: one record, and what a peer sent in pieces of a handshake message, which
/// rustls bounds at 64 KiB. Enforced by `net::tls`.
pub const TLS_UNREAD_BYTES_MAX: usize = 96 << 10;

/// Certificates that a client may send beside its own: chains in use have two or three. Enforced by
/// `net::client_certificate`.
pub const CHAIN_CERTIFICATES_MAX: usize = 10;

/// Signatures checked, beyond webpki's own hundred, in search of a chain for one client. One by a key on the
/// curve P-521 takes about as long as a handshake. Enforced by `net::client_certificate`.
pub const CHAIN_SIGNATURES_MAX: usize = 16;

/// Steps of TLS handshakes in one turn of a shard. With an RSA key of 2048 bits one takes about a
/// millisecond, as much as a turn's deliveries may. Enforced by `net::quota`.
pub const HEAVY_STEPS_PER_TURN_MAX: usize = 1;

/// Slots of the interest lane of one ordered pair of shards. A subscription waits, unread, while fewer
/// than `INTEREST_ROOM_MIN` are free. A shard takes in all that is there before it does anything else, at about a
/// microsecond each.
pub const INTEREST_LANE_SLOTS: usize = 1024;

/// Slots of all interest lanes into one shard, of 56 bytes each: with many shards there are lanes as the square of
/// their number. Enforced by `mesh::Lanes::of`, which gives no lane less than four times `INTEREST_ROOM_MIN`.
pub const INTEREST_SLOTS_PER_SHARD: usize = 3072;

/// Free interest slots a session needs before it may execute SUB or UNSUB.
pub const INTEREST_ROOM_MIN: usize = 64;

/// Bytes of filters and queue names on one interest lane from which on subscriptions wait, unread: a filter of many
/// tokens takes the other shard long. Enforced by `mesh::outbound`.
pub const INTEREST_LANE_BYTES_MAX: usize = 256 << 10;

/// Slots of the message lane of one ordered pair of shards; each holds one batch.
pub const MESSAGE_LANE_SLOTS: usize = 64;

/// Empty batches that wait on one pair of shards for their maker, and on all pairs with one maker: what would be
/// more is freed. Enforced by `mesh::Lanes::of`, which gives each pair at least one.
pub const RETURNED_BATCHES_MAX: usize = 8;
pub const RETURNED_BATCHES_PER_SHARD: usize = 32;

/// Bytes of one batch on a message lane; a larger message travels alone.
pub const BATCH_BYTES: usize = 64 << 10;

/// Bytes under way on one message lane that are always allowed, however little a client may have pending: a
/// publisher goes on after each of the other shard's turns. Enforced by `mesh::outbound`.
pub const LANE_BYTES_MIN: usize = 16 << 10;

/// Requests of one shard that went to several others and are known to have found nobody on some of them. Past it
/// the oldest is forgotten: its requester is not told that nobody listens. Enforced by `broker::no_responders`.
pub const UNHEARD_REQUESTS_MAX: usize = 1024;

/// Work of one connection's turn, of a shard's drain of its lanes and of what goes on behind, in units of about 50 ns:
/// a subscription looked at is one, whether it gets the message or not. So a turn takes about a millisecond before the
/// others get theirs. Enforced by `turn::Turn`, `Mesh::drain` and `Broker::work_off`.
pub const TURN_WORK_MAX: usize = 16_384;

/// Work under way on one message lane, until it is delivered, from which on nothing is added: what is published on
/// the other shard waits for what is there. Less, and the two shards would wait for each other. Enforced by
/// `mesh::outbound`.
pub const LANE_WORK_MAX: usize = 4 * TURN_WORK_MAX;

/// Subscriptions of one filter from which on other shards are told of each power of two that their number passes.
/// Enforced by `Broker::count_interest`.
pub const INTEREST_WEIGHT_MIN: u32 = 4;

/// Part of a turn's work that is begun only as a whole: a message that may need no more than this is routed in one
/// piece, even by a turn that is nearly over. One that may need more goes on in the next turn. Enforced by
/// `turn::Turn`.
pub const WHOLE_WORK_SHARE: usize = 4;

/// Bytes of a message whose copy is worth one unit of work.
pub const WORK_UNIT_BYTES: usize = 1024;

/// Units of work that a subscription's coming or going takes: it changes three tables and tells other shards.
pub const SUBSCRIPTION_WORK: usize = 16;

/// Receivers of a message between two looks at what is left of a turn's work.
pub const FAN_OUT_PART: usize = 256;

/// Subscriptions of one client that are held against new permissions in one turn. Enforced by `client::review`.
pub const SUBSCRIPTIONS_REVIEWED_MAX: usize = 256;

/// Units of work that a look at a list of denied subjects takes.
pub const DENIAL_WORK: usize = 4;

/// Subscriptions of a matched list that are dropped with it; of a longer one they go a part at a time, by
/// `Broker::work_off`.
pub const DROPPED_AT_ONCE_MAX: usize = 32;

/// Bytes of messages of the server itself that wait for an earlier one that goes to many. Past it the publisher is
/// told that there is no room. Enforced by `broker::backlog`.
pub const WAITING_FAN_OUT_BYTES_MAX: usize = 4 << 20;

/// Bytes of queue names that go over a link with one copy of a message: picks of more groups take another copy.
/// Enforced by `broker::walk`.
pub const PICKED_NAMES_BYTES_MAX: usize = 32 << 10;

/// Subscriptions of a matched list up to which a publisher keeps it between two reads: with a connection each, longer
/// ones would be memory that no bound counts. Enforced by `RouteCache::end_batch`.
pub const ROUTE_LIST_KEPT_MAX: usize = 64;

/// Messages of one publisher on one subject that are routed together, and bytes from which on no further one is
/// added: what is read stays in the nearest cache until it is written. Enforced by `parser::extend_run`.
pub const RUN_MESSAGES_MAX: usize = 256;
pub const RUN_BYTES_MAX: usize = 4 << 10;

/// Receivers of a subject up to which its messages are routed in runs. Enforced by `Broker::run_max`.
pub const RUN_RECEIVERS_MAX: usize = 1024;

/// Kinds of lines, by account, that were written a moment ago. Beyond it such lines are left out. Enforced by
/// peer::rare_lines.
pub const RARE_LINES_MAX: usize = 256;

/// Milliseconds a publisher waits, in all, for slow consumers after one read. nats-server's stall limit
/// per read loop pass.
pub const PACE_MS_MAX: u64 = 10;

/// Milliseconds of such a wait from which on the log tells of it. nats-server's stallClientMaxDuration.
pub const STALL_MS_LOGGED_MIN: u64 = 5;

/// Milliseconds without a completed send after which a consumer is not worth pacing for.
pub const PACE_MOVING_MS: u64 = 20;

/// Milliseconds without a completed send after which a consumer above three quarters of its pending limit
/// is not waited for either: it is left to be cut.
pub const PACE_STUCK_MS: u64 = 1000;

/// Subscriptions in a shard's tables from which on its memory may come in huge pages: they no longer fit a core's
/// cache, and a page more or less is little beside them. Enforced by the shard's ticker.
pub const HUGE_PAGES_SUBSCRIPTIONS_MIN: usize = 50_000;

/// Matched lists a shard remembers per account. Enforced by the match cache.
pub const MATCH_CACHE_ENTRIES: usize = 8192;

/// Bytes of the matched lists that a shard remembers, of all accounts together: what the lists of usual servers take
/// a tenth of. Enforced by `match_cache::CachedBytes`: lists not asked for lately make room, or the new one is not
/// remembered.
pub const MATCH_CACHE_BYTES_MAX: usize = 32 << 20;

/// Bytes of one matched list that is remembered: about a million receivers. A message to more looks for them anew.
/// Enforced by `MatchCache::insert`.
pub const MATCH_ANSWER_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(MATCH_ANSWER_BYTES_MAX <= MATCH_CACHE_BYTES_MAX);

const _: () = assert!(READ_BUFFER_BYTES[4] == WHOLE_BYTES_MAX && CHUNK_BYTES[4] == WHOLE_BYTES_MAX);
const _: () = assert!(INTEREST_ROOM_MIN < INTEREST_LANE_SLOTS);
const _: () = assert!(
    SEAL_BYTES_MAX < SEALED_BYTES[2] && CHUNK_BYTES[3] <= SEAL_BYTES_MAX,
    "a largest chunk is sealed in one go into a pooled buffer"
);
/// Lists, maps and braces inside each other in a configuration file: reading them recurses. Enforced by
/// the configuration parser.
pub const CONFIG_DEPTH_MAX: usize = 128;
/// Bytes of one configuration file: some hundred thousand accounts. A device without an end is no configuration.
/// Enforced by `base::files::read`.
pub const CONFIG_FILE_BYTES_MAX: usize = 64 << 20;
/// Bytes of a file with certificates or a key; bundles of all public authorities take less than one MiB. Enforced
/// as above.
pub const TLS_FILE_BYTES_MAX: usize = 16 << 20;
/// Bytes of a pid file that `--signal` reads. Enforced as above.
pub const PID_FILE_BYTES_MAX: usize = 64;
/// Files that include each other, and variables of the environment that name each other, so that a file
/// that includes itself ends. Enforced by the configuration parser.
pub const CONFIG_INCLUDE_DEPTH_MAX: usize = 32;

/// Subscriptions kept of one closed connection for monitoring: ten thousand closed connections must not
/// hold millions. Enforced by the session when it closes.
pub const CLOSED_SUBSCRIPTIONS_MAX: usize = 64;

/// Bytes kept of closed connections for monitoring, over all shards: their names, subjects and queue groups are
/// peers' choice. Past it the oldest are forgotten, however few they are. Enforced by `monitor::closed`.
pub const CLOSED_BYTES_MAX: usize = 32 << 20;

/// Bytes of them that one shard may keep where its share of the above is less. Enforced as above.
pub const CLOSED_BYTES_PER_SHARD_MIN: usize = 1 << 20;

/// Bytes kept of one of them. Past it its subscriptions are left out. Enforced as above.
pub const CLOSED_CONNECTION_BYTES_MAX: usize = 512 << 10;
const _: () = assert!(
    (CLOSED_SUBSCRIPTIONS_MAX + 1) * 5 * CONTROL_LINE_BYTES_MAX / 4 < CLOSED_CONNECTION_BYTES_MAX
        && CLOSED_CONNECTION_BYTES_MAX < CLOSED_BYTES_PER_SHARD_MIN,
    "with control lines of the default length every connection is kept whole"
);

/// Connections or subscriptions that one monitoring task looks at before the shard goes on with its work:
/// at some tens of nanoseconds each, well below a tenth of a millisecond. Enforced by `shard::snapshot`.
pub const SNAPSHOT_ENTRIES_PER_TURN: usize = 256;

/// Buckets of a client's table of subscriptions, or entries of cached lists, that one such task looks at: most of
/// a table that was large once are empty, at about a nanosecond each. Enforced as above.
pub const SNAPSHOT_LOOKS_PER_TURN: usize = 16 * SNAPSHOT_ENTRIES_PER_TURN;

/// Connections described in full by one monitoring task: each takes a few allocations.
pub const SNAPSHOT_DETAILS_PER_TURN: usize = 64;

/// Cached subjects and their queue groups looked at for the fan-out figures of one account on one shard. Enforced
/// by `Broker::fanout`.
pub const SNAPSHOT_FANOUT_LOOKS_MAX: usize = 512;

/// Messages that wait for one service of the server on one shard from which on its publishers wait too, until half
/// of them were taken. Enforced by `broker::mailbox`, obeyed by sessions, services and, by a note, other shards.
pub const LETTERS_MAX: usize = 4096;

/// Bytes that wait for one service of the server on one shard; the same of them.
pub const LETTER_BYTES_MAX: usize = 4 << 20;

/// Messages and bytes beyond these that a mailbox still takes: what was under way when it became full, one more
/// of each publisher of this shard and what lies in the lanes. Past it a message is dropped and counted. Enforced as
/// above.
pub const LATE_LETTERS_MAX: usize = 16_384;
pub const LATE_LETTER_BYTES_MAX: usize = 16 << 20;

/// Watches of one subject that its change marks one by one; with more, all watches are looked at. Enforced by
/// `broker::watch`.
pub const WATCHES_MARKED_MAX: usize = 16;

/// Requests of one shard that wait for the thread that answers `$SYS`: the system account's, and as many of all
/// others. Past it they are dropped and counted. Enforced by `shard::system_door`.
pub const SYSTEM_DOOR_SLOTS: usize = 256;

/// Requests to `$SYS` that one shard hands on in one turn: each takes some allocations. Enforced by
/// `shard::system`.
pub const SYSTEM_REQUESTS_PER_TURN_MAX: usize = 64;

/// Bytes of events and answers of the server itself that wait on one shard for those who want them to keep up; one
/// always finds room. Past it they are dropped and counted. Enforced by `shard::system_publisher`.
pub const SYSTEM_WAITING_BYTES_MAX: usize = 8 << 20;

/// How many of them are published in one turn. Enforced by `shard::system_publisher`.
pub const SYSTEM_WAITING_PER_TURN_MAX: usize = 64;

/// Bytes of requests to `$SYS` that wait, over all shards; room for one largest message of the default size. Enforced by
/// `shard::system_door`.
pub const SYSTEM_REQUEST_BYTES_MAX: usize = 2 << 20;

const _: () =
    assert!(PAYLOAD_BYTES_MAX < SYSTEM_REQUEST_BYTES_MAX && PAYLOAD_BYTES_MAX < LETTER_BYTES_MAX);

/// Nice value of the threads beside the shards: password checks, monitoring, $SYS answers. They wait for messages,
/// not the other way round; a shard that never rests still leaves such a thread a tenth of its core, which a login
/// needs to be done before its client gives up.
pub const HELPER_NICE: i32 = 10;

/// Entries of the lists in one monitoring answer, subscriptions of all its connections together. Past it
/// the answer is cut and says so. Enforced by the side that gathers.
pub const MONITOR_ENTRIES_MAX: usize = 1 << 18;

/// Bytes of the lists in one monitoring answer, as JSON: the texts of an entry are a peer's choice. Past it the
/// answer is cut and says so. Enforced by the side that gathers.
pub const MONITOR_ANSWER_BYTES_MAX: usize = 64 << 20;

/// Accounts that `/metrics` shows one by one; a scrape must stay readable. Enforced by `monitor::metrics`,
/// which says how many it left out.
pub const METRICS_ACCOUNTS_MAX: usize = 1024;

/// Bytes of one HTTP request head on the monitoring port: room for the cookies and tokens that proxies and
/// single sign-on add. Enforced by `protocol::http`.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 << 10;

/// Headers of one HTTP request. Enforced by `protocol::http`.
pub const HTTP_HEADERS_MAX: usize = 256;

/// Bytes of a request body that are read and thrown away to keep the connection; no endpoint wants one.
/// Enforced by `monitor::http`.
pub const HTTP_BODY_BYTES_MAX: usize = 64 << 10;

/// Connections to the monitoring port. Past it the one that waits longest for a request is closed, so
/// half-sent requests take neither memory nor the port. Enforced by `server::answers::http`.
pub const HTTP_CONNECTIONS_MAX: usize = 256;

/// Connections that the monitoring port accepts before those it has get their turn. Enforced by
/// `server::answers::http`.
pub const HTTP_ACCEPTS_PER_PASS: usize = 32;

/// Bytes of one answer sent before others get their turn: a peer that reads as fast as we send must not keep
/// the thread. Enforced by `server::answers::http`.
pub const HTTP_SENT_PER_PASS_BYTES: usize = 1 << 20;

/// Records of TLS taken from one monitoring connection in a row that bring no byte of a request. Enforced by
/// `server::answers::stream`.
pub const HTTP_IDLE_RECORDS_PER_PASS: usize = 16;

/// Bytes of answers on the monitoring port that wait for their readers, of all connections together. Past it the
/// connection is closed whose peer has taken nothing for longest. Enforced by `server::answers::http`.
pub const HTTP_ANSWERS_BYTES_MAX: usize = 128 << 20;

const _: () = assert!(
    HTTP_ANSWERS_BYTES_MAX >= 2 * MONITOR_ANSWER_BYTES_MAX,
    "a largest answer must fit beside another one"
);

/// Bytes of a journal's frame past which it takes no further record; one longer record makes a longer frame. Half a
/// millisecond of a disk's time here: a frame that waits behind a full one waits no longer. Enforced by
/// `storage::Journal::append`.
pub const FRAME_BYTES_FULL: usize = 1 << 20;

/// Bytes of a journal file that recovery holds at a time; a longer frame is held as a whole. Enforced by
/// `storage::recovery`.
pub const RECOVERY_WINDOW_BYTES: usize = 1 << 20;

/// Bytes of zeros written at a time to a new journal file: commits wait behind them on the same disk. Enforced by
/// `storage::Lane::keep_spare`.
pub const ZEROED_BYTES_AT_A_TIME: usize = 1 << 20;

/// Bytes of a journal's file: each lane has a few. The least still holds a largest message of the default
/// `max_payload` many times; the most is what a frame's length can count. Enforced by `storage::folder`.
pub const JOURNAL_FILE_BYTES_MIN: u64 = 16 << 20;
pub const JOURNAL_FILE_BYTES_MAX: u64 = 2 << 30;
const _: () =
    assert!(JOURNAL_FILE_BYTES_MIN >= 2 * PAYLOAD_BYTES_MAX as u64, "a message fits a file");
const _: () = assert!(JOURNAL_FILE_BYTES_MIN >= 4 * FRAME_BYTES_FULL as u64, "a file holds frames");

/// Lanes of a store: one for each shard of the largest machine. Enforced by `storage::folder`.
pub const STORE_LANES_MAX: u32 = 1024;

/// Subscriptions, and lookups for them, that are looked at to find out where a subject is wanted before a connection
/// is given its shard: once in a connection's life. Beyond that it counts as wanted everywhere. Enforced by
/// `Broker::wanted_by`.
pub const PLACING_LOOKS_MAX: usize = 64;

/// Commands of one read that are looked through for a PUB when a connection is given its shard. Enforced by
/// `ClientSession::first_published`.
pub const PLACING_COMMANDS_MAX: usize = 16;

/// Connections that a shard may have more than the one with the fewest before others are preferred. Enforced by
/// `shard::placement::place`.
pub const PLACING_CONNECTIONS_AHEAD_MAX: usize = 8;

/// Share of the last second, in thousandths, that a shard's thread may have run before others are preferred. Enforced
/// by `shard::placement::place`.
pub const PLACING_BUSY_MAX: usize = 500;
