//! Writes the folder of a result: JSON, CSV, histogram logs, report.

use crate::Failure;
use crate::output::document::Document;
use crate::output::{hlog, html};
use std::path::Path;

/// Makes a folder.
///
/// # Errors
/// If it does not exist and cannot be made.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write to {}: {error}", folder.display()))
}

/// Writes a text to a file.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| unwritable(file, &error))
}

/// Writes all files of a document to `folder`, which is made if necessary.
///
/// # Errors
/// If a file cannot be written.
pub fn write(document: &Document, folder: &Path) -> Result<(), Failure> {
    make_folder(folder)?;
    let explain = |error: std::io::Error| unwritable(folder, &error);
    std::fs::write(folder.join("result.json"), document.to_json()).map_err(explain)?;
    std::fs::write(folder.join("result.csv"), document.to_csv()).map_err(explain)?;
    for (name, content) in hlog::logs(document)? {
        std::fs::write(folder.join(name), content).map_err(explain)?;
    }
    std::fs::write(folder.join("report.html"), html::render(document)?).map_err(explain)?;
    Ok(())
}
