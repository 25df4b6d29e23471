//! The parts of a query for connections, judged in nats-server's order and with its texts.

use super::super::query::Query;
use super::super::snapshot::ConnectionFilter;
use super::super::window::parse_window;

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
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

    pub(super) fn is_ascending(self) -> bool {
        matches!(self, Self::Id | Self::Uptime | Self::Reason)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::window::LIST_LIMIT_DEFAULT;

    fn options(text: &str) -> Result<ConnzOptions, String> {
        ConnzOptions::parse(&Query::parse(text))
    }

    #[test]
    fn negative_and_missing_numbers_mean_the_default() {
        let parsed = options("offset=-1&limit=-5").unwrap();
        assert_eq!((parsed.offset, parsed.limit), (0, LIST_LIMIT_DEFAULT));
        let parsed = options("limit=9223372036854775807&offset=9223372036854775807").unwrap();
        assert_eq!((parsed.offset, parsed.limit), (i64::MAX as usize, i64::MAX as usize));
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
}
