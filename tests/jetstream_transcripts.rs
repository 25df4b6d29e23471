//! Conversations with JetStream, recorded from a real nats-server and replayed.
//!
//! `cargo test --test jetstream_transcripts` replays all of `tests/transcripts/jetstream/*.txt` on
//! one shard and on three. `NATS_SERVER=path` replays them against that server instead, and
//! `UPDATE_GOLDEN=1` with it records its answers. `TRANSCRIPT=name` selects conversations whose
//! name contains that text. The format is described in `transcripts/jetstream/format.rs`.
//!
//! `waiting.list` names the conversations that Midge does not hold yet, each with its reason; one
//! that holds nevertheless fails the test, so that the list stays true.

mod support;

#[path = "transcripts/jetstream/format.rs"]
mod format;
#[path = "transcripts/jetstream/masks.rs"]
mod masks;
#[path = "transcripts/jetstream/talking.rs"]
mod talking;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use format::Talk;
use support::WAIT_MAX;
use talking::{Answers, Host, Talking};

/// Conversations that share one server, one after the other.
const TALKS_PER_SERVER: usize = 25;
/// Number of servers that run at the same time.
const WORKERS: usize = 4;
/// The wait for anything in a conversation that is on the list of those that wait.
const IMPATIENT: Duration = Duration::from_secs(1);

const CONFIG_DEFAULT: &str =
    "jetstream { store_dir: \"DIRECTORY/js\", max_mem: 64MB, max_file: 256MB }";

struct File {
    path: PathBuf,
    lines: Vec<String>,
    talks: Vec<Talk>,
}

/// Conversations that share a server of one kind.
struct Job<'a> {
    program: PathBuf,
    arguments: Vec<&'static str>,
    label: &'static str,
    config: String,
    talks: Vec<(usize, &'a Talk)>,
}

/// New lines in place of those of a step.
struct Recorded {
    file_index: usize,
    lines: std::ops::Range<usize>,
    text: Vec<String>,
}

#[test]
fn conversations_with_jetstream_hold() {
    let filter = std::env::var("TRANSCRIPT").unwrap_or_default();
    let original = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let records = original.is_some() && std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files = read_files();
    let waiting = if original.is_some() { BTreeMap::new() } else { read_waiting() };
    let jobs = Mutex::new(jobs(&files, &filter, original.as_deref(), &waiting));
    let failures = Mutex::new(Vec::new());
    let recordings = Mutex::new(Vec::new());
    let held = Mutex::new(BTreeSet::new());
    let broken = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(job) = jobs.lock().unwrap().pop() else { break };
                    for (file_index, talk, outcome) in work(&job, records, &waiting) {
                        match outcome {
                            Ok(recorded) => {
                                held.lock().unwrap().insert(talk.name.clone());
                                let mut recordings = recordings.lock().unwrap();
                                recordings.extend(
                                    recorded.into_iter().map(|(lines, text)| Recorded {
                                        file_index,
                                        lines,
                                        text,
                                    }),
                                );
                            }
                            Err(problem) => {
                                broken.lock().unwrap().insert(talk.name.clone());
                                if !waiting.contains_key(&talk.name) {
                                    let name = &talk.name;
                                    let text = format!("{name}, {}\n  {problem}", job.label);
                                    failures.lock().unwrap().push(text);
                                }
                            }
                        }
                    }
                }
            });
        }
    });
    if records {
        let mut recordings = recordings.into_inner().unwrap();
        recordings.sort_by_key(|recorded| (recorded.file_index, recorded.lines.start));
        // From the end, so that earlier indexes stay true.
        for recorded in recordings.into_iter().rev() {
            files[recorded.file_index].lines.splice(recorded.lines, recorded.text);
        }
        for file in &files {
            std::fs::write(&file.path, file.lines.join("\n") + "\n").expect("files can be written");
        }
    }
    let mut failures = failures.into_inner().unwrap();
    let broken = broken.into_inner().unwrap();
    let held = held.into_inner().unwrap();
    for name in waiting.keys().filter(|name| held.contains(*name) && !broken.contains(*name)) {
        failures.push(format!("{name} holds: take it out of waiting.list"));
    }
    failures.sort();
    println!("{} held, {} wait", held.difference(&broken).count(), waiting.len());
    assert!(failures.is_empty(), "{} failed\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn conversations_with_jetstream_are_many_and_recorded() {
    let mut names = BTreeSet::new();
    for file in read_files() {
        for talk in file.talks {
            assert!(names.insert(talk.name.clone()), "two are called {}", talk.name);
            let answers = talk.steps.iter().map(|step| step.expected.len()).sum::<usize>();
            assert!(answers > 0, "{} is not recorded", talk.name);
        }
    }
    for (name, reason) in read_waiting() {
        assert!(names.contains(&name), "no conversation is called {name}");
        assert!(!reason.is_empty(), "{name} waits for no reason");
    }
    assert!(names.len() >= 100, "only {} conversations", names.len());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts/jetstream")
}

fn read_files() -> Vec<File> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a folder entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("conversations are text");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let talks = format::parse(&lines).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        File { path, lines, talks }
    };
    paths.into_iter().map(read).collect()
}

/// Names of conversations that wait, with reasons: `name: reason`.
fn read_waiting() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder().join("waiting.list")).expect("it is there");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (name, reason) = line.split_once(": ").unwrap_or((line, ""));
        (name.to_owned(), reason.trim().to_owned())
    };
    lines.map(split).collect()
}

fn jobs<'a>(
    files: &'a [File],
    filter: &str,
    original: Option<&Path>,
    waiting: &BTreeMap<String, String>,
) -> Vec<Job<'a>> {
    let mut groups: BTreeMap<String, Vec<(usize, &Talk)>> = BTreeMap::new();
    for (file_index, file) in files.iter().enumerate() {
        for talk in file.talks.iter().filter(|talk| talk.name.contains(filter)) {
            let config = match talk.config.is_empty() {
                true => CONFIG_DEFAULT.to_owned(),
                false => talk.config.join("\n"),
            };
            groups.entry(config).or_default().push((file_index, talk));
        }
    }
    let midge = PathBuf::from(env!("CARGO_BIN_EXE_midge"));
    let targets: Vec<(PathBuf, Vec<&str>, &str)> = match original {
        Some(program) => vec![(program.to_owned(), Vec::new(), "nats-server")],
        None => ["1", "3"]
            .map(|shards| {
                let label = if shards == "1" { "on one shard" } else { "on three shards" };
                (midge.clone(), vec!["--no-pin", "--shards", shards], label)
            })
            .into(),
    };
    let mut jobs = Vec::new();
    for (program, arguments, label) in targets {
        for (config, talks) in &groups {
            // One shard is enough for conversations that wait.
            let is_here =
                |talk: &Talk| arguments.last() != Some(&"3") || !waiting.contains_key(&talk.name);
            let talks: Vec<_> = talks.iter().copied().filter(|(_, talk)| is_here(talk)).collect();
            // nats-server may find messages of a deleted stream in a new one of its name.
            let size = if original.is_some() { 1 } else { TALKS_PER_SERVER };
            for chunk in talks.chunks(size) {
                jobs.push(Job {
                    program: program.clone(),
                    arguments: arguments.clone(),
                    label,
                    config: config.clone(),
                    talks: chunk.to_vec(),
                });
            }
        }
    }
    jobs
}

type Outcome<'a> = (usize, &'a Talk, Result<Answers, String>);

fn work<'a>(job: &Job<'a>, records: bool, waiting: &BTreeMap<String, String>) -> Vec<Outcome<'a>> {
    let mut host = None;
    let mut outcomes = Vec::new();
    for &(file_index, talk) in &job.talks {
        if host.is_none() {
            match Host::start(&job.program, &job.arguments, &job.config) {
                Ok(started) => host = Some(started),
                Err(problem) => {
                    outcomes.push((file_index, talk, Err(problem)));
                    continue;
                }
            }
        }
        let running = host.as_mut().expect("it was started");
        let is_waiting = waiting.contains_key(&talk.name);
        let patience = if is_waiting { IMPATIENT } else { WAIT_MAX };
        let outcome = Talking::hold(running, talk, records, patience);
        // Whatever state a failure left behind must not fail the next one.
        if outcome.is_err() {
            host = None;
        }
        outcomes.push((file_index, talk, outcome));
    }
    outcomes
}
