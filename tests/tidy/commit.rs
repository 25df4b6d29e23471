//! The build script finds the commit of a clone, and none elsewhere.

use std::path::Path;
use std::process::Command;

#[path = "../../build.rs"]
#[allow(dead_code, reason = "its main runs before a build")]
mod build_script;

#[test]
fn only_a_clone_has_a_commit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Below the repository, but not its root.
    assert_eq!(build_script::commit_of(&root.join("src")), None);
    assert_eq!(build_script::commit_of(Path::new("/nonexistent")), None);
    let said = Command::new("git").arg("-C").arg(root).args(["rev-parse", "HEAD"]).output();
    let Some(said) = said.ok().filter(|said| said.status.success()) else {
        println!("no clone, or no git");
        return;
    };
    let whole = String::from_utf8(said.stdout).unwrap();
    let commit = build_script::commit_of(root).expect("a clone has a commit");
    assert!(commit.len() >= 7 && whole.starts_with(&commit), "{commit} of {whole}");
}
