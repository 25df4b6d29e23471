//! The help texts, made from the option table.

use std::fmt::Write;

use crate::config::option_table::SECTIONS;
use crate::config::read_tls::{CIPHER_SUITES, CIPHER_SUITES_INSECURE, CURVES};
use crate::server::flags::SPECIALS;

const COLUMN_WIDTH: usize = 38;

/// What `--help` prints.
pub fn usage(program: &str) -> String {
    let mut text = format!("\nUsage: {program} [options]\n");
    for section in SECTIONS {
        let mut lines = String::new();
        for row in section.rows {
            if let Some(flag) = &row.flag {
                let help = if flag.inverse { "Do not: " } else { "" };
                push_line(&mut lines, flag.names, flag.argument, &format!("{help}{}", row.help));
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
    text.push('\n');
    text
}

fn push_line(text: &mut String, names: &[&str], argument: &str, help: &str) {
    let dashed: Vec<String> = names
        .iter()
        .map(|name| if name.len() <= 3 { format!("-{name}") } else { format!("--{name}") })
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

/// What `--help_tls` prints.
pub fn tls_usage() -> String {
    let mut text = String::from(
        "TLS is configured in the `tls` block of the configuration file:\n\n\
         \x20   tls {\n\
         \x20       cert_file: \"./server.pem\"\n\
         \x20       key_file:  \"./server-key.pem\"\n\
         \x20       ca_file:   \"./clients-ca.pem\"\n\
         \x20       verify:    true\n\
         \x20   }\n\n",
    );
    let lists: [(&str, &[&str]); 3] = [
        ("Cipher suites:", &CIPHER_SUITES),
        ("Cipher suites that need allow_insecure_cipher_suites:", &CIPHER_SUITES_INSECURE),
        ("Curve preferences:", &CURVES),
    ];
    for (title, names) in lists {
        writeln!(text, "{title}").expect("writing to a String cannot fail");
        for name in names {
            writeln!(text, "    {name}").expect("writing to a String cannot fail");
        }
        text.push('\n');
    }
    text
}
