//! Checks that links between the pages that people read lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::citations::{Texts, read_texts};

#[test]
fn links_between_pages_lead_somewhere() {
    let texts = read_texts();
    let broken = broken(&texts);
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let texts = read_texts();
    let summary = &texts["docs/src/SUMMARY.md"];
    let pages = texts.keys().filter_map(|path| path.strip_prefix("docs/src/"));
    let missing: Vec<&str> = pages
        .filter(|page| page.ends_with(".md") && *page != "SUMMARY.md")
        .filter(|page| !summary.contains(&format!("({page})")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The program in README is the one that scripts/interop.sh runs.
#[test]
fn readme_shows_a_program_that_is_tested() {
    let texts = read_texts();
    let shown = |page: &str| {
        let (_, rest) = texts[page].split_once("```python\n").expect("a program in Python");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    assert_eq!(shown("README.md"), shown("docs/src/getting-started.md"));
}

/// Returns a line for each link or include that leads to no file.
fn broken(texts: &Texts) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let included = text.split("{{#include ").skip(1).filter_map(|rest| rest.split("}}").next());
        for target in links.chain(included) {
            let file = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || file.is_empty();
            if !is_elsewhere && !leads_somewhere(texts, path, file) {
                broken.push(format!("{path}: {target}"));
            }
        }
    }
    broken
}

fn leads_somewhere(texts: &Texts, path: &str, file: &str) -> bool {
    let mut place: PathBuf = Path::new(path).parent().unwrap_or(Path::new("")).into();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => {
                if !place.pop() {
                    return false;
                }
            }
            Component::CurDir => {}
            part => place.push(part),
        }
    }
    let place = place.to_string_lossy();
    let folder = format!("{}/", place.trim_end_matches('/'));
    texts.keys().any(|known| *known == place || known.starts_with(&folder))
}

#[test]
fn a_broken_link_is_found_and_others_are_left_alone() {
    let page =
        "[a](b.md#there) [c](../README.md) [d](https://example.com/x.md) [e](#here) [f](sub)";
    let mut texts = Texts::new();
    for (path, text) in
        [("README.md", ""), ("docs/a.md", page), ("docs/b.md", ""), ("docs/sub/x.md", "")]
    {
        texts.insert(path.to_owned(), text.to_owned());
    }
    assert_eq!(broken(&texts), Vec::<String>::new());
    texts.remove("docs/b.md");
    assert_eq!(broken(&texts), ["docs/a.md: b.md#there"]);
    texts.insert("docs/c.md".to_owned(), "{{#include ../none.md}}".to_owned());
    assert_eq!(broken(&texts).len(), 2);
}
