//! Requests for an endpoint over `$SYS`, whose arguments are a JSON object. Names and types of its
//! fields are those of nats-server's options (server/monitor.go).

use super::connz::{ConnzOptions, SortBy, State, Subscriptions};
use super::endpoints::Ask;
use super::jsz::JszOptions;
use super::others::{HEALTH_SWITCHES, HealthzOptions};
use super::snapshot::ConnectionFilter;
use super::subsz::SubszOptions;
use super::window::window;
use crate::protocol::json_fields::JsonFields;

/// Why a request gets no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A value of the wrong type, in Go's words.
    Unreadable(String),
    /// A value that makes no sense, in nats-server's words.
    Senseless(String),
    /// No answer at all: this server is not the one that could give it.
    Silent,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Unreadable(text)
    }
}

/// The fields of one service's options, and Go's name of the struct that has them.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub fields: &'a JsonFields,
    pub part: &'static str,
}

impl Arguments<'_> {
    fn boolean(&self, name: &str) -> Result<bool, String> {
        self.fields.boolean(self.part, name)
    }

    /// Returns a text; None if it is absent or empty.
    pub(crate) fn given(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.fields.text(self.part, name)?.filter(|text| !text.is_empty()))
    }

    fn window(&self) -> Result<(usize, usize), String> {
        let offset = self.fields.integer(self.part, "offset")?;
        Ok(window(offset, self.fields.integer(self.part, "limit")?))
    }
}

/// Reads the arguments of CONNZ.
///
/// # Errors
/// As `Refusal` says; the same for the functions below.
pub(crate) fn connz(arguments: Arguments<'_>, account: Option<&str>) -> Result<Ask, Refusal> {
    let Arguments { fields, part } = arguments;
    let sort_text = fields.text_as("server.SortOpt", part, "sort")?.unwrap_or_default();
    let auth = arguments.boolean("auth")?;
    let subjects = arguments.boolean("subscriptions")?;
    let details = arguments.boolean("subscriptions_detail")?;
    let (offset, limit) = arguments.window()?;
    let id = fields.unsigned(part, "cid")?;
    let mqtt_client = arguments.given("mqtt_client")?.is_some();
    let state = fields.integer_as("server.ConnState", part, "state")?;
    let user = arguments.given("user")?;
    let own_account = arguments.given("acc")?;
    let filter_subject = arguments.given("filter_subject")?.filter(|filter| filter != ">");
    let account = account.map(str::to_owned).or(own_account);
    let sort = SortBy::parse(&sort_text)
        .ok_or_else(|| Refusal::Senseless(format!("invalid sorting option: {sort_text}")))?;
    let state = match state {
        0 => State::Open,
        1 => State::Closed,
        2 => State::All,
        _ => State::None,
    };
    if state != State::Closed && matches!(sort, SortBy::Stop | SortBy::Reason) {
        let text = format!("sort by {sort_text} only valid on closed connections");
        return Err(Refusal::Senseless(text));
    }
    if filter_subject.is_some() && account.is_none() {
        let text = "filter by subject only valid with account filtering";
        return Err(Refusal::Senseless(text.into()));
    }
    Ok(Ask::Connz(ConnzOptions {
        sort,
        auth,
        subscriptions: match (details, subjects) {
            (true, _) => Subscriptions::Details,
            (false, true) => Subscriptions::Subjects,
            (false, false) => Subscriptions::Count,
        },
        offset,
        limit: if id > 0 { 1 } else { limit },
        state,
        filter: ConnectionFilter { id: (id > 0).then_some(id), account, user },
        mqtt_client,
        filter_subject,
    }))
}

pub(crate) fn subsz(arguments: Arguments<'_>, account: Option<&str>) -> Result<Ask, Refusal> {
    let (offset, limit) = arguments.window()?;
    let list = arguments.boolean("subscriptions")?;
    let own_account = arguments.given("account")?;
    let test = arguments.given("test")?;
    let list = list || account.is_some();
    let account = account.map(str::to_owned).or(own_account);
    let options = SubszOptions { list, offset, limit, account, test };
    Ok(Ask::Subsz(options.checked().map_err(Refusal::Senseless)?))
}

pub(crate) fn routez(arguments: Arguments<'_>) -> Result<Ask, Refusal> {
    arguments.boolean("subscriptions")?;
    arguments.boolean("subscriptions_detail")?;
    Ok(Ask::Routez)
}

pub(crate) fn gatewayz(arguments: Arguments<'_>) -> Result<Ask, Refusal> {
    for name in ["accounts", "subscriptions", "subscriptions_detail"] {
        arguments.boolean(name)?;
    }
    for name in ["name", "account_name"] {
        arguments.given(name)?;
    }
    Ok(Ask::Gatewayz)
}

pub(crate) fn leafz(arguments: Arguments<'_>) -> Result<Ask, Refusal> {
    arguments.boolean("subscriptions")?;
    arguments.given("account")?;
    Ok(Ask::Leafz)
}

pub(crate) fn jsz(arguments: Arguments<'_>) -> Result<Ask, Refusal> {
    const SWITCHES: [&str; 8] = [
        "accounts",
        "streams",
        "consumer",
        "direct_consumer",
        "config",
        "raft",
        "stream_leader_only",
        "leader_only",
    ];
    for name in SWITCHES {
        arguments.boolean(name)?;
    }
    arguments.given("account")?;
    arguments.window()?;
    // Without JetStream this server is no leader.
    if arguments.boolean("leader_only")? {
        return Err(Refusal::Silent);
    }
    let streams = arguments.boolean("streams")? || arguments.boolean("consumer")?;
    let (offset, limit) = arguments.window()?;
    Ok(Ask::Jsz(JszOptions {
        account: arguments.given("account")?.unwrap_or_default(),
        accounts: arguments.boolean("accounts")? || streams,
        streams,
        config: arguments.boolean("config")?,
        offset,
        limit,
    }))
}

pub(crate) fn healthz(arguments: Arguments<'_>) -> Result<Ask, Refusal> {
    for name in HEALTH_SWITCHES {
        arguments.boolean(name)?;
    }
    let details = arguments.boolean("details")?;
    let is_given = |name| Ok::<_, String>(arguments.given(name)?.is_some());
    let (account, stream) = (is_given("account")?, is_given("stream")?);
    let mut options = HealthzOptions::new(details, account, stream, is_given("consumer")?);
    options.account = arguments.given("account")?.unwrap_or_default();
    options.stream = arguments.given("stream")?.unwrap_or_default();
    options.with_code = true;
    Ok(Ask::Healthz(options))
}

pub(crate) fn accstatz(arguments: Arguments<'_>, account: Option<&str>) -> Result<Ask, Refusal> {
    let unused = arguments.boolean("include_unused")?;
    let accounts = arguments.fields.texts(arguments.part, "accounts")?;
    let accounts = account.map_or(accounts, |account| vec![account.to_owned()]);
    Ok(Ask::Accstatz { unused, accounts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        read: impl Fn(Arguments<'_>) -> Result<Ask, Refusal>,
        text: &str,
    ) -> Result<Ask, Refusal> {
        let fields = JsonFields::parse(text.as_bytes(), "TestEventOptions").unwrap();
        read(Arguments { fields: &fields, part: "TestOptions" })
    }

    #[test]
    fn an_account_in_the_subject_wins_over_one_in_the_body() {
        let text = r#"{"acc":"VICTIM","cid":9,"limit":-1,"auth":true}"#;
        let Ok(Ask::Connz(options)) = ask(|a| connz(a, Some("OWN")), text) else {
            panic!("refused")
        };
        assert_eq!(options.filter.account.as_deref(), Some("OWN"));
        assert_eq!((options.filter.id, options.limit, options.auth), (Some(9), 1, true));
        let Ok(Ask::Accstatz { accounts, .. }) =
            ask(|a| accstatz(a, Some("OWN")), r#"{"accounts":["VICTIM"]}"#)
        else {
            panic!("refused")
        };
        assert_eq!(accounts, ["OWN"]);
        let Ok(Ask::Subsz(options)) = ask(|a| subsz(a, Some("OWN")), r#"{"account":"VICTIM"}"#)
        else {
            panic!("refused")
        };
        assert_eq!((options.account.as_deref(), options.list), (Some("OWN"), true));
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_in_nats_servers_words() {
        let senseless = |text: &str| Err(Refusal::Senseless(text.into()));
        let connz = |text: &str| ask(|a| connz(a, None), text);
        assert_eq!(connz(r#"{"sort":"zz"}"#), senseless("invalid sorting option: zz"));
        let text = "sort by stop only valid on closed connections";
        assert_eq!(connz(r#"{"sort":"stop"}"#), senseless(text));
        let Ok(Ask::Connz(options)) = connz(r#"{"state":5}"#) else { panic!("refused") };
        assert_eq!(options.state, State::None);
        let text = "filter by subject only valid with account filtering";
        assert_eq!(connz(r#"{"filter_subject":"a"}"#), senseless(text));
        let text = "json: cannot unmarshal string into Go struct field TestEventOptions.TestOptions.limit of type int";
        assert_eq!(connz(r#"{"limit":"x"}"#), Err(Refusal::Unreadable(text.into())));
        let text = "invalid test subject, must be valid publish subject: a.*";
        assert_eq!(ask(|a| subsz(a, None), r#"{"test":"a.*"}"#), senseless(text));
        assert_eq!(ask(jsz, r#"{"leader_only":true}"#), Err(Refusal::Silent));
    }
}
