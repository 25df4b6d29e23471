//! Generates the reference page `OPTIONS.md` from the option table. A test keeps page and table
//! equal: `UPDATE_GOLDEN=1 cargo test --lib reference` writes the page anew.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::config::feature::Feature;
use crate::config::later::LATER;
use crate::config::option_table::SECTIONS;
use crate::config::row::{Kind, Reload, Row};

/// Returns the whole page.
pub(super) fn markdown() -> String {
    let mut page = String::from(
        "# Options\n\n\
         Made from the option table; do not edit. Names in brackets are other spellings of the same option. \
         A flag wins over the file. *Reload*: live = SIGHUP applies it at once, reconnect = to new \
         connections, restart = a reload that changes it is refused.\n",
    );
    for section in SECTIONS {
        write!(
            page,
            "\n## {}\n\n| option | flag | value | default | reload | meaning |\n\
             |---|---|---|---|---|---|\n",
            section.title
        )
        .expect("writing to a String cannot fail");
        for row in section.rows.iter().filter(|row| !row.help.is_empty()) {
            push_row(&mut page, row);
        }
    }
    push_later(&mut page);
    page.push_str(DIFFERENCES);
    page
}

/// Files that Midge judges differently from nats-server on purpose.
const DIFFERENCES: &str = "
## Stricter than nats-server

Midge refuses a few files that nats-server takes and then cannot use, or reads as something else:

- ports outside -1 to 65535, also that of `client_advertise`, whose form `-t` checks too;
- negative durations, and negative sizes other than `max_payload`, `logfile_size_limit` and counts, where \
they mean none;
- `accounts` that is neither a block nor a list;
- a `tls` block without a certificate, cipher suites in CBC mode;
- `verify` without a `ca_file` (nats-server then trusts the authorities of the host);
- text that is not UTF-8;
- nesting deeper than 128 levels, includes deeper than 32 files, more than 65,536 included files, more than 256 MiB;
- digits of other scripts are letters.

`-t` checks all that a start does: also that what the `tls` block names is there, that a key belongs to its \
certificate, and that HTTP and HTTPS ports go together with the rest. TLS flags change what they name and keep the rest of the file's `tls` block; in nats-server \
they replace it.
";

fn push_row(page: &mut String, row: &Row) {
    // A flag without an option of its own has no key.
    let mut name = if row.key.is_empty() { String::new() } else { format!("`{}`", row.key) };
    if !row.aliases.is_empty() {
        write!(name, " ({})", row.aliases.join(", ")).expect("writing to a String cannot fail");
    }
    let flags = row.flag.as_ref().map_or(String::new(), |flag| {
        let names: Vec<String> = flag.names.iter().map(|name| format!("`-{name}`")).collect();
        names.join(", ") + if flag.inverse && !row.key.is_empty() { " turns it off" } else { "" }
    });
    let reload = match row.reload {
        _ if row.go_name.is_empty() => "",
        Reload::Live => "live",
        Reload::Reconnect => "reconnect",
        Reload::Restart => "restart",
    };
    writeln!(
        page,
        "| {name} | {flags} | {} | {} | {reload} | {} |",
        value(row),
        row.default,
        row.help.replace('|', "\\|"),
    )
    .expect("writing to a String cannot fail");
}

/// Describes the values that an option takes.
fn value(row: &Row) -> String {
    match row.kind {
        _ if row.key.is_empty() => String::new(),
        Kind::Toggle(_) => "true or false".into(),
        Kind::Integer { min, max, .. } => format!("number{}", range(min, max)),
        Kind::Bytes { min, max, .. } => format!("bytes{}", range(min, max)),
        Kind::Duration { integer_is_seconds: true, .. } => {
            "duration; a bare number means seconds, with a warning, and is refused by `-t`".into()
        }
        Kind::Duration { .. } => "duration".into(),
        Kind::Text(_) => "text".into(),
        Kind::Structure { shape, .. } | Kind::Part { shape, .. } => shape.into(),
        Kind::Later { .. } => String::new(),
    }
}

fn range(min: i64, max: i64) -> String {
    match (min, max) {
        (i64::MIN, i64::MAX) => String::new(),
        (i64::MIN, max) => format!(", up to {max}"),
        (min, i64::MAX) => format!(", {min} or more"),
        (min, max) => format!(", {min} to {max}"),
    }
}

/// Appends the options that are refused by name, by feature.
fn push_later(page: &mut String) {
    page.push_str(
        "\n## Not supported yet\n\n\
         These options of nats-server are recognised, and refused where they ask for something. What is \
         switched off or empty, and what has no effect without another option, asks for nothing. \
         `--allow-unsupported` warns and goes on without a feature, unless the feature decides who may \
         connect: without it the server would let in whom the file keeps out.\n\n\
         A `cluster` with a port and no routes, as in the configuration of the official Docker image, \
         starts with a warning: no port is opened for other servers. Of a block that is switched off \
         the names of its options are checked, their values are not.\n\n\
         | feature | options | flags | `--allow-unsupported` |\n|---|---|---|---|\n",
    );
    let mut features: BTreeMap<&str, (Feature, Vec<String>, Vec<String>)> = BTreeMap::new();
    for row in LATER {
        let Kind::Later { feature, .. } = row.kind else { continue };
        let entry = features.entry(feature.name());
        let (_, options, flags) = entry.or_insert((feature, Vec::new(), Vec::new()));
        if !row.key.is_empty() {
            options.push(format!("`{}`", row.key));
            options.extend(row.aliases.iter().map(|alias| format!("`{alias}`")));
        }
        if let Some(flag) = &row.flag {
            flags.extend(flag.names.iter().map(|name| format!("`-{name}`")));
        }
    }
    for (name, (feature, options, flags)) in features {
        let (options, flags) = (options.join(", "), flags.join(", "));
        push_feature(page, name, &options, &flags, feature);
    }
    let inside_blocks = [
        (Feature::AuthCallout, "`auth_callout`, `auth_hook` in `authorization`"),
        (Feature::TrustedProxies, "`proxy_required` in `authorization` and of a user"),
        (Feature::OcspPeers, "`ocsp_peer` in `tls`"),
    ];
    for (feature, options) in inside_blocks {
        push_feature(page, feature.name(), options, "", feature);
    }
}

fn push_feature(page: &mut String, name: &str, options: &str, flags: &str, feature: Feature) {
    let waived = if feature.decides_who_enters() { "refused" } else { "starts without" };
    writeln!(page, "| {name} | {options} | {flags} | {waived} |")
        .expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::option_table::rows;

    #[test]
    fn the_page_equals_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/OPTIONS.md");
        let expected = markdown();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &expected).expect("the page can be written");
        }
        let page = std::fs::read_to_string(path).expect("the page exists");
        assert!(page == expected, "run UPDATE_GOLDEN=1 cargo test --lib reference, read the diff");
    }

    #[test]
    fn no_name_and_no_flag_means_two_things() {
        let mut names = Vec::new();
        let mut flags = Vec::new();
        for row in rows().chain(LATER) {
            let block = row.key.rsplit_once('.').map_or("", |(block, _)| block);
            let own = std::iter::once(row.short_key()).chain(row.aliases.iter().copied());
            names.extend(own.filter(|name| !name.is_empty()).map(|name| format!("{block}.{name}")));
            flags.extend(row.flag.iter().flat_map(|flag| flag.names.iter().copied()));
        }
        for list in [names, flags.into_iter().map(String::from).collect()] {
            let mut once = list.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), list.len());
        }
    }
}
