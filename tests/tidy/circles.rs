//! Checks that files of one folder never use each other in a circle: `a` uses `b`, and `b`,
//! directly or through others, uses `a`.
//!
//! A folder's own `mod.rs` stands above its files and is not one of them; a file with a folder of
//! its own counts as one with all that is in it. Tests may use what they like.

use std::collections::{BTreeMap, BTreeSet};

use super::{Files, code_of, first_word};

/// A module as its path from the root of its crate, beginning with the crate's folder.
type Module = Vec<String>;

/// For each folder, which of its files use which others.
type Uses = BTreeMap<Module, BTreeMap<String, BTreeSet<String>>>;

pub fn check(files: &Files) -> Vec<String> {
    let mut found = Vec::new();
    for (folder, uses) in uses(files) {
        let folder = folder.join("/");
        for circle in circles(&uses) {
            let names: Vec<&str> = circle.iter().map(String::as_str).collect();
            found.push(format!("{folder}:1: a circle of files: {}", names.join(", ")));
        }
    }
    found
}

fn uses(files: &Files) -> Uses {
    let modules: BTreeSet<Module> = files.keys().filter_map(|path| module_of(path)).collect();
    let mut uses = Uses::new();
    for (path, text) in files {
        let Some(from) = module_of(path).filter(|_| !path.ends_with("/tests.rs")) else { continue };
        let is_root = from.len() == 1;
        for to in paths_in(text).iter().filter_map(|used| resolve(&from, used, &modules)) {
            let shared = from.iter().zip(&to).take_while(|(own, other)| own == other).count();
            if !is_root && shared < from.len() && shared < to.len() {
                let folder = uses.entry(from[..shared].to_vec()).or_default();
                folder.entry(from[shared].clone()).or_default().insert(to[shared].clone());
            }
        }
    }
    uses
}

fn module_of(path: &str) -> Option<Module> {
    let root =
        ["bench/src", "src"].into_iter().find(|root| path.starts_with(&format!("{root}/")))?;
    let inner = path[root.len() + 1..].strip_suffix(".rs")?;
    let mut module = vec![root.to_owned()];
    module.extend(inner.split('/').map(str::to_owned));
    if ["mod", "lib", "main"].iter().any(|root| module.last().is_some_and(|last| last == root)) {
        module.pop();
    }
    Some(module)
}

/// Returns the file that a path leads to: the longest part of it that is a module.
fn resolve(from: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut full = from.clone();
    let mut names = path.iter().peekable();
    match names.next()?.as_str() {
        "crate" => full.truncate(1),
        "super" => drop(full.pop()),
        _ => {}
    }
    while names.next_if(|name| *name == "super").is_some() {
        full.pop();
    }
    full.extend(names.cloned());
    while full.len() > 1 && !modules.contains(&full) {
        full.pop();
    }
    (full.len() > 1).then_some(full)
}

/// Returns all paths that begin with `crate`, `super` or `self`, those in braces one by one, except
/// those below `#[cfg(test)]`.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (_, line) in code_of(text) {
        if is_test && line.contains("mod ") && line.trim_end().ends_with('{') {
            break;
        }
        is_test = line.trim() == "#[cfg(test)]";
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in line.match_indices(start) {
                let before = &line[..at];
                let goes_on = before.ends_with(|char: char| char.is_alphanumeric() || char == '_');
                if !goes_on && !before.ends_with("::") {
                    expand(&line[at..], Vec::new(), &mut found);
                }
            }
        }
    }
    found
}

/// Adds the paths of a use tree after `leading`; returns the text after the tree.
fn expand<'a>(tree: &'a str, mut leading: Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = tree.trim_start();
    loop {
        let name = first_word(rest);
        rest = &rest[name.len()..];
        if !name.is_empty() {
            leading.push(name);
        }
        match rest.strip_prefix("::") {
            Some(behind) => rest = behind.trim_start(),
            None => break,
        }
        if let Some(group) = rest.strip_prefix('{') {
            rest = group;
            while !rest.trim_start().is_empty() && !rest.trim_start().starts_with('}') {
                rest = expand(rest, leading.clone(), found).trim_start();
                // After a name: `as other`, or `*`.
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
            }
            return rest.trim_start().strip_prefix('}').unwrap_or("");
        }
        if rest.starts_with('*') {
            break;
        }
    }
    found.push(leading);
    rest
}

/// Returns the sets of files that reach each other.
fn circles(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<BTreeSet<String>> {
    let reach = |start: &String| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = uses.get(start).into_iter().flatten().collect();
        while let Some(name) = next.pop() {
            if reached.insert(name.clone()) {
                next.extend(uses.get(name).into_iter().flatten());
            }
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().map(|name| (name, reach(name))).collect();
    let in_circle = reached.iter().filter(|(name, reached)| reached.contains(**name));
    let circle_of = |(name, others): (&&String, &BTreeSet<String>)| {
        let back = |other: &&String| reached.get(other).is_some_and(|more| more.contains(*name));
        others.iter().filter(back).cloned().collect()
    };
    in_circle.map(circle_of).collect()
}

#[test]
fn a_circle_of_files_is_found() {
    let house = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        let mut all: Files = files.collect();
        for name in ["a", "b", "c", "mod"] {
            all.entry(format!("src/net/{name}.rs")).or_default();
        }
        check(&all)
    };
    let circle = |names: &str| vec![format!("src/net:1: a circle of files: {names}")];
    let (a, b) = ("src/net/a.rs", "src/net/b.rs");
    assert_eq!(house(&[(a, "use super::b::B;"), (b, "use crate::net::a;")]), circle("a, b"));
    assert_eq!(
        house(&[(a, "use super::{c, b::{self, B}};"), (b, "fn f() -> super::a::A {}")]),
        circle("a, b")
    );
    let three = [
        (a, "use super::b;"),
        (b, "use super::c;"),
        ("src/net/c.rs", "use super::{\n    X,\n    a::Y,\n};"),
    ];
    assert_eq!(house(&three), circle("a, b, c"));
    // From the folder of a file, too.
    let deep = [("src/net/a/deep.rs", "use super::super::b;"), (b, "use crate::net::a::A;")];
    assert_eq!(house(&deep), circle("a, b"));
    // The folder's own file is above all of them, and so is a file for those in its folder.
    let above = [
        ("src/net/mod.rs", "use a::A; pub use self::b::B;"),
        (a, "use super::B;"),
        (b, "use crate::net::C;"),
    ];
    assert!(house(&above).is_empty());
    assert!(house(&[("src/net/a/deep.rs", "use super::A;"), (a, "use self::deep::D;")]).is_empty());
    // Tests, and words that only look like paths.
    let tests = "//! `super::a`\nconst T: &str = \"super::a\";\n#[cfg(test)]\nmod tests {\n    use crate::net::a;\n}\n";
    assert!(
        house(&[(a, "use super::b;"), (b, tests), ("src/net/b/tests.rs", "use super::super::a;")])
            .is_empty()
    );
}
