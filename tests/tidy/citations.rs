//! Checks that files named by comments, documents and scripts exist.
//!
//! A citation is a word that ends in `.md`, or a path with a `/` in it that ends as sources do. It
//! is looked up from the root of the repository, from the folder of the file that names it, and as
//! the end of any path.

use std::collections::BTreeMap;
use std::path::Path;

/// Folders with files written by people.
const FOLDERS: [&str; 7] = ["src", "tests", "bench", "scripts", "docs", "examples", ".ci"];

/// Endings of files that may be cited.
const CITED: [&str; 8] = [".md", ".rs", ".sh", ".py", ".toml", ".conf", ".json", ".txt"];

/// Characters that mark paths outside of the repository, placeholders and patterns.
const NO_PATH: [char; 9] = ['*', '<', '>', '{', '}', '$', '~', '=', '\\'];

/// Texts by their path from the root; empty for files that are not text.
pub(super) type Texts = BTreeMap<String, String>;

#[test]
fn files_that_are_cited_exist() {
    let texts = read_texts();
    assert!(texts.contains_key("README.md") && texts.len() > 100, "{} files", texts.len());
    let missing = missing(&texts);
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

pub(super) fn read_texts() -> Texts {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Texts::new();
    let mut add = |path: &Path| {
        let name = path.strip_prefix(root).expect("it is below the root");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        texts.insert(name.to_str().expect("names are text").to_owned(), text);
    };
    let entries = |folder: &Path| -> Vec<std::path::PathBuf> {
        // Not all of these folders need to exist.
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.expect("the folder can be read").path()).collect()
    };
    entries(root).iter().filter(|path| path.is_file()).for_each(|path| add(path));
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            match path.is_dir() {
                true => folders.push(path),
                false => add(&path),
            }
        }
    }
    texts
}

/// Returns a line for each citation of a file that does not exist.
fn missing(texts: &Texts) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in texts {
        for (index, line) in prose(path, text).lines().enumerate() {
            let cited =
                line.split(|char: char| char.is_whitespace() || "\"'`()[]|,;".contains(char));
            for word in cited.filter_map(citation) {
                if !exists(texts, path, word) {
                    found.push(format!("{path}:{}: there is no {word}", index + 1));
                }
            }
        }
    }
    found
}

/// SECURITY.md names tests; a promise whose test was renamed could not be checked.
#[test]
fn tests_that_security_md_names_exist() {
    let texts = read_texts();
    let is_name = |word: &&str| {
        word.contains('_') && word.chars().all(|char| char.is_ascii_lowercase() || char == '_')
    };
    let named: Vec<&str> = texts["SECURITY.md"].split('`').filter(is_name).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let head = format!("fn {name}()");
        let is_there =
            texts.iter().any(|(path, text)| path.ends_with(".rs") && text.contains(&head));
        assert!(is_there, "SECURITY.md: there is no test {name}");
    }
}

/// Returns the part of a file that is written for people, line by line: all of a document, the
/// comments of anything else.
fn prose(path: &str, text: &str) -> String {
    if path.ends_with(".md") {
        return text.to_owned();
    }
    if path.ends_with(".rs") {
        let comment = |line: &str| line.split_once("//").map_or("", |(_, text)| text).to_owned();
        let lines: Vec<String> = super::without_quotes(text).lines().map(comment).collect();
        return lines.join("\n");
    }
    let has_comments = [".sh", ".py", ".toml", ".yml"].iter().any(|end| path.ends_with(end))
        || path.starts_with(".ci/");
    if !has_comments {
        return String::new();
    }
    let comment = |line: &str| line.split_once('#').map_or("", |(_, text)| text).to_owned();
    text.lines().map(comment).collect::<Vec<String>>().join("\n")
}

/// Returns the path in a word, without surrounding punctuation and anchor.
fn citation(word: &str) -> Option<&str> {
    let word = word.split('#').next().unwrap_or_default();
    let word = word.trim_end_matches(['.', ':', '!', '?']);
    let is_cited = CITED.iter().any(|end| word.ends_with(end) && word.len() > end.len());
    let is_path = word.contains('/') || word.ends_with(".md");
    let is_ours = !word.contains("://") && !word.contains(NO_PATH) && !word.starts_with('/');
    (is_cited && is_path && is_ours).then_some(word)
}

fn exists(texts: &Texts, from: &str, cited: &str) -> bool {
    let cited = cited.trim_start_matches("./").trim_start_matches("../");
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    texts.contains_key(cited)
        || texts.contains_key(&format!("{folder}/{cited}"))
        || texts.keys().any(|path| path.ends_with(&format!("/{cited}")))
}

#[test]
fn a_citation_of_a_missing_file_is_found_and_others_are_left_alone() {
    let texts_of = |path: &str, text: &str| -> Texts {
        let files = [("README.md", "Read src/lib.rs."), ("src/lib.rs", ""), (path, text)];
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    };
    for (path, text, line) in [
        ("src/a.rs", "//! See PLANS.md, section 3.", "src/a.rs:1: there is no PLANS.md"),
        ("src/a.rs", "let a = 1; // as src/lost.rs has it", "there is no src/lost.rs"),
        (
            "NOTES.md",
            "\nas [here](docs/lost.md#part) is told",
            "NOTES.md:2: there is no docs/lost.md",
        ),
        ("scripts/a.sh", "run # as `scripts/lost.sh`.", "there is no scripts/lost.sh"),
        (".ci/run", "# reads old/limits.toml", "there is no old/limits.toml"),
    ] {
        let found = missing(&texts_of(path, text));
        assert!(found.len() == 1 && found[0].contains(line), "{text}: {found:?}");
    }
    for text in [
        "// See README.md, lib.rs and src/lib.rs: both.",
        "let path = \"src/lost.rs\";",
        "// nats-server server/client.go; result.json; /etc/host.conf; target/*/x.rs; <name>/x.md",
        "// https://example.com/lost.md",
    ] {
        assert_eq!(missing(&texts_of("src/a.rs", text)), Vec::<String>::new(), "{text}");
    }
}
