//! Checks that each field of the options is read by something that acts on it: an option that is
//! only parsed would silently do nothing. Uses are found by name, so a field whose name others
//! have, too, may slip through.

use super::{Files, code_of, read_files, words};

/// Files that declare options.
const DECLARED: [&str; 6] = [
    "src/config/advertise.rs",
    "src/config/auth_options.rs",
    "src/config/operator_options.rs",
    "src/config/options.rs",
    "src/config/tls_options.rs",
    "src/config/websocket_options.rs",
];

/// Places that show options without acting on them.
const SHOWN: [&str; 3] = ["src/config/", "src/monitor/", "src/server/run/reload.rs"];

/// Fields that nothing needs to act on, and why.
const IDLE: [(&str, &str); 7] = [
    ("advertise", "there are no other servers whose clients could be told"),
    ("no_tls", "without it a listener without TLS is refused when the file is judged"),
    ("leafnodes_max", "there are no leafnodes"),
    ("connect_error_reports", "there are no connections to other servers"),
    ("reconnect_error_reports", "there are no connections to other servers"),
    ("insecure", "this server is no TLS client"),
    ("allow_insecure_cipher_suites", "the suites are refused either way; it chooses the words"),
];

#[test]
fn every_option_is_read_by_something_that_acts() {
    let files = read_files();
    let fields = declared(&files);
    assert!(fields.len() > 80, "only {} fields were found", fields.len());
    let idle: Vec<&String> = fields.iter().filter(|field| !is_read(&files, field)).collect();
    let unexplained: Vec<_> =
        idle.iter().filter(|field| IDLE.iter().all(|(name, _)| name != **field)).collect();
    assert!(unexplained.is_empty(), "nothing acts on these options: {unexplained:?}");
    for (name, why) in IDLE {
        assert!(idle.iter().any(|field| *field == name), "{name} is read: not only {why}");
    }
}

/// Returns the names of all public fields of the option structs.
fn declared(files: &Files) -> Vec<String> {
    let mut fields = Vec::new();
    for path in DECLARED {
        let text = files.get(path).unwrap_or_else(|| panic!("{path} is gone"));
        for (_, line) in code_of(text) {
            let field = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": "));
            let names = field.map(|(name, _)| name).filter(|name| !name.contains('('));
            fields.extend(names.map(str::to_owned));
        }
    }
    fields.sort();
    fields.dedup();
    fields
}

/// Returns true if acting code has `.field`, other than to assign to it.
fn is_read(files: &Files, field: &str) -> bool {
    files.iter().any(|(path, text)| {
        let acts = path.starts_with("src/") && !SHOWN.iter().any(|place| path.starts_with(place));
        acts && !path.ends_with("/tests.rs") && reads(text, field)
    })
}

fn reads(text: &str, field: &str) -> bool {
    let access = format!(".{field}");
    let code = code_of(text);
    let lines = code.iter().map(|(_, line)| line.as_str());
    let mut lines = lines.take_while(|line| line.trim() != "#[cfg(test)]");
    lines.any(|line| {
        line.match_indices(&access).any(|(start, _)| {
            let rest = &line[start + access.len()..];
            let is_longer = words(rest).next().is_some_and(|word| rest.starts_with(word));
            let rest = rest.trim_start();
            let is_assigned = rest.starts_with("= ");
            !is_longer && !rest.starts_with('(') && !is_assigned
        })
    })
}

#[test]
fn a_field_is_read_where_it_is_neither_called_nor_assigned_nor_part_of_a_longer_name() {
    for line in ["if limits.stall {", "f(&options.stall)", "a.stall == b", "_ if a.stall => 1"] {
        assert!(reads(line, "stall"), "{line}");
    }
    for line in ["limits.stall = on;", "a.stalls", "a.stall()", "// a.stall", "let stall = 1;"] {
        assert!(!reads(line, "stall"), "{line}");
    }
    assert!(!reads("#[cfg(test)]\nfn f() { a.stall; }", "stall"));
}
