//! The help texts, generated from the option table.

use std::fmt::Write;

use crate::config::option_table::SECTIONS;
use crate::config::read_tls::{
    CIPHER_SUITES, CIPHER_SUITES_CBC, CIPHER_SUITES_INSECURE, CURVES, CURVES_REFUSED,
};
use crate::server::command::flags::SPECIALS;
use crate::server::command::store_command;

/// Where the descriptions begin, and where a line ends at the latest.
const HELP_COLUMN: usize = 28;
const LINE_WIDTH: usize = 80;

/// What the program is good for, for somebody who sees it for the first time.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    ("midge", "Serve clients on port 4222 of all addresses."),
    ("midge -m 8222", "The same, with monitoring: http://localhost:8222/dashboard."),
    ("midge -c nats.conf", "Serve as nats-server's configuration file says."),
    ("midge -c nats.conf -t", "Only check that file."),
    ("midge --cores 2-5", "Four shards, each pinned to a core of its own."),
    ("midge --signal reload", "Have the running server read its file again."),
];

/// Words that stand in place of flags.
pub(crate) const COMMANDS: &[(&str, &str)] = &store_command::LINES;

/// One flag as help, the manual and completions show it.
pub(crate) struct FlagEntry {
    /// With their dashes.
    pub names: Vec<String>,
    /// Such as `<port>`; empty for switches.
    pub argument: &'static str,
    pub help: String,
}

impl FlagEntry {
    fn new(names: &[&str], argument: &'static str, help: String) -> Self {
        Self { names: names.iter().map(|name| dashed(name)).collect(), argument, help }
    }

    /// Such as `-p, --port <port>`.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.names.join(", "), self.argument).trim_end().to_owned()
    }
}

/// In nats-server's spelling.
fn dashed(name: &str) -> String {
    let is_short = name.len() <= 2 || name.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_short { format!("-{name}") } else { format!("--{name}") }
}

/// All flags under the titles of their sections.
pub(crate) fn flag_sections() -> Vec<(&'static str, Vec<FlagEntry>)> {
    let mut sections = Vec::new();
    for section in SECTIONS {
        let flags = section.rows.iter().filter_map(|row| Some((row, row.flag.as_ref()?)));
        let entries: Vec<FlagEntry> = flags
            .map(|(row, flag)| {
                let help = if flag.help.is_empty() { row.help } else { flag.help };
                let default = match row.default {
                    "" | "false" => String::new(),
                    _ if flag.inverse => String::new(),
                    default => format!(" (default: {default})"),
                };
                FlagEntry::new(flag.names, flag.argument, format!("{help}{default}"))
            })
            .collect();
        if !entries.is_empty() {
            sections.push((section.title, entries));
        }
    }
    let specials = SPECIALS.iter();
    let common =
        specials.map(|(names, argument, help)| FlagEntry::new(names, argument, (*help).to_owned()));
    sections.push(("Common", common.collect()));
    sections
}

/// Returns the text of `--help`.
pub(crate) fn usage(program: &str) -> String {
    let is_midge = program != "nats-server";
    let about = if is_midge { "\nMidge, a NATS server for Linux.\n" } else { "" };
    let mut text = format!("{about}\nUsage: {program} [options]\n");
    for (title, entries) in flag_sections() {
        text.push_str(&format!("\n{title}:\n"));
        for entry in entries {
            push_entry(&mut text, &entry.title(), &entry.help);
        }
    }
    if is_midge {
        for (title, lines) in [("Commands", COMMANDS), ("Examples", EXAMPLES)] {
            text.push_str(&format!("\n{title}:\n"));
            lines.iter().for_each(|(left, help)| push_entry(&mut text, left, help));
        }
    }
    text.push('\n');
    text
}

/// Two columns; the right one begins on a line of its own where the left one is too long.
fn push_entry(text: &mut String, left: &str, help: &str) {
    let mut line = format!("  {left}");
    if line.len() + 2 > HELP_COLUMN {
        text.push_str(&format!("{line}\n"));
        line.clear();
    }
    let mut is_begun = false;
    for word in help.split(' ') {
        if is_begun && line.len() + 1 + word.len() > LINE_WIDTH {
            text.push_str(&format!("{line}\n"));
            line.clear();
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        } else {
            line = format!("{line:HELP_COLUMN$}");
            is_begun = true;
        }
        line.push_str(word);
    }
    text.push_str(&format!("{line}\n"));
}

/// Returns the text of `--help_tls`.
pub(crate) fn tls_usage() -> String {
    let mut text = String::from(
        "TLS is configured in the `tls` block of the configuration file:\n\n\
         \x20   tls {\n\
         \x20       cert_file: \"./server.pem\"\n\
         \x20       key_file:  \"./server-key.pem\"\n\
         \x20       ca_file:   \"./clients-ca.pem\"\n\
         \x20       verify:    true\n\
         \x20   }\n\n\
         `verify: optional` lets in clients without a certificate too.\n\n",
    );
    let lists: [(&str, &[&[&str]]); 3] = [
        ("Cipher suites:", &[&CIPHER_SUITES]),
        ("Curve preferences:", &[&CURVES]),
        (
            "Refused, though nats-server has them:",
            &[&CIPHER_SUITES_CBC, &CIPHER_SUITES_INSECURE, &CURVES_REFUSED],
        ),
    ];
    for (title, names) in lists {
        writeln!(text, "{title}").expect("writing to a String cannot fail");
        for name in names.iter().copied().flatten() {
            writeln!(text, "    {name}").expect("writing to a String cannot fail");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::option_table::rows;

    #[test]
    fn tls_help_lists_what_works_apart_from_what_is_refused() {
        let text = tls_usage();
        let (works, refused) = text.split_once("Refused, though").expect("both parts");
        for name in CIPHER_SUITES.iter().chain(&CURVES) {
            assert!(works.contains(&format!("    {name}\n")), "{name}");
        }
        for name in CIPHER_SUITES_CBC.iter().chain(&CIPHER_SUITES_INSECURE).chain(&CURVES_REFUSED) {
            assert!(refused.contains(&format!("    {name}\n")), "{name}");
            assert!(!works.contains(&format!("    {name}\n")), "{name}");
        }
    }

    /// Each entry on one line: two spaces, names, two or more spaces, help.
    fn entries(program: &str) -> Vec<(String, String)> {
        let mut entries: Vec<(String, String)> = Vec::new();
        for line in usage(program).lines() {
            let is_more = line.len() > HELP_COLUMN && line[..HELP_COLUMN].trim().is_empty();
            match (line.strip_prefix("  "), entries.last_mut()) {
                (Some(more), Some((_, help))) if is_more => {
                    help.push(' ');
                    help.push_str(more.trim());
                }
                (Some(line), _) => {
                    let (left, help) = line.split_once("  ").unwrap_or((line, ""));
                    entries.push((left.to_owned(), help.trim().to_owned()));
                }
                (None, _) => {}
            }
        }
        entries
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        for program in ["midge", "nats-server"] {
            for line in usage(program).lines() {
                assert!(line.chars().count() <= LINE_WIDTH, "{line}");
                assert_eq!(line, line.trim_end(), "blanks at the end");
            }
        }
    }

    #[test]
    fn help_names_the_commands_of_the_store_under_the_programs_own_name_alone() {
        let entries = entries("midge");
        for command in ["store check <folder>", "store repair [--dry-run] <folder>"] {
            assert!(entries.iter().any(|(left, _)| left == command), "{command}");
        }
        assert!(!usage("nats-server").contains("store check"));
    }

    #[test]
    fn examples_name_only_flags_that_exist() {
        for (example, _) in EXAMPLES {
            let words = example.split(' ').skip(1).map(std::ffi::OsString::from);
            let flags = crate::server::command::flags::Flags::parse(words);
            assert!(flags.is_ok_and(|flags| flags.words.is_empty()), "{example}");
        }
    }

    /// Help is worded for the flag, even if the table describes a block of the file.
    #[test]
    fn lines_of_flags_are_sentences_and_show_their_defaults() {
        let entries = entries("midge");
        let help_of = |flag: &str| {
            let found = entries.iter().find(|(left, _)| left == flag);
            &found.unwrap_or_else(|| panic!("{flag}")).1
        };
        for (flag, end) in [
            ("--no-pin", "Do not pin shards to cores; with --cores they stay on those cores."),
            ("--tls", "Encrypt client connections; needs a certificate and its key."),
            ("--user <user>", "Name that clients must log in with, together with --pass."),
            ("-p, --port <port>", "Port for clients; -1 takes any free one. (default: 4222)"),
            ("-a, --addr, --net <host>", "(default: 0.0.0.0)"),
            ("-T, --logtime", "(default: true)"),
            ("-D, --debug", "Log what the server does."),
            ("--shards <number>", "(default: one per core)"),
            ("--unix-mode <octal>", "(default: 0660)"),
        ] {
            assert!(help_of(flag).ends_with(end), "{flag}: {}", help_of(flag));
        }
        let text = usage("midge");
        for word in ["Do not:", "follow", "`password`"] {
            assert!(!text.contains(word), "{word}");
        }
        for row in rows().filter(|row| row.flag.is_some()) {
            assert!(
                !row.help.contains("default"),
                "{}: the default has a place of its own",
                row.key
            );
        }
    }
}
