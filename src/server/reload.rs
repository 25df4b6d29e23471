//! What SIGHUP asks for: the file read again, the flags applied over it, and the difference judged.
//! Nothing is applied here.

use crate::config::changes::{self, ReloadPlan};
use crate::config::load;
use crate::config::option_table::Row;
use crate::config::options::Options;
use crate::config::surroundings::Surroundings;
use crate::server::args;
use crate::server::flags::Flags;

/// A reload that may be carried out.
pub struct Reload {
    pub options: Options,
    pub plan: ReloadPlan,
    /// For the log.
    pub warnings: Vec<String>,
}

/// # Errors
/// nats-server's text behind `Failed to reload server configuration: `; the running options stay.
pub fn prepare(
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

/// What the log says of one changed option, in nats-server's words.
pub fn announcement(row: &Row, new: &Options) -> String {
    let value = || (row.shown)(new);
    match row.key {
        "authorization.user" => "authorization username".into(),
        "authorization.timeout" => {
            format!("authorization timeout = {}", new.auth_timeout().as_secs_f64())
        }
        "pidfile" => format!("pid_file = {}", value()),
        "authorization.nkeys" => "authorization nkey users".into(),
        key if key.starts_with("authorization.") => key.replacen('.', " ", 1),
        "accounts" | "mappings" => "accounts".into(),
        "server_tags" => "tags".into(),
        "server_metadata" => "metadata".into(),
        "tls" => format!("tls = {}", if new.tls.is_some() { "enabled" } else { "disabled" }),
        "no_fast_producer_stall" => {
            let not = if new.limits.no_fast_producer_stall { "not " } else { "" };
            format!("fast producers will {not}be stalled")
        }
        key => format!("{key} = {}", value()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ffi::OsString;
    use std::io;
    use std::path::Path;

    use super::*;

    /// One file whose text changes.
    struct OneFile(RefCell<&'static str>);

    impl Surroundings for OneFile {
        fn read_file(&self, _path: &Path) -> io::Result<Vec<u8>> {
            Ok(self.0.borrow().as_bytes().to_vec())
        }

        fn variable(&self, _name: &str) -> Option<OsString> {
            None
        }
    }

    /// Starts with one text, reloads with another.
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
