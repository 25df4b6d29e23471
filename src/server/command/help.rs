//! The help texts, generated from the option table.

use std::fmt::Write;

use crate::config::option_table::SECTIONS;
use crate::config::read_tls::{
    CIPHER_SUITES, CIPHER_SUITES_CBC, CIPHER_SUITES_INSECURE, CURVES, CURVES_REFUSED,
};
use crate::server::command::flags::SPECIALS;
use crate::server::command::store_command;

const COLUMN_WIDTH: usize = 38;

/// Returns the text of `--help`.
pub(crate) fn usage(program: &str) -> String {
    let about = if program == "nats-server" { "" } else { "\nMidge, a NATS server for Linux.\n" };
    let mut text = format!("{about}\nUsage: {program} [options]\n");
    for section in SECTIONS {
        let mut lines = String::new();
        for row in section.rows {
            if let Some(flag) = &row.flag {
                let help = if flag.help.is_empty() { row.help } else { flag.help };
                let default = match row.default {
                    "" | "false" => String::new(),
                    _ if flag.inverse => String::new(),
                    default => format!(" (default: {default})"),
                };
                push_line(&mut lines, flag.names, flag.argument, &format!("{help}{default}"));
            }
        }
        if !lines.is_empty() {
            write!(text, "\n{}:\n{lines}", section.title).expect("writing to a String cannot fail");
        }
    }
    text.push_str("\nCommon:\n");
    for (names, argument, help) in SPECIALS {
        push_line(&mut text, names, argument, help);
    }
    if program != "nats-server" {
        text.push_str("\nCommands:\n");
        for (command, help) in store_command::LINES {
            writeln!(text, "    {command}\n    {:COLUMN_WIDTH$} {help}", "")
                .expect("writing to a String cannot fail");
        }
    }
    text.push('\n');
    text
}

fn push_line(text: &mut String, names: &[&str], argument: &str, help: &str) {
    let dashed: Vec<String> = names
        .iter()
        .map(|name| {
            // In nats-server's spelling.
            let is_short = name.len() <= 2 || name.bytes().all(|byte| byte.is_ascii_uppercase());
            if is_short { format!("-{name}") } else { format!("--{name}") }
        })
        .collect();
    let left = format!("{} {argument}", dashed.join(", "));
    let left = left.trim_end();
    if left.len() >= COLUMN_WIDTH {
        writeln!(text, "    {left}\n    {:COLUMN_WIDTH$} {help}", "")
    } else {
        writeln!(text, "    {left:COLUMN_WIDTH$} {help}")
    }
    .expect("writing to a String cannot fail");
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

    #[test]
    fn help_names_the_commands_of_the_store_under_the_programs_own_name_alone() {
        let text = usage("midge");
        for command in ["store check <folder>", "store repair [--dry-run] <folder>"] {
            assert!(text.contains(&format!("\n    {command}\n")), "{text}");
        }
        assert!(!usage("nats-server").contains("store check"));
    }

    /// Help is worded for the flag, even if the table describes a block of the file.
    #[test]
    fn lines_of_flags_are_sentences_and_show_their_defaults() {
        let text = usage("midge");
        let line = |flag: &str| {
            let start = format!("    {flag} ");
            text.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{flag}"))
        };
        for (flag, end) in [
            ("--no-pin", "  Do not pin shards to cores; with --cores they stay on those cores."),
            ("--tls", "  Encrypt client connections; needs a certificate and its key."),
            ("--user <user>", "  Name that clients must log in with, together with --pass."),
            ("-p, --port <port>", "  Port for clients; -1 takes any free one. (default: 4222)"),
            ("-a, --addr, --net <host>", "(default: 0.0.0.0)"),
            ("-T, --logtime", "(default: true)"),
            ("-D, --debug", "  Log what the server does."),
            ("--shards <number>", "(default: one per core)"),
            ("--unix-mode <octal>", "(default: 0660)"),
        ] {
            assert!(line(flag).ends_with(end), "{}", line(flag));
        }
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
