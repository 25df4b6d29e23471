//! What `-t` says about a configuration file, recorded from nats-server: for broken files the error
//! with its line and column, for valid ones the digest.
//!
//! `tests/config/judged.txt` has one file each between `=== name` and the next: `file` with its
//! text, using the escapes of the transcripts, or `test` with the name of a file in `tests/config`;
//! `reload` with the text of a file to which a server with the first is to reload; `says` with the
//! output. `ours why` marks cases that Midge judges differently on purpose. `NATS_SERVER=path`
//! tests that server instead, and `UPDATE_GOLDEN=1` with it records its answers; without it,
//! Midge's own, where marked.

mod support;

#[allow(dead_code)]
#[path = "transcripts/format.rs"]
mod format;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use format::{escape, unescape};
use support::server::Directory;

struct Case {
    name: String,
    /// Text, or the name of a file of `tests/config`.
    file: Result<Vec<u8>, String>,
    /// The text of another file, for `--test_reload`.
    reload: Option<Vec<u8>>,
    says: String,
    ours: bool,
    /// Where `says` stands.
    line_index: usize,
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/judged.txt")
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (line_index, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("=== ") {
            let (name, file, says) = (name.to_owned(), Err(String::new()), String::new());
            cases.push(Case { name, file, reload: None, says, ours: false, line_index });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        match line.split_once(' ') {
            Some(("file", text)) => case.file = Ok(unescape(text).expect("good escapes")),
            Some(("reload", text)) => case.reload = Some(unescape(text).expect("good escapes")),
            Some(("test", name)) => case.file = Err(name.to_owned()),
            Some(("ours", _)) => case.ours = true,
            Some(("says", text)) => (case.says, case.line_index) = (text.to_owned(), line_index),
            _ => assert!(line.is_empty() || line.starts_with('#'), "{line}"),
        }
    }
    cases
}

/// Returns what the program prints about the file, without the file's name and folder, and how it
/// ends.
fn judge(program: &Path, case: &Case) -> String {
    let directory = Directory::new().expect("a directory");
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/files");
    std::os::unix::fs::symlink(files, directory.join("files")).expect("a link");
    let mut command = Command::new(program);
    command.arg("-t").arg("-c");
    match &case.file {
        Ok(text) => {
            std::fs::write(directory.join("server.conf"), text).expect("a file");
            command.arg("server.conf").current_dir(&*directory);
        }
        Err(name) => {
            command.arg(format!("tests/config/{name}.conf"));
            command.current_dir(env!("CARGO_MANIFEST_DIR"));
        }
    }
    if let Some(text) = &case.reload {
        std::fs::write(directory.join("new.conf"), text).expect("a file");
        command.arg("--test_reload").arg("new.conf");
    }
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stderr).replace("\nmidge: ", "\nnats-server: ");
    let text = text.strip_prefix("nats-server: ").or_else(|| text.strip_prefix("midge: "));
    let text = text.unwrap_or("(another beginning)").trim_end();
    let status = output.status.code().map_or("a signal".into(), |code| code.to_string());
    format!("{status} {}", escape(text.as_bytes()))
}

#[test]
fn files_are_judged_as_by_nats_server() {
    let text = std::fs::read_to_string(golden_path()).expect("it is part of the repository");
    let original = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let records = std::env::var_os("UPDATE_GOLDEN").is_some();
    let program = original.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_midge").into());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut wrong = Vec::new();
    for case in cases(&text) {
        if original.is_some() && case.ours {
            continue;
        }
        let got = judge(&program, &case);
        if records && case.ours == original.is_none() {
            lines[case.line_index] = format!("says {got}");
        } else if got != case.says {
            wrong.push(format!("{}\n  expected: {}\n  got:      {got}", case.name, case.says));
        }
    }
    if records {
        std::fs::write(golden_path(), lines.join("\n") + "\n").expect("it can be written");
    }
    assert!(wrong.is_empty(), "{} files are judged otherwise\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_file_of_the_corpus_is_among_them() {
    let text = std::fs::read_to_string(golden_path()).expect("it is part of the repository");
    let cases = cases(&text);
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "each has its own name");
    let broken = cases.iter().filter(|case| case.says.starts_with("1 ")).count();
    assert!(broken >= 100, "only {broken} broken files");
    let folder = golden_path();
    for entry in std::fs::read_dir(folder.parent().expect("a folder")).expect("a folder") {
        let path = entry.expect("it can be listed").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(name) = name.strip_suffix(".conf") {
            let tested =
                cases.iter().any(|case| case.file.as_ref().err().is_some_and(|n| n == name));
            assert!(tested, "{name}.conf is not judged");
        }
    }
}
