//! Records the commit in a release that is built from a clone. A tarball or a vendored copy has
//! none.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Developers build after each commit, and the whole crate would be rebuilt each time.
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return;
    }
    let Some(root) = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from) else { return };
    let Some(commit) = commit_of(&root) else { return };
    println!("cargo::rustc-env=MIDGE_COMMIT={commit}");
    // Cargo would rebuild each time for a file that does not exist. The log of HEAD changes with
    // each commit, HEAD itself only with the branch.
    let files = ["HEAD", "logs/HEAD"].map(|name| git(&root, &["rev-parse", "--git-path", name]));
    for path in files.into_iter().flatten().map(|path| root.join(path)).filter(|path| path.exists())
    {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// Returns the commit of the clone whose root this is. Sources copied below another repository are
/// no part of it.
pub fn commit_of(root: &Path) -> Option<String> {
    if !root.join(".git").exists() {
        return None;
    }
    let commit = git(root, &["rev-parse", "--short=7", "HEAD"])?;
    commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(commit)
}

/// Returns what git prints; None if there is no git or it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
