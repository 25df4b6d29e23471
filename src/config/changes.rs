//! Finds what a reload changes, and whether a running server can follow.

use crate::config::option_table::rows;
use crate::config::options::Options;
use crate::config::row::{Reload, Row};

/// Returns the rows whose value differs, in the order of the table.
pub(crate) fn changed_rows(old: &Options, new: &Options) -> Vec<&'static Row> {
    rows().filter(|row| !(row.same)(old, new)).collect()
}

/// A reload's work: the changed rows.
#[derive(Clone)]
pub(crate) struct ReloadPlan {
    pub rows: Vec<&'static Row>,
}

/// Takes over values that a running server keeps: a port chosen by the system stays the same.
pub(crate) fn keep_running_values(old: &Options, new: &mut Options) {
    if new.listen.port == 0 {
        new.listen.port = old.listen.port;
    }
    if new.monitor.port == Some(0) {
        new.monitor.port = old.monitor.port;
    }
    if new.monitor.https_port == Some(0) {
        new.monitor.https_port = old.monitor.https_port;
    }
    if new.websocket.port == Some(0) {
        new.websocket.port = old.websocket.port;
    }
}

/// Compares the options in force with those just read (after `keep_running_values`).
///
/// # Errors
/// nats-server's message for the first option that cannot change in a running server; nothing of
/// the reload may then be applied.
pub(crate) fn plan_reload(old: &Options, new: &Options) -> Result<ReloadPlan, String> {
    let rows = changed_rows(old, new);
    if let Some(row) = rows.iter().find(|row| row.reload == Reload::Restart) {
        return Err(format!(
            "config reload not supported for {}: old={}, new={}",
            row.go_name,
            (row.shown)(old),
            (row.shown)(new),
        ));
    }
    Ok(ReloadPlan { rows })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::auth_options::{Secret, UserOptions};
    use crate::config::tls_options::TlsOptions;

    fn changed(change: impl FnOnce(&mut Options)) -> Result<ReloadPlan, String> {
        let mut new = Options::default();
        change(&mut new);
        plan_reload(&Options::default(), &new)
    }

    /// Returns the keys of changed rows, and the slowest reload class among them.
    fn keys(plan: Result<ReloadPlan, String>) -> (Vec<&'static str>, Option<Reload>) {
        let plan = plan.unwrap_or_else(|reason| panic!("{reason}"));
        let class = plan.rows.iter().map(|row| row.reload).max();
        (plan.rows.iter().map(|row| row.key).collect(), class)
    }

    #[test]
    fn equal_options_change_nothing() {
        assert_eq!(keys(changed(|_| {})), (vec![], None));
    }

    #[test]
    fn live_options_are_named() {
        let plan = changed(|new| {
            new.limits.payload_bytes_max = 7;
            new.log.debug = true;
        });
        assert_eq!(keys(plan), (vec!["max_payload", "debug"], Some(Reload::Live)));
    }

    #[test]
    fn a_changed_password_is_a_change_and_never_shown() {
        let user = |password: &str| UserOptions {
            user: "u".into(),
            password: Some(Secret::new(password)),
            ..Default::default()
        };
        let (mut old, mut new) = (Options::default(), Options::default());
        old.auth.users.push(user("planted-one"));
        new.auth.users.push(user("planted-two"));
        let rows = changed_rows(&old, &new);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].key, "authorization.users");
        assert!(!(rows[0].shown)(&new).contains("planted"));
        assert!(!format!("{new:?}").contains("planted"));
    }

    #[test]
    fn tls_changes_wait_for_the_next_connection() {
        let plan = changed(|new| new.tls = Some(TlsOptions::default()));
        // The time to log in depends on it.
        let changed = vec!["authorization.timeout", "tls"];
        assert_eq!(keys(plan), (changed, Some(Reload::Reconnect)));
    }

    #[test]
    fn a_change_that_needs_a_restart_refuses_the_whole_reload_in_nats_servers_words() {
        type Change = fn(&mut Options);
        let cases: [(Change, &str); 6] = [
            (|new| new.limits.subscriptions_max = 4, "MaxSubs: old=0, new=4"),
            (|new| new.listen.port = 5222, "Port: old=4222, new=5222"),
            (|new| new.listen.host = "::1".into(), "Host: old=0.0.0.0, new=::1"),
            (|new| new.monitor.port = Some(8222), "HTTPPort: old=0, new=8222"),
            (
                |new| new.lame_duck.duration = Duration::from_secs(60),
                "LameDuckDuration: old=2m0s, new=1m0s",
            ),
            (|new| new.server_name = Some("x".into()), "ServerName: old=, new=x"),
        ];
        for (change, text) in cases {
            let refused = changed(|new| {
                new.log.debug = true;
                change(new);
            });
            let expected = format!("config reload not supported for {text}");
            assert_eq!(refused.err(), Some(expected));
        }
    }

    #[test]
    fn a_port_the_system_chose_stays() {
        let mut old = Options::default();
        old.listen.port = 40_000;
        let mut new = Options::default();
        new.listen.port = 0;
        keep_running_values(&old, &mut new);
        assert_eq!(keys(plan_reload(&old, &new)), (vec![], None));
    }
}
