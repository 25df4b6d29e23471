//! Prepares a reload: reads the file again, applies the flags over it, and judges the difference.
//! Nothing is applied here.

use std::time::Duration;

use crate::config::changes::{self, ReloadPlan};
use crate::config::load;
use crate::config::option_table::Shown;
use crate::config::options::Options;
use crate::config::row::Row;
use crate::config::surroundings::Surroundings;
use crate::config::tls_options::{HandshakeFirst, TlsOptions};
use crate::server::command::args;
use crate::server::command::flags::Flags;

/// A reload that may be carried out.
pub(crate) struct Reload {
    pub options: Options,
    pub plan: ReloadPlan,
    /// For the log.
    pub warnings: Vec<String>,
}

/// Reads and checks the new configuration.
///
/// # Errors
/// nats-server's text after `Failed to reload server configuration: `; the running options stay.
pub(crate) fn prepare(
    running: &Options,
    flags: &Flags,
    surroundings: &dyn Surroundings,
) -> Result<Reload, String> {
    if flags.config_file().is_none() {
        return Err("can only reload config when a file is provided using -c or --config".into());
    }
    let start = args::load(flags, surroundings)?;
    let mut options = start.options;
    changes::keep_running_values(running, &mut options);
    load::validate(&options)?;
    let plan = changes::plan_reload(running, &options)?;
    Ok(Reload { options, plan, warnings: start.warnings })
}

/// Returns the log lines about the changed options, in nats-server's words, each line once.
/// `tls_renewed` is true if the same `tls` block now stands for other certificates.
pub(crate) fn announcements(
    plan: &ReloadPlan,
    old: &Options,
    new: &Options,
    tls_renewed: bool,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in plan.rows.iter().flat_map(|row| announcement(row, old, new)) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if tls_renewed && !plan.rows.iter().any(|row| row.key == "tls") {
        lines.push("Reloaded: tls = enabled".into());
    }
    lines
}

fn announcement(row: &Row, old: &Options, new: &Options) -> Vec<String> {
    let value = || (row.shown)(new);
    let text = match row.key {
        "authorization.user" => "authorization username".into(),
        "authorization.timeout" => {
            format!("authorization timeout = {}", new.auth_timeout().as_secs_f64())
        }
        // nats-server writes no file then, and no line either.
        "pidfile" if new.files.pid.is_none() => return Vec::new(),
        "pidfile" => format!("pid_file = {}", value()),
        "logfile" => format!("log_file = {}", value()),
        "authorization.nkeys" => "authorization nkey users".into(),
        // nats-server's users and accounts refer to each other: it names both whenever either
        // changes.
        "authorization.users" | "authorization.default_permissions" | "accounts" | "mappings" => {
            return ["Reloaded: authorization users", "Reloaded: accounts"]
                .map(String::from)
                .into();
        }
        key if key.starts_with("authorization.") => key.replacen('.', " ", 1),
        // nats-server's number is negative if nobody may connect.
        "max_connections" if new.limits.connections_max == 0 => "max_connections = -1".into(),
        "server_tags" => "tags".into(),
        "server_metadata" => "metadata".into(),
        "client_advertise" => return vec![format!("Reload: client_advertise = {}", value())],
        // nats-server takes new certificates without a line about them.
        "websocket.tls" => return Vec::new(),
        "tls" => return tls_announcements(old.tls.as_ref(), new.tls.as_ref()),
        "no_fast_producer_stall" => {
            let not = if new.limits.no_fast_producer_stall { "not " } else { "" };
            format!("fast producers will {not}be stalled")
        }
        key => format!("{key} = {}", value()),
    };
    vec![format!("Reloaded: {text}")]
}

/// Returns the lines about the `tls` block. nats-server reports some of its options separately.
fn tls_announcements(old: Option<&TlsOptions>, new: Option<&TlsOptions>) -> Vec<String> {
    let none = TlsOptions::default();
    let (was, is) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let mut lines = Vec::new();
    let rest = |tls: &TlsOptions| TlsOptions {
        timeout: None,
        pinned_certificates: Default::default(),
        handshake_first: HandshakeFirst::Never,
        place: none.place.clone(),
        ..tls.clone()
    };
    if old.is_some() != new.is_some() || rest(was) != rest(is) {
        let state = if new.is_some() { "enabled" } else { "disabled" };
        lines.push(format!("Reloaded: tls = {state}"));
    }
    if was.timeout() != is.timeout() {
        lines.push(format!("Reloaded: tls timeout = {}", is.timeout().as_secs_f64()));
    }
    if was.pinned_certificates != is.pinned_certificates {
        lines.push(format!("Reloaded: {} pinned_certs", is.pinned_certificates.len()));
    }
    let first = |tls: &TlsOptions| tls.handshake_first != HandshakeFirst::Never;
    if first(was) != first(is) {
        lines.push(format!("Reloaded: Client TLS handshake first: {}", first(is)));
    }
    let fallback = |tls: &TlsOptions| match tls.handshake_first {
        HandshakeFirst::Fallback(delay) => delay,
        _ => Duration::ZERO,
    };
    if fallback(was) != fallback(is) {
        let delay = fallback(is).shown();
        lines.push(format!("Reloaded: Client TLS handshake first fallback delay: {delay}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ffi::OsString;
    use std::io;
    use std::path::Path;

    use super::*;

    /// A single file whose text changes.
    struct OneFile(RefCell<&'static str>);

    impl Surroundings for OneFile {
        fn read_file(&self, _path: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.borrow().as_bytes().to_vec())
        }

        fn variable(&self, _name: &str) -> Option<OsString> {
            None
        }
    }

    /// Starts with one text and reloads another.
    fn reload(flags: &str, before: &'static str, after: &'static str) -> Result<Reload, String> {
        let flags = Flags::parse(flags.split_whitespace().map(OsString::from))?;
        let file = OneFile(RefCell::new(before));
        let running = args::load(&flags, &file)?.options;
        file.0.replace(after);
        prepare(&running, &flags, &file)
    }

    #[test]
    fn live_changes_are_planned() {
        let reload = reload("-c f", "debug: false", "debug: true\nmax_payload: 2MB").expect("live");
        let keys: Vec<&str> = reload.plan.rows.iter().map(|row| row.key).collect();
        assert_eq!(keys, ["max_payload", "debug"]);
        assert!(reload.options.log.debug);
    }

    /// Returns the lines.
    fn said(before: &'static str, after: &'static str) -> Vec<String> {
        let old = args::load(
            &Flags::parse(["-c", "f"].map(OsString::from).into_iter()).unwrap(),
            &OneFile(before.into()),
        );
        let old = old.expect("the first file is good").options;
        let reload = reload("-c f", before, after).expect("it can be followed");
        announcements(&reload.plan, &old, &reload.options, false)
    }

    /// Unlike nats-server, which names users and accounts even if neither has changed.
    #[test]
    fn changes_are_reported_in_nats_servers_words() {
        let both = ["Reloaded: authorization users", "Reloaded: accounts"];
        let user = "accounts { A { users: [{user: a, password: x}] } }";
        let other = "accounts { A { users: [{user: a, password: y}] } }";
        assert_eq!(said(user, other), both);
        assert_eq!(said(user, user), [""; 0]);
        let mapped = "accounts { A { users: [{user: a, password: x}], mappings: {a: b} } }";
        assert_eq!(said(user, mapped), both);
        assert_eq!(said("", "mappings: {a: b}"), both);
        let permitted = "authorization { default_permissions: {publish: a} }";
        assert_eq!(said("", permitted), both);
        let expected = ["Reload: client_advertise = a:1"];
        assert_eq!(said("", "client_advertise: \"a:1\""), expected);
        assert_eq!(said("", "log_file: \"/l\""), ["Reloaded: log_file = /l"]);
    }

    #[test]
    fn changes_of_the_tls_block_are_reported_one_by_one() {
        let tls = |change: fn(&mut TlsOptions)| {
            let mut tls = TlsOptions::default();
            change(&mut tls);
            Some(tls)
        };
        let plain = tls(|_| {});
        let said = |old: &Option<TlsOptions>, new: &Option<TlsOptions>| {
            tls_announcements(old.as_ref(), new.as_ref())
        };
        assert_eq!(said(&None, &plain), ["Reloaded: tls = enabled"]);
        assert_eq!(said(&plain, &None), ["Reloaded: tls = disabled"]);
        assert_eq!(said(&plain, &plain), [""; 0]);
        assert_eq!(
            said(&plain, &tls(|t| t.verify = crate::config::tls_options::Verify::Required)),
            ["Reloaded: tls = enabled"]
        );
        let slow = tls(|t| t.timeout = Some(Duration::from_millis(3500)));
        assert_eq!(said(&plain, &slow), ["Reloaded: tls timeout = 3.5"]);
        let first = tls(|t| t.handshake_first = HandshakeFirst::Always);
        assert_eq!(said(&plain, &first), ["Reloaded: Client TLS handshake first: true"]);
        let later = tls(|t| {
            t.handshake_first = HandshakeFirst::Fallback(Duration::from_millis(200));
            t.pinned_certificates = ["a".to_owned()].into();
        });
        let expected = [
            "Reloaded: 1 pinned_certs",
            "Reloaded: Client TLS handshake first fallback delay: 200ms",
        ];
        assert_eq!(said(&first, &later), expected);
    }

    /// Files of the same names may hold other certificates.
    #[test]
    fn renewed_certificates_are_reported_once() {
        let same = ReloadPlan { rows: Vec::new() };
        let options = Options::default();
        let said = |renewed| announcements(&same, &options, &options, renewed);
        assert_eq!(said(true), ["Reloaded: tls = enabled"]);
        assert_eq!(said(false), [""; 0]);
    }

    #[test]
    fn flags_win_over_the_new_file_too() {
        let reload = reload("-c f -D=false -p 5000", "port: 1", "port: 2\ndebug: true");
        let reload = reload.expect("the flags hide both changes");
        assert!(reload.plan.rows.is_empty());
        assert_eq!(reload.options.listen.port, 5000);
    }

    #[test]
    fn refusals_have_nats_servers_words() {
        let refused = |flags, before, after| reload(flags, before, after).err();
        let text = "config reload not supported for MaxSubs: old=0, new=4";
        assert_eq!(refused("-c f", "debug: true", "max_subs: 4").as_deref(), Some(text));
        let text = "f:1:0: unknown field \"foo\"\n";
        assert_eq!(refused("-c f", "debug: true", "foo: 4").as_deref(), Some(text));
        let text = "can only reload config when a file is provided using -c or --config";
        assert_eq!(refused("-D", "", "").as_deref(), Some(text));
        let text = "max_payload (67108865) cannot be higher than max_pending (67108864)";
        assert_eq!(refused("-c f", "debug: true", "max_payload: 67108865").as_deref(), Some(text));
    }
}
