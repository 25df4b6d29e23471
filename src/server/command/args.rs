//! From the command line to the task of the process. Under the name `nats-server` it keeps that
//! program's texts and exit codes, odd ones included.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use crate::auth::state::AuthState;
use crate::base::limits::UPGRADE_WAIT_MAX;
use crate::config::changes;
use crate::config::load::{self, Loaded};
use crate::config::options::Options;
use crate::config::surroundings::{Surroundings, SystemSurroundings};
use crate::config::tls_options::TlsOptions;
use crate::net::tls_config::TlsServer;
use crate::server::command::flags::Flags;
use crate::server::command::help;
use crate::server::host::identity::version_text;

/// The task of the process.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    Run(Box<Start>),
    /// Text for standard output; exits with 0.
    Version(String),
    /// Text for standard output; exits with 0.
    Help(String),
    /// Text for standard output; exits with 0.
    HelpTls(String),
    /// The tested file is valid: text for standard error; exits with 0.
    TestConfig(String),
    /// Signals another process, then exits with 0.
    Signal {
        /// `command[=pid|pidfile|prefix*]`, read by `signal_command`.
        parameters: String,
        /// The name of the processes to signal if no process id is given.
        program: String,
    },
    /// Prints and exits.
    Refused(Refusal),
}

/// What a server starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub options: Options,
    /// Applied again over the file at each reload.
    pub flags: Flags,
    /// For the operator, one line each; the server runs nevertheless.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: u8,
}

/// The name under which the process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Midge,
    NatsServer,
}

impl Program {
    fn of(argv0: &OsStr) -> Self {
        match Path::new(argv0).file_name() {
            Some(name) if name == "nats-server" => Program::NatsServer,
            _ => Program::Midge,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Program::Midge => "midge",
            Program::NatsServer => "nats-server",
        }
    }

    fn refuse(self, reason: &str) -> Invocation {
        self.refuse_with(reason, 1)
    }

    fn refuse_with(self, reason: &str, exit_code: u8) -> Invocation {
        let stderr = format!("{}: {reason}\n", self.name());
        Invocation::Refused(Refusal { stdout: String::new(), stderr, exit_code })
    }

    /// Refuses a flag that cannot be read. nats-server prints its usage and exits as if it had been
    /// asked to.
    fn refuse_flag(self, reason: &str) -> Invocation {
        let (stdout, exit_code) = match self {
            Program::NatsServer => (help::usage(self.name()), 0),
            Program::Midge => (String::new(), 2),
        };
        let hint = match self {
            Program::NatsServer => "",
            Program::Midge => "Run midge --help for the flags there are.\n",
        };
        Invocation::Refused(Refusal { stdout, stderr: format!("{reason}\n{hint}"), exit_code })
    }

    fn version(self) -> String {
        version_text(self.name()) + "\n"
    }
}

/// Reads the command line, and the configuration file that it names.
pub(crate) fn parse(argv0: &OsStr, args: impl Iterator<Item = OsString>) -> Invocation {
    parse_in(argv0, args, &SystemSurroundings::AT_START)
}

/// Like `parse`, with files and environment provided by the caller.
pub fn parse_in(
    argv0: &OsStr,
    args: impl Iterator<Item = OsString>,
    surroundings: &dyn Surroundings,
) -> Invocation {
    let program = Program::of(argv0);
    let flags = match Flags::parse(args) {
        Ok(flags) => flags,
        Err(reason) => return program.refuse_flag(&reason),
    };
    let word = flags.words.first().map(|word| word.to_lowercase());
    if flags.is_on(&["v", "version"]) {
        return Invocation::Version(program.version());
    }
    if flags.is_on(&["h", "help"]) {
        return Invocation::Help(format!("{}\n", help::usage(program.name())));
    }
    if flags.is_on(&["help_tls"]) {
        return Invocation::HelpTls(help::tls_usage());
    }
    match word.as_deref() {
        None => {}
        Some("version") => return Invocation::Version(program.version()),
        Some("help") => return Invocation::Help(format!("{}\n", help::usage(program.name()))),
        Some(_) => {
            let word = crate::config::go_text::quoted(&flags.words[0]);
            return program.refuse(&format!("unrecognized command: {word}"));
        }
    }
    if let Some(signal) = flags.value(&["sl", "signal"]).filter(|signal| !signal.is_empty()) {
        return Invocation::Signal { parameters: signal.into(), program: program.name().into() };
    }
    if flags.is_on(&["t"]) {
        return test_config(program, &flags, surroundings);
    }
    if flags.test_reload_file().is_some() {
        return program.refuse("--test_reload can only be used together with -t");
    }
    match load(&flags, surroundings) {
        Ok(start) => Invocation::Run(Box::new(start)),
        Err(reason) => program.refuse(&reason),
    }
}

/// Reads the file that the flags name and applies the flags over it: at start, and again at each
/// reload.
///
/// # Errors
/// Everything that is wrong, in nats-server's words.
pub(crate) fn load(flags: &Flags, surroundings: &dyn Surroundings) -> Result<Start, String> {
    let (mut options, mut warnings) = match flags.config_file() {
        None => (Options::default(), Vec::new()),
        Some(path) => {
            let loaded = load::load_file(&path, surroundings, flags.allow_unsupported())?;
            let Loaded { options, mut warnings, unsupported } = loaded;
            warnings.extend(unsupported);
            (options, warnings)
        }
    };
    warnings.extend(flags.apply(&mut options)?);
    load::validate(&options)?;
    Ok(Start { options, flags: flags.clone(), warnings })
}

/// Builds what the server later needs of the options, to see whether it can.
///
/// # Errors
/// The text says what cannot be used, with its place in the file.
pub(crate) fn check_usable(options: &Options) -> Result<(), String> {
    AuthState::build(options, None).map_err(|error| error.to_string())?;
    build_tls(options)?;
    build_websocket_tls(options).map(drop)
}

/// Builds the TLS of the client port, if it is configured.
///
/// # Errors
/// If a file cannot be read, or its content cannot be used.
pub(crate) fn build_tls(options: &Options) -> Result<Option<Arc<TlsServer>>, String> {
    build_tls_of(options.tls.as_ref(), options.allow_non_tls)
}

/// Builds the TLS of the listener for WebSocket clients. Its handshake has the time that its
/// upgrade has.
pub(crate) fn build_websocket_tls(options: &Options) -> Result<Option<Arc<TlsServer>>, String> {
    let own = &options.websocket;
    if own.port.is_none() {
        return Ok(None);
    }
    let timeout = Some(own.handshake_timeout.unwrap_or(UPGRADE_WAIT_MAX));
    let tls = own.tls.clone().map(|tls| TlsOptions { timeout, ..tls });
    build_tls_of(tls.as_ref(), false)
}

fn build_tls_of(
    options: Option<&TlsOptions>,
    allow_plain: bool,
) -> Result<Option<Arc<TlsServer>>, String> {
    let Some(tls) = options else { return Ok(None) };
    match TlsServer::build(tls, allow_plain) {
        Ok(server) => Ok(Some(Arc::new(server))),
        Err(reason) if tls.place.0.is_empty() => Err(reason),
        Err(reason) => Err(format!("{}: {reason}", tls.place.0)),
    }
}

/// Exit code of a test whose file needs a restart instead of a reload.
const EXIT_CODE_RESTART: u8 = 3;

/// Tests files as a start does. As in nats-server a warning about the first one is a failure, one
/// about the file to be reloaded is not.
fn test_config(program: Program, flags: &Flags, surroundings: &dyn Surroundings) -> Invocation {
    let Some(path) = flags.config_file() else {
        return program
            .refuse("must specify [-c, --config] option to check configuration file syntax");
    };
    let read = |path: &Path| load::load_file(path, surroundings, flags.allow_unsupported());
    let mut notes = String::new();
    let running = match read(&path) {
        Ok(loaded) if !loaded.warnings.is_empty() => {
            return program.refuse(&lines(loaded.warnings));
        }
        loaded => loaded.and_then(|loaded| test_options(loaded, flags, &mut notes)),
    };
    let running = match running {
        Ok(running) => running,
        Err(reason) => return program.refuse(&reason),
    };
    let (name, digest) = (program.name(), &running.config_digest);
    let shown = path.display();
    let mut result = format!("{name}: configuration file {shown} is valid ({digest})\n");
    if let Some(path) = flags.test_reload_file() {
        let new = read(&path).and_then(|loaded| test_options(loaded, flags, &mut notes));
        let mut new = match new {
            Ok(new) => new,
            Err(reason) => return program.refuse(&reason),
        };
        changes::keep_running_values(&running, &mut new);
        if let Err(reason) = changes::plan_reload(&running, &new) {
            return program.refuse_with(&reason, EXIT_CODE_RESTART);
        }
        let shown = path.display();
        result += &format!("{name}: configuration file {shown} can be reloaded\n");
    }
    Invocation::TestConfig(notes + &result)
}

/// Returns the options of file and flags, if a server could start with them; `notes` gets a line
/// for each ignored option.
fn test_options(loaded: Loaded, flags: &Flags, notes: &mut String) -> Result<Options, String> {
    let Loaded { mut options, mut unsupported, .. } = loaded;
    unsupported.extend(flags.apply(&mut options)?);
    load::validate(&options)?;
    check_usable(&options)?;
    notes.push_str(&lines(unsupported));
    Ok(options)
}

fn lines(texts: Vec<String>) -> String {
    texts.iter().map(|text| format!("{text}\n")).collect()
}

#[cfg(test)]
mod tests;
