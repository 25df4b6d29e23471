//! `midge store check FOLDER` and `midge store repair [--dry-run] FOLDER`: shows what a store holds
//! and what is lost, and lets an operator accept the loss. The server that uses the store must not
//! run meanwhile.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use crate::storage::check::{accept, read_lanes};
use crate::storage::folder::{FolderError, StoreFolder};

/// The first argument of the command line that selects this command.
pub(crate) const COMMAND: &str = "store";

/// The command's lines in the help text.
pub(crate) const LINES: [(&str, &str); 2] = [
    ("store check <folder>", "Tell what a store holds and what of it is lost; change nothing."),
    (
        "store repair [--dry-run] <folder>",
        "Accept what is lost, so that a server starts with the rest; with --dry-run only tell.",
    ),
];

const USAGE: &str = "\
Usage: midge store check FOLDER
       midge store repair [--dry-run] FOLDER

check reads a store and tells what it holds and what is lost; it changes nothing.
repair tells the same and notes that the loss is accepted, so that the server
starts with the rest. It changes no file of the store's data. With --dry-run it
only tells.

The exit status is 0 if nothing is lost, or all that is lost is accepted.
";

/// The command's output, and how it ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Check,
    Repair,
    DryRun,
}

/// Runs the command with the arguments after `store`.
pub(crate) fn run(arguments: &[OsString]) -> Outcome {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    let (action, folder) = match words[..] {
        [Some("check"), Some("--help" | "-h")]
        | [Some("repair"), Some("--help" | "-h")]
        | [Some("--help" | "-h")] => {
            return Outcome { stdout: USAGE.into(), ..Outcome::default() };
        }
        [Some("check"), _] => (Action::Check, &arguments[1]),
        [Some("repair"), Some("--dry-run"), _] => (Action::DryRun, &arguments[2]),
        [Some("repair"), _, Some("--dry-run")] => (Action::DryRun, &arguments[1]),
        [Some("repair"), folder] if folder != Some("--dry-run") => (Action::Repair, &arguments[1]),
        _ => return Outcome { stderr: USAGE.into(), exit_code: 1, ..Outcome::default() },
    };
    let mut outcome = Outcome::default();
    match run_in(Path::new(folder), action, &mut outcome.stdout) {
        Ok(true) => {}
        Ok(false) => outcome.exit_code = 1,
        Err(error) => {
            outcome.stderr = format!("midge store: {error}\n");
            outcome.exit_code = 1;
        }
    }
    outcome
}

/// Runs an action. True if the store is intact in the end.
fn run_in(root: &Path, action: Action, out: &mut String) -> Result<bool, FolderError> {
    let folder = StoreFolder::open_existing(root)?;
    let lanes = read_lanes(&folder)?;
    for lane in &lanes {
        *out += &lane.to_string();
    }
    let mut say = |line: std::fmt::Arguments<'_>| {
        writeln!(out, "{line}").expect("a string takes any text");
    };
    if lanes.iter().all(|lane| lane.is_whole()) {
        say(format_args!("nothing is lost that was not accepted"));
        return Ok(true);
    }
    if action == Action::Check {
        say(format_args!("something is lost: `midge store repair` accepts it"));
        return Ok(false);
    }
    for lane in lanes.iter().filter(|lane| !lane.is_whole()) {
        let number = lane.lane;
        match (lane.can_be_repaired(), action) {
            (false, _) => {
                say(format_args!("lane {number}: records do not fit, and nothing accounts for it"));
                return Ok(false);
            }
            (true, Action::Repair) => {
                accept(&folder, number, &lane.to_accept())?;
                say(format_args!("lane {number}: the loss is accepted"));
            }
            (true, _) => say(format_args!("lane {number}: the loss would be accepted")),
        }
    }
    Ok(action == Action::Repair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::folder::StoreSettings;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn other_arguments_show_the_usage() {
        for words in [
            &[][..],
            &["check"],
            &["repair"],
            &["repair", "--dry-run"],
            &["mend", "x"],
            &["check", "a", "b"],
        ] {
            let outcome = run(&arguments(words));
            assert_eq!((outcome.exit_code, outcome.stderr.as_str()), (1, USAGE), "{words:?}");
        }
        let help = run(&arguments(&["--help"]));
        assert_eq!((help.exit_code, help.stdout.as_str()), (0, USAGE));
    }

    #[test]
    fn stores_are_checked_and_what_is_none_is_said_to_be_none() {
        let root = std::env::temp_dir().join(format!("midge-store-command-{}", std::process::id()));
        let folder = root.to_str().expect("the folder's name is text");
        let outcome = run(&arguments(&["check", folder]));
        assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (1, ""));
        assert_eq!(outcome.stderr, format!("midge store: {folder}: there is no store\n"));
        let settings = StoreSettings { lanes: 1, journal_file_bytes: 16 << 20 };
        let store = StoreFolder::open(&root, settings).expect("it is made");
        let outcome = run(&arguments(&["check", folder]));
        assert!(outcome.stderr.contains("another process has this store open"), "{outcome:?}");
        drop(store);
        for words in [&["check", folder][..], &["repair", folder], &["repair", "--dry-run", folder]]
        {
            let outcome = run(&arguments(words));
            let expected = "lane 0: never used\nnothing is lost that was not accepted\n";
            assert_eq!((outcome.exit_code, outcome.stdout.as_str()), (0, expected), "{words:?}");
        }
        std::fs::remove_dir_all(&root).expect("it is there");
    }
}
