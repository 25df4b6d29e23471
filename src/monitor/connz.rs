//! `/connz`: open and closed connections.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::query::Query;
use super::snapshot::{
    ClosedConnection, ConnectionDetails, ConnectionFilter, ConnectionNumbers, SubscriptionDetails,
};
use super::subsz::SubscriptionReport;
use super::text;
use super::varz::ServerFacts;
use super::window::parse_window;
use crate::auth::account::GLOBAL_ACCOUNT_NAME;
use crate::auth::{certificate, tls_map};
use crate::net::tls_config::public_key_id;
use crate::protocol::nats::error::CloseReason;

/// The sort order of a list of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    #[default]
    Id,
    Subscriptions,
    Pending,
    OutMessages,
    InMessages,
    OutBytes,
    InBytes,
    LastActivity,
    Idle,
    Uptime,
    Stop,
    Reason,
    RoundTrip,
}

impl SortBy {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" | "cid" | "start" => Self::Id,
            "subs" => Self::Subscriptions,
            "pending" => Self::Pending,
            "msgs_to" => Self::OutMessages,
            "msgs_from" => Self::InMessages,
            "bytes_to" => Self::OutBytes,
            "bytes_from" => Self::InBytes,
            "last" => Self::LastActivity,
            "idle" => Self::Idle,
            "uptime" => Self::Uptime,
            "stop" => Self::Stop,
            "reason" => Self::Reason,
            "rtt" => Self::RoundTrip,
            _ => return None,
        })
    }

    fn is_ascending(self) -> bool {
        matches!(self, Self::Id | Self::Uptime | Self::Reason)
    }

    /// Returns the number to sort by. `ended` is set for a closed connection.
    fn rank(self, numbers: &ConnectionNumbers, now: Instant, ended: Option<&Ended>) -> u64 {
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        let until = ended.map_or(now, |ended| ended.stopped);
        match self {
            Self::Id => numbers.id,
            Self::Subscriptions => numbers.subscriptions as u64,
            Self::Pending => numbers.pending_bytes as u64,
            Self::OutMessages => numbers.out_messages,
            Self::InMessages => numbers.in_messages,
            Self::OutBytes => numbers.out_bytes,
            Self::InBytes => numbers.in_bytes,
            Self::LastActivity => {
                u64::MAX - nanoseconds(now.saturating_duration_since(numbers.last_activity))
            }
            Self::Idle => nanoseconds(now.saturating_duration_since(numbers.last_activity)),
            Self::Uptime => nanoseconds(until.saturating_duration_since(numbers.started)),
            Self::Stop => u64::MAX - nanoseconds(now.saturating_duration_since(until)),
            // Sorted by text, in `Listed::reason_ranked`.
            Self::Reason => 0,
            Self::RoundTrip => numbers.rtt.map_or(0, nanoseconds),
        }
    }
}

struct Ended {
    stopped: Instant,
    reason: CloseReason,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Open,
    Closed,
    All,
    /// A number that is not a state: as in nats-server no connection has it.
    None,
}

/// The level of detail for subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subscriptions {
    #[default]
    Count,
    Subjects,
    Details,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnzOptions {
    pub sort: SortBy,
    pub auth: bool,
    pub subscriptions: Subscriptions,
    pub offset: usize,
    pub limit: usize,
    pub state: State,
    pub filter: ConnectionFilter,
    /// MQTT is not supported: a filter for one of its clients finds none.
    pub mqtt_client: bool,
    /// Only clients with a subscription that overlaps this subject.
    pub filter_subject: Option<String>,
}

/// Parses `subs=`: a boolean or `detail`.
pub(crate) fn parse_subscriptions(query: &Query) -> Result<Subscriptions, String> {
    if query.get("subs").eq_ignore_ascii_case("detail") {
        return Ok(Subscriptions::Details);
    }
    let wanted = query.boolean("subs")?;
    Ok(if wanted { Subscriptions::Subjects } else { Subscriptions::Count })
}

impl ConnzOptions {
    /// Parses the arguments, in nats-server's order.
    ///
    /// # Errors
    /// The text of a 400 answer.
    pub fn parse(query: &Query) -> Result<Self, String> {
        let auth = query.boolean("auth")?;
        let subscriptions = parse_subscriptions(query)?;
        let (offset, limit) = parse_window(query)?;
        let id = query.unsigned("cid")?;
        let state = match query.get("state").to_ascii_lowercase().as_str() {
            "" | "open" => State::Open,
            "closed" => State::Closed,
            "any" | "all" => State::All,
            _ => return Err(format!("Error decoding state for {}", query.get("state"))),
        };
        let name = query.get("sort");
        let sort = SortBy::parse(name).ok_or_else(|| format!("invalid sorting option: {name}"))?;
        if state != State::Closed && matches!(sort, SortBy::Stop | SortBy::Reason) {
            return Err(format!("sort by {name} only valid on closed connections"));
        }
        let filter = ConnectionFilter {
            id: (id > 0).then_some(id),
            account: query.given("acc"),
            user: query.given("user"),
        };
        let limit = if id > 0 { 1 } else { limit };
        let mqtt_client = query.given("mqtt_client").is_some();
        let filter_subject = None;
        Ok(Self {
            sort,
            auth,
            subscriptions,
            offset,
            limit,
            state,
            filter,
            mqtt_client,
            filter_subject,
        })
    }
}

/// A connection in the list, before it is described.
#[derive(Clone, Debug)]
pub(crate) enum Listed {
    Open { shard: usize, place: usize, numbers: ConnectionNumbers },
    Closed(Box<ClosedConnection>),
}

impl Listed {
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Open { numbers, .. } => numbers.id,
            Self::Closed(closed) => closed.details.numbers.id,
        }
    }

    fn reason_ranked(&self, sort: SortBy) -> &'static str {
        match self {
            Self::Closed(closed) if sort == SortBy::Reason => closed.reason.text(),
            _ => "",
        }
    }

    fn rank(&self, sort: SortBy, now: Instant) -> u64 {
        match self {
            Self::Open { numbers, .. } => sort.rank(numbers, now, None),
            Self::Closed(closed) => {
                let ended = Ended { stopped: closed.stopped, reason: closed.reason };
                sort.rank(&closed.details.numbers, now, Some(&ended))
            }
        }
    }
}

/// Keeps only the closed connections that pass the filter.
pub(crate) fn filter_closed(
    closed: &mut Vec<ClosedConnection>,
    options: &ConnzOptions,
    open_found: bool,
) {
    let filter = &options.filter;
    closed.retain(|closed| {
        let details = &closed.details;
        let of_account = filter.account.as_ref().is_none_or(|name| *name == details.account);
        let of_id = filter.id.is_none_or(|id| id == details.numbers.id && !open_found);
        let of_user = filter.user.as_ref().is_none_or(|user| *user == details.user);
        of_account && of_id && of_user && !options.mqtt_client
    });
}

/// Sorts the connections and keeps those selected by offset and limit. Ties are ordered by id, in
/// the direction of the sort. Source: nats-server server/monitor_sort_opts.go.
pub(crate) fn select(mut all: Vec<Listed>, options: &ConnzOptions, now: Instant) -> Vec<Listed> {
    let sort = options.sort;
    let key = |listed: &Listed| (listed.rank(sort, now), listed.reason_ranked(sort), listed.id());
    if sort.is_ascending() {
        all.sort_by_cached_key(key);
    } else {
        all.sort_by_cached_key(|listed| Reverse(key(listed)));
    }
    all.into_iter().skip(options.offset).take(options.limit).collect()
}

/// Fields and order as nats-server's `Connz`.
#[derive(Debug, Serialize)]
pub(crate) struct Connz {
    server_id: String,
    now: String,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
    /// None if the account asked for does not exist.
    connections: Option<Vec<ConnectionReport>>,
}

/// Fields and order as nats-server's `ConnInfo`.
#[derive(Debug, Serialize)]
struct ConnectionReport {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    protocol: &'static str,
    ip: String,
    port: u16,
    start: String,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    rtt: String,
    uptime: String,
    idle: String,
    pending_bytes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    stalls: u64,
    subscriptions: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lang: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    tls_version: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    tls_cipher_suite: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tls_peer_certs: Vec<CertificateReport>,
    #[serde(skip_serializing_if = "is_false")]
    tls_first: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    authorized_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    account: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions_list_detail: Vec<SubscriptionReport>,
    #[serde(skip_serializing_if = "String::is_empty")]
    name_tag: String,
}

/// Fields and order as nats-server's `TLSPeerCert`. Made on the thread that answers: hashing is too
/// slow for shards.
#[derive(Debug, Serialize)]
struct CertificateReport {
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    spki_sha256: String,
    cert_sha256: String,
}

impl CertificateReport {
    fn new(der: &[u8]) -> Self {
        let subject = certificate::subject(der).unwrap_or_default();
        Self {
            subject: tls_map::subject_text(&subject),
            spki_sha256: public_key_id(der).unwrap_or_default(),
            cert_sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(der)),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// One entry of the answer, described.
pub(crate) enum Described {
    Open(Box<ConnectionDetails>),
    Closed(Box<ClosedConnection>),
}

/// Answers `/connz`. `total` is the number of connections that pass the filters, before offset and
/// limit.
pub(crate) fn connz(
    facts: &ServerFacts,
    options: &ConnzOptions,
    total: usize,
    described: Vec<Described>,
) -> Connz {
    let connections: Vec<ConnectionReport> = described
        .into_iter()
        .map(|one| match one {
            Described::Open(details) => report(facts, options, *details, None),
            Described::Closed(closed) => {
                let ended = Ended { stopped: closed.stopped, reason: closed.reason };
                report(facts, options, closed.details, Some(ended))
            }
        })
        .collect();
    Connz {
        server_id: facts.info.server_id.clone(),
        now: facts.now_text(),
        num_connections: connections.len(),
        total,
        offset: options.offset,
        limit: options.limit,
        connections: Some(connections),
    }
}

/// Returns nats-server's answer for an account that does not exist.
pub(crate) fn unknown_account(facts: &ServerFacts, options: &ConnzOptions) -> Connz {
    Connz {
        server_id: String::new(),
        now: facts.now_text(),
        num_connections: 0,
        total: 0,
        offset: options.offset,
        limit: options.limit,
        connections: None,
    }
}

fn report(
    facts: &ServerFacts,
    options: &ConnzOptions,
    details: ConnectionDetails,
    ended: Option<Ended>,
) -> ConnectionReport {
    let numbers = &details.numbers;
    let until = ended.as_ref().map_or(facts.now.0, |ended| ended.stopped);
    let (ip, port) =
        details.address.map_or_else(Default::default, |(ip, port)| (ip.to_string(), port));
    let is_closed = ended.is_some();
    let is_global = details.account == GLOBAL_ACCOUNT_NAME;
    let tls = details.tls.as_ref();
    let when_auth = |text: &str| if options.auth { text.to_owned() } else { String::new() };
    let mut list = details.subscription_list;
    list.sort_by(SubscriptionDetails::in_order);
    let (mut subscriptions_list, mut subscriptions_list_detail) = (Vec::new(), Vec::new());
    match options.subscriptions {
        Subscriptions::Count => {}
        Subscriptions::Subjects => {
            subscriptions_list = list.into_iter().map(|one| one.subject).collect();
        }
        Subscriptions::Details => {
            let account = is_closed.then_some(&details.account);
            let report = |one| SubscriptionReport::new(one, account.cloned());
            subscriptions_list_detail = list.into_iter().map(report).collect();
        }
    }
    ConnectionReport {
        cid: numbers.id,
        kind: "Client",
        protocol: "nats",
        ip,
        port,
        start: facts.timestamp_of(numbers.started),
        last_activity: facts.timestamp_of(numbers.last_activity),
        stop: ended.as_ref().map(|ended| facts.timestamp_of(ended.stopped)),
        reason: ended.as_ref().map(|ended| ended.reason.text()),
        rtt: text::round_trip(numbers.rtt.unwrap_or_default()),
        uptime: text::uptime(until.saturating_duration_since(numbers.started)),
        idle: text::uptime(until.saturating_duration_since(numbers.last_activity)),
        pending_bytes: numbers.pending_bytes,
        in_msgs: numbers.in_messages,
        out_msgs: numbers.out_messages,
        in_bytes: numbers.in_bytes,
        out_bytes: numbers.out_bytes,
        stalls: numbers.stalls,
        subscriptions: numbers.subscriptions,
        tls_version: tls.map_or("", |tls| tls.version),
        tls_cipher_suite: tls.map_or_else(String::new, |tls| tls.cipher_suite.clone()),
        tls_peer_certs: tls.filter(|_| options.auth).map_or_else(Vec::new, |tls| {
            tls.peer_certificates.iter().map(|der| CertificateReport::new(der)).collect()
        }),
        tls_first: tls.is_some_and(|tls| tls.is_first),
        authorized_user: when_auth(&details.user),
        account: when_auth(if is_global { "" } else { &details.account }),
        subscriptions_list,
        subscriptions_list_detail,
        // Empty for closed clients of the global account, as in nats-server.
        name_tag: when_auth(if is_closed && is_global { "" } else { &details.account }),
        name: details.name,
        lang: details.lang,
        version: details.version,
    }
}

impl Described {
    fn details(&self) -> &ConnectionDetails {
        match self {
            Self::Open(details) => details,
            Self::Closed(closed) => &closed.details,
        }
    }

    fn list(&mut self) -> &mut Vec<SubscriptionDetails> {
        match self {
            Self::Open(details) => &mut details.subscription_list,
            Self::Closed(closed) => &mut closed.details.subscription_list,
        }
    }
}

/// Drops what would make the answer too long, from the end of the list: first connections, then
/// subscriptions of the remaining ones. True if anything was dropped.
pub(crate) fn fit(described: &mut Vec<Described>, entries_max: usize, bytes_max: usize) -> bool {
    let mut bytes_left = bytes_max;
    let mut take = |bytes: usize| {
        let left = bytes_left.checked_sub(bytes);
        bytes_left = left.unwrap_or(bytes_left);
        left.is_some()
    };
    let connections = described.len();
    let fitting = described.iter().take_while(|one| take(one.details().answer_bytes())).count();
    described.truncate(fitting);
    let mut entries_left = entries_max;
    let mut cut = fitting < connections;
    for one in described {
        let list = one.list();
        let fitting = list.iter().take(entries_left).take_while(|one| take(one.answer_bytes()));
        let fitting = fitting.count();
        cut |= fitting < list.len();
        list.truncate(fitting);
        entries_left -= fitting;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::super::window::LIST_LIMIT_DEFAULT;
    use super::*;

    fn options(text: &str) -> Result<ConnzOptions, String> {
        ConnzOptions::parse(&Query::parse(text))
    }

    #[test]
    fn negative_and_missing_numbers_mean_the_default() {
        let parsed = options("offset=-1&limit=-5").unwrap();
        assert_eq!((parsed.offset, parsed.limit), (0, LIST_LIMIT_DEFAULT));
        let parsed = options("limit=9223372036854775807&offset=9223372036854775807").unwrap();
        assert_eq!(parsed.limit, i64::MAX as usize);
        assert!(select(rows(3), &parsed, Instant::now()).is_empty());
        assert_eq!(options("cid=7&limit=50").unwrap().limit, 1);
    }

    #[test]
    fn refusals_are_those_of_nats_server() {
        let cases = [
            ("sort=zz", "invalid sorting option: zz"),
            ("sort=stop", "sort by stop only valid on closed connections"),
            ("sort=reason&state=all", "sort by reason only valid on closed connections"),
            ("state=zz", "Error decoding state for zz"),
            (
                "subs=maybe",
                "Error decoding boolean for 'subs': strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ];
        for (query, text) in cases {
            assert_eq!(options(query), Err(text.into()), "{query}");
        }
        assert_eq!(options("subs=DETAIL").unwrap().subscriptions, Subscriptions::Details);
        assert_eq!(options("state=ANY").unwrap().state, State::All);
    }

    fn rows(count: u64) -> Vec<Listed> {
        let now = Instant::now();
        let numbers = |id| ConnectionNumbers {
            id,
            started: now,
            last_activity: now,
            rtt: None,
            subscriptions: (id % 3) as usize,
            pending_bytes: 0,
            in_messages: 0,
            in_bytes: 0,
            out_messages: id * 10,
            out_bytes: 0,
            stalls: 0,
        };
        let row = |id| Listed::Open { shard: 0, place: id as usize, numbers: numbers(id) };
        (1..=count).map(row).collect()
    }

    #[test]
    fn an_answer_that_grows_too_long_is_cut_from_its_end() {
        let described = |subscriptions: usize| {
            let Listed::Open { numbers, .. } = rows(1)[0] else { panic!("an open one") };
            let one = SubscriptionDetails {
                connection: 1,
                subject: "a\n\"".into(),
                queue: String::new(),
                sid: "1".into(),
                delivered: 0,
                max: 0,
            };
            Described::Open(Box::new(ConnectionDetails {
                numbers,
                address: None,
                name: "x".repeat(100),
                lang: String::new(),
                version: String::new(),
                account: "A".into(),
                user: String::new(),
                tls: None,
                subscription_list: vec![one; subscriptions],
            }))
        };
        let lengths = |entries_max: usize, bytes_max: usize| {
            let mut all = vec![described(3), described(3)];
            let cut = fit(&mut all, entries_max, bytes_max);
            let lists = all.iter().map(|one| one.details().subscription_list.len());
            (lists.collect::<Vec<_>>(), cut)
        };
        let connection = described(0).details().answer_bytes();
        let subscription = described(1).details().subscription_list[0].answer_bytes();
        let whole = 2 * connection + 6 * subscription;
        assert_eq!(lengths(6, whole), (vec![3, 3], false));
        assert_eq!(lengths(6, whole - 1), (vec![3, 2], true));
        assert_eq!(lengths(4, whole), (vec![3, 1], true));
        assert_eq!(lengths(6, 2 * connection), (vec![0, 0], true));
        assert_eq!(lengths(6, 2 * connection - 1).0.len(), 1);
    }

    #[test]
    fn only_ids_are_ascending_and_ties_are_by_id_in_the_direction_of_the_sort() {
        let ids = |query: &str| -> Vec<u64> {
            let selected = select(rows(5), &options(query).unwrap(), Instant::now());
            selected.iter().map(Listed::id).collect()
        };
        assert_eq!(ids(""), [1, 2, 3, 4, 5]);
        assert_eq!(ids("sort=msgs_to&limit=2"), [5, 4]);
        assert_eq!(ids("sort=subs"), [5, 2, 4, 1, 3]);
        assert_eq!(ids("sort=pending"), [5, 4, 3, 2, 1]);
        assert_eq!(ids("sort=uptime"), [1, 2, 3, 4, 5]);
        assert_eq!(ids("sort=cid&offset=3"), [4, 5]);
        assert_eq!(ids("offset=9"), [0u64; 0]);
    }
}
