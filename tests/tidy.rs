//! Checks of the architecture's rules: floors stay apart, the runtime and shared state stay where
//! they belong, every file says what it is for, and none is unused. ARCHITECTURE.md and
//! CONTRIBUTING.md give the reasons; these are the rules that a reader would otherwise have to
//! watch for.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/citations.rs"]
mod citations;

#[path = "tidy/commit.rs"]
mod commit;
#[path = "tidy/links.rs"]
mod links;
#[path = "tidy/options.rs"]
mod options;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folders that may name the runtime.
const RUNTIME_FOLDERS: [&str; 3] = ["src/net/", "src/shard/", "src/storage/"];

/// Where locks and atomics may be used.
const SHARED_STATE_PLACES: [&str; 8] = [
    "src/server/",
    "src/shard/offload.rs",
    "src/base/ring.rs",
    "src/base/ring_parts.rs",
    "src/base/counters.rs",
    "src/base/log.rs",
    "src/base/log/",
    "src/net/doorbell.rs",
];

/// The only file with unsafe code.
const UNSAFE_FILE: &str = "src/main.rs";

const SHARED_STATE_WORDS: [&str; 3] = ["Mutex", "RwLock", "Condvar"];

/// Siblings of this floor never import each other.
const SIBLING_FLOOR: u8 = 7;

/// Source files by their path from the root of the repository.
type Files = BTreeMap<String, String>;

#[test]
fn the_house_is_tidy() {
    let files = read_files();
    assert!(files.len() > 50, "only {} files were found", files.len());
    let mut violations = check(&files);
    violations.extend(circles::check(&files));
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// All Rust files of the server and its tests.
fn read_files() -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    let mut folders = vec![root.join("src"), root.join("tests"), root.join("bench")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder exists") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("it is below the root");
                let text = std::fs::read_to_string(&path).expect("sources are text");
                files.insert(name.to_str().expect("names are text").to_owned(), text);
            }
        }
    }
    files
}

/// Every violation, one line each.
fn check(files: &Files) -> Vec<String> {
    let mut violations = Vec::new();
    let floors = floors(files.get("src/lib.rs").map_or("", String::as_str));
    check_dead_files(files, &mut violations);
    for (path, text) in files {
        let mut report =
            |line: usize, what: &str| violations.push(format!("{path}:{line}: {what}"));
        if !text.starts_with("//!") {
            report(1, "the file does not begin with //! and what it owns");
        }
        check_notes(text, &mut report);
        if !path.starts_with("src/") {
            continue;
        }
        let code = code_of(text);
        check_floors(path, &code, &floors, &mut report);
        check_places(path, &code, &mut report);
    }
    if !files.get("src/lib.rs").is_some_and(|text| text.contains("\n#![forbid(unsafe_code)]\n")) {
        violations.push("src/lib.rs:1: #![forbid(unsafe_code)] is missing".into());
    }
    violations
}

/// Returns the modules of `lib.rs` with their floors, in order: `// F4` stands above those of floor
/// 4.
fn floors(library: &str) -> Vec<(String, u8)> {
    let mut floor = 0;
    let mut found = Vec::new();
    for line in library.lines() {
        if let Some(number) = line.strip_prefix("// F").and_then(|text| text.parse().ok()) {
            floor = number;
        } else if let Some(name) = declared_module(line) {
            found.push((name.to_owned(), floor));
        }
    }
    found
}

/// Returns `x` for `pub mod x;`.
fn declared_module(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    line.strip_prefix("mod ")?.strip_suffix(';')
}

/// A module imports only what stands above it, and no sibling on the speakers' floor.
fn check_floors(
    path: &str,
    code: &[(usize, String)],
    floors: &[(String, u8)],
    report: &mut impl FnMut(usize, &str),
) {
    let inner = path.strip_prefix("src/").expect("only src is checked");
    let own = inner.split('/').next().expect("a path has a first part").trim_end_matches(".rs");
    let place = |name: &str| floors.iter().position(|(module, _)| module == name);
    let Some(own_place) = place(own) else {
        if own != "lib" && own != "main" {
            report(1, &format!("{own} has no floor in src/lib.rs"));
        }
        return;
    };
    let at_root =
        !inner.contains('/') || inner.ends_with("/mod.rs") && inner.matches('/').count() == 1;
    for (line, text) in code {
        let mut named = imported(text, "crate::");
        if at_root {
            // From there `super` is the root of the crate.
            let roots = imported(text, "super::").into_iter();
            named.extend(roots.filter(|name| place(name).is_some()));
        }
        if text.contains("super::super::super") {
            report(*line, "such a long way up is written as crate::");
        }
        for name in named {
            let Some(other_place) = place(&name) else { continue };
            let (own_floor, other_floor) = (floors[own_place].1, floors[other_place].1);
            let is_sibling = own_floor == SIBLING_FLOOR && other_floor == SIBLING_FLOOR;
            if name != own && (other_place > own_place || is_sibling) {
                report(
                    *line,
                    &format!("{own} (floor {own_floor}) imports {name} (floor {other_floor})"),
                );
            }
        }
    }
}

/// Returns the first names after `prefix`: in `crate::a::b`, and in `crate::{a, b::c}`.
fn imported(text: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (start, _) in text.match_indices(prefix) {
        let is_longer_word =
            text[..start].ends_with(|char: char| char.is_alphanumeric() || char == '_');
        let rest = &text[start + prefix.len()..];
        if is_longer_word {
            continue;
        }
        match rest.strip_prefix('{') {
            None => names.push(first_word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for char in group.chars() {
                    match char {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(first_word(&std::mem::take(&mut item))),
                        _ if depth == 0 => item.push(char),
                        _ => {}
                    }
                }
                names.push(first_word(&item));
            }
        }
    }
    names
}

fn first_word(text: &str) -> String {
    let text = text.trim_start();
    let end = text.find(|char: char| !(char.is_alphanumeric() || char == '_'));
    text[..end.unwrap_or(text.len())].to_owned()
}

/// The runtime, locks, atomics and unsafe code stay where they belong.
fn check_places(path: &str, code: &[(usize, String)], report: &mut impl FnMut(usize, &str)) {
    let may_run = RUNTIME_FOLDERS.iter().any(|folder| path.starts_with(folder));
    let may_share = SHARED_STATE_PLACES.iter().any(|place| path.starts_with(place));
    let mut is_test = path.ends_with("/tests.rs");
    for (line, text) in code {
        is_test |= text.trim() == "#[cfg(test)]";
        if !may_run && words(text).any(|word| word == "monoio") {
            report(*line, "the runtime is for net and shard alone");
        }
        if path != UNSAFE_FILE && words(text).any(|word| word == "unsafe") {
            report(*line, "unsafe code");
        }
        let is_taken = text.match_indices(".expose()").any(|(at, _)| !is_safely_taken(text, at));
        if !is_test && (is_taken || text.contains("Secret::expose")) {
            report(*line, "a secret is not compared by base::constant_time, or is told");
        }
        if may_share || is_test {
            continue;
        }
        for word in words(text) {
            let is_atomic = word.starts_with("Atomic") || word == "atomic";
            if is_atomic || SHARED_STATE_WORDS.contains(&word) {
                report(*line, &format!("{word}: a shard shares nothing here"));
            }
        }
    }
}

/// Functions that may be given a secret itself. Everything else compares `Secret`s, whose `==` is
/// that of `base::constant_time`.
const SECRET_TAKERS: [&str; 6] =
    ["secrets_equal", "verify", "is_bcrypt", "cost_of", "decoy_of", "decode"];

/// Returns true if the `.expose()` at `at` is an argument of one of `SECRET_TAKERS`, or only asks
/// whether there is a secret.
fn is_safely_taken(text: &str, at: usize) -> bool {
    if text[at..].starts_with(".expose().is_empty()") {
        return true;
    }
    let mut depth = 0;
    let open = text[..at].char_indices().rev().find(|(_, char)| {
        depth += match char {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        depth < 0
    });
    let ends = text[at..].strip_prefix(".expose()").expect("it is there").starts_with([')', ',']);
    let taker = open.and_then(|(open, _)| words(&text[..open]).last());
    ends && taker.is_some_and(|taker| SECRET_TAKERS.contains(&taker))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !(char.is_alphanumeric() || char == '_'))
        .filter(|word| !word.is_empty())
}

/// Notes on open ends must name the condition that closes them, and none may ask for repair.
fn check_notes(text: &str, report: &mut impl FnMut(usize, &str)) {
    // Not written out, or this file would violate its own rule.
    let (open_end, defect) = (concat!("TO", "DO"), concat!("FIX", "ME"));
    for (index, line) in text.lines().enumerate() {
        if words(line).any(|word| word == open_end) && !line.contains(" when ") {
            report(index + 1, &format!("{open_end} without a condition (\"when …\")"));
        }
        if words(line).any(|word| word == defect) {
            report(index + 1, &format!("{defect} never merges"));
        }
    }
}

/// Every file is a root or a module of a reachable file.
fn check_dead_files(files: &Files, violations: &mut Vec<String>) {
    let is_root = |path: &&String| {
        let in_folder =
            |folder: &str| path.strip_prefix(folder).is_some_and(|rest| !rest.contains('/'));
        ["src/lib.rs", "src/main.rs", "bench/src/main.rs", "bench/src/lib.rs"]
            .contains(&path.as_str())
            || in_folder("tests/")
            || in_folder("bench/micro/")
            || in_folder("bench/tests/")
    };
    let mut living: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = files.keys().filter(is_root).cloned().collect();
    while let Some(path) = next.pop() {
        let Some(text) = files.get(&path) else { continue };
        if living.insert(path.clone()) {
            let is_root = is_root(&&path);
            next.extend(modules_of(&path, text, is_root));
        }
    }
    for path in files.keys().filter(|path| !living.contains(*path)) {
        violations.push(format!("{path}:1: no mod statement leads to this file"));
    }
}

/// Returns where the modules that a file declares may be.
fn modules_of(path: &str, text: &str, is_root: bool) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').expect("every file is in a folder");
    let below = match name {
        "mod.rs" => folder.to_owned(),
        _ if is_root => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    let mut given = None;
    for line in text.lines() {
        if let Some(rest) = line.trim().strip_prefix("#[path = \"") {
            given = rest.strip_suffix("\"]").map(|path| format!("{folder}/{path}"));
        } else if let Some(module) = declared_module(line) {
            match given.take() {
                Some(path) => found.push(path),
                None => {
                    found.push(format!("{below}/{module}.rs"));
                    found.push(format!("{below}/{module}/mod.rs"));
                }
            }
        }
    }
    found
}

/// Returns the code without comments and string literals: logical lines with the number of their
/// first line. A `use` that spans several lines is one of them.
fn code_of(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut in_use = false;
    for (index, line) in without_quotes(text).lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let trimmed = code.trim();
        if in_use {
            let (_, whole) = lines.last_mut().expect("a use began");
            whole.push_str(trimmed);
        } else {
            lines.push((index + 1, code.to_owned()));
        }
        let begins = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        in_use |= begins.iter().any(|begin| trimmed.starts_with(begin));
        in_use &= !trimmed.ends_with(';');
    }
    lines
}

/// Returns the text with string literals emptied; lines stay lines.
fn without_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let raw_hashes =
            rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(hashes) = raw_hashes.filter(|hashes| rest[1 + hashes..].starts_with('"'))
            && !out.ends_with(|char: char| char.is_alphanumeric() && char != 'b')
        {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = &rest[2 + hashes..];
            let end = body.find(&close).unwrap_or(body.len());
            out.extend(body[..end].chars().filter(|char| *char == '\n'));
            rest = &body[(end + close.len()).min(body.len())..];
        } else if char == '"' {
            let mut escaped = false;
            let body = &rest[1..];
            let end = body.char_indices().find(|(_, char)| {
                let ends = *char == '"' && !escaped;
                escaped = *char == '\\' && !escaped;
                ends
            });
            let end = end.map_or(body.len(), |(end, _)| end);
            out.extend(body[..end].chars().filter(|char| *char == '\n'));
            rest = &body[(end + 1).min(body.len())..];
        } else if let Some(quote) =
            ["'\"'", "'\\\"'", "b'\"'"].iter().find(|quote| rest.starts_with(**quote))
        {
            rest = &rest[quote.len()..];
        } else {
            out.push(char);
            rest = &rest[char.len_utf8()..];
        }
    }
    out
}

/// Tests of the checker itself: each rule finds what is planted, and nothing in a tidy tree.
mod planted {
    use super::*;

    /// Returns a small tidy tree with one more file.
    fn house(path: &str, text: &str) -> Files {
        let library = "//! Head.\n\n#![forbid(unsafe_code)]\n\n// F0\npub mod base;\n// F5\npub mod net;\n// F6\npub mod peer;\n// F7\npub mod client;\npub mod mesh;\n// F8\npub mod shard;\n// F9\npub mod server;\n";
        let mut files = Files::from([("src/lib.rs".to_owned(), library.to_owned())]);
        for module in ["base", "net", "peer", "client", "mesh", "shard", "server"] {
            files.insert(format!("src/{module}/mod.rs"), "//! Head.\nmod inner;\n".into());
            files.insert(format!("src/{module}/inner.rs"), "//! Head.\n".into());
        }
        files.insert(path.to_owned(), text.to_owned());
        files
    }

    fn assert_found(path: &str, text: &str, expected: &str) {
        let found = check(&house(path, text));
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert!(found[0].contains(expected), "{text:?}: {found:?}");
    }

    fn assert_tidy(path: &str, text: &str) {
        assert_eq!(check(&house(path, text)), Vec::<String>::new(), "{text:?}");
    }

    #[test]
    fn an_import_from_a_floor_below_is_found() {
        let net = "src/net/inner.rs";
        assert_found(
            net,
            "//! H.\nuse crate::client::Session;\n",
            "src/net/inner.rs:2: net (floor 5) imports client (floor 7)",
        );
        assert_found(
            net,
            "//! H.\nuse crate::{base::ids, shard};\n",
            "net (floor 5) imports shard",
        );
        assert_found(
            net,
            "//! H.\n\nuse crate::{\n    base::{ids, client},\n    server::x,\n};\n",
            "inner.rs:3: net (floor 5) imports server",
        );
        assert_found(net, "//! H.\nfn f() -> crate::mesh::Mesh {}\n", "imports mesh");
        assert_found(
            "src/net/mod.rs",
            "//! H.\nmod inner;\nuse super::shard::Shard;\n",
            "imports shard",
        );
        assert_found("src/shard/inner.rs", "//! H.\nuse crate::server::x;\n", "imports server");
        assert_tidy(
            net,
            "//! H.\nuse crate::base::client;\nuse crate::net::inner;\nuse super::shard;\n",
        );
        assert_tidy(
            net,
            "//! H.\n// use crate::client::Session;\nconst TEXT: &str = \"crate::client\";\n",
        );
    }

    #[test]
    fn comparison_of_a_secret_is_found() {
        let auth = "src/net/inner.rs";
        let found = "a secret is not compared by base::constant_time, or is told";
        assert_found(auth, "//! H.\nfn f() -> bool { a.expose() == b }\n", found);
        assert_found(auth, "//! H.\nfn f() -> bool { b != a.expose() }\n", found);
        assert_found(auth, "//! H.\nfn f() -> bool { a.expose().starts_with(b) }\n", found);
        assert_found(auth, "//! H.\nfn f() { let stored = a.expose(); }\n", found);
        assert_found(auth, "//! H.\nfn f() -> bool { is_mine(a.expose()) }\n", found);
        assert_found(
            auth,
            "//! H.\nfn f() -> bool { secrets_equal(b, c) && a.expose() == b }\n",
            found,
        );
        assert_found(auth, "//! H.\nfn f() { a.map_or(\"\", Secret::expose) == b }\n", found);
        assert_tidy(auth, "//! H.\nfn f() -> bool { secrets_equal(a.expose(), b) }\n");
        assert_tidy(auth, "//! H.\nfn f() -> bool { bcrypt::verify(f(b), a.expose()) }\n");
        assert_tidy(auth, "//! H.\nfn f() -> bool { !a.expose().is_empty() }\n");
    }

    #[test]
    fn an_import_between_siblings_is_found_both_ways() {
        assert_found(
            "src/mesh/inner.rs",
            "//! H.\nuse crate::client::Session;\n",
            "mesh (floor 7) imports client",
        );
        assert_found(
            "src/client/inner.rs",
            "//! H.\nuse crate::mesh::Mesh;\n",
            "client (floor 7) imports mesh",
        );
        assert_tidy("src/shard/inner.rs", "//! H.\nuse crate::{client, mesh};\n");
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        let mut files = house("src/extra.rs", "//! H.\n");
        let library = files.get_mut("src/lib.rs").unwrap();
        *library = library.replace("// F0\n", "// F0\nmod base2;\n");
        let found = check(&files);
        assert!(found.iter().any(|line| line.contains("extra has no floor")), "{found:?}");
        assert!(found.iter().any(|line| line.contains("no mod statement leads")), "{found:?}");
    }

    #[test]
    fn runtime_outside_its_folders_is_found() {
        assert_found("src/client/inner.rs", "//! H.\nuse monoio::net::TcpStream;\n", "the runtime");
        assert_tidy("src/net/inner.rs", "//! H.\nuse monoio::net::TcpStream;\n");
        assert_tidy("src/client/inner.rs", "//! As monoio does it.\n");
    }

    #[test]
    fn shared_state_outside_its_places_is_found() {
        for line in
            ["fn f(m: &Mutex<u8>) {}", "static A: AtomicU64 = f();", "fn f() -> RwLock<u8> {}"]
        {
            let text = format!("//! H.\n{line}\n");
            assert_found("src/mesh/inner.rs", &text, "shares nothing");
            assert_tidy("src/server/inner.rs", &text);
            assert_tidy("src/mesh/inner.rs", &format!("//! H.\n#[cfg(test)]\n{line}\n"));
        }
    }

    #[test]
    fn unsafe_code_is_found_twice() {
        let text = "//! H.\nfn f() { unsafe { g() } }\n";
        assert_found("src/base/inner.rs", text, "unsafe code");
        assert_tidy(UNSAFE_FILE, text);
        let mut files = house("src/base/inner.rs", "//! H.\n");
        let library = files.get_mut("src/lib.rs").unwrap();
        *library = library.replace("#![forbid(unsafe_code)]\n", "");
        assert_eq!(check(&files), ["src/lib.rs:1: #![forbid(unsafe_code)] is missing"]);
    }

    #[test]
    fn a_missing_head_is_found() {
        assert_found("src/base/inner.rs", "use std::io;\n", "does not begin with //!");
        assert_found("tests/extra.rs", "fn f() {}\n", "does not begin with //!");
    }

    #[test]
    fn an_open_end_without_a_condition_is_found() {
        let (open_end, defect) = (concat!("TO", "DO"), concat!("FIX", "ME"));
        let file = "src/base/inner.rs";
        assert_found(file, &format!("//! H.\n// {open_end}: pool them\n"), "without a condition");
        assert_found(file, &format!("//! H.\n// {defect}: wrong\n"), "never merges");
        assert_tidy(file, &format!("//! H.\n// {open_end} when routes are pooled: one each\n"));
    }

    #[test]
    fn a_dead_file_is_found() {
        assert_found("src/base/lost.rs", "//! H.\n", "src/base/lost.rs:1: no mod statement");
        assert_found("tests/support/lost.rs", "//! H.\n", "no mod statement");
        let mut files =
            house("tests/big.rs", "//! H.\n#[path = \"big/part.rs\"]\nmod part;\nmod support;\n");
        files.insert("tests/big/part.rs".into(), "//! H.\n".into());
        files.insert("tests/support/mod.rs".into(), "//! H.\nmod deep;\n".into());
        files.insert("tests/support/deep.rs".into(), "//! H.\n".into());
        assert_eq!(check(&files), Vec::<String>::new());
    }

    #[test]
    fn quotes_and_comments_are_not_code() {
        let text = "a \"x // \\\" y\" b 'c' '\"' r#\"z \" \n w\"# d // e\nf";
        let code: Vec<_> = code_of(text).into_iter().map(|(_, line)| line).collect();
        assert_eq!(code, ["a  b 'c'  ", " d ", "f"]);
    }
}
