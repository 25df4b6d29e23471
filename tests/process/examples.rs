//! The configurations of `examples`, each started.

use std::path::Path;

use super::{MIDGE, Server};

/// The passwords of examples are to be replaced.
const EXPECTED: &str = "Plaintext passwords detected";

#[test]
fn every_example_starts_without_another_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut started = 0;
    let files = std::fs::read_dir(&folder).expect("the folder can be read");
    let files = files.map(|entry| entry.expect("the folder can be read").path());
    for file in files.filter(|file| file.extension().is_some_and(|ending| ending == "conf")) {
        let ports = ["-a", "127.0.0.1", "-p", "-1", "-m", "-1"];
        let server = Server::start_file(Path::new(MIDGE), &ports, &file);
        let server = server.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let lines = server.log().lines();
        let is_complaint = |line: &&String| line.contains("[WRN]") && !line.contains(EXPECTED);
        let complaints: Vec<&String> = lines.iter().filter(is_complaint).collect();
        assert_eq!(complaints, Vec::<&String>::new(), "{}", file.display());
        started += 1;
    }
    assert!(started >= 4, "{started}");
}
