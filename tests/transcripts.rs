//! Golden conversations, recorded from a real nats-server and replayed byte for byte.
//!
//! `cargo test --test transcripts` replays all of `tests/transcripts/*.txt` against Midge on one
//! shard, on three, and on two where each client moves from one to the other. `NATS_SERVER=path`
//! replays them against that server instead, and `UPDATE_GOLDEN=1` with it records its answers into
//! the files. `TRANSCRIPT=name` selects only conversations whose name contains that text. Each
//! conversation is replayed as written, merged into few writes, one byte per write, and cut in two
//! at every byte boundary: at every fourth or eighth on several shards, at chosen ones where the
//! input is long, and a CONNECT with which many conversations start is cut in one of them. The
//! format is described in `transcripts/format.rs`.

mod support;

#[path = "transcripts/format.rs"]
mod format;
#[path = "transcripts/lines.rs"]
mod lines;
#[path = "transcripts/replay.rs"]
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use format::{Action, Conversation, Expected, TranscriptFile};
use replay::{Cut, Pulse, Recorded, Replay};
use support::server::Server;

/// Inputs up to this many bytes are cut at every boundary.
const CUT_EVERYWHERE_BYTES_MAX: usize = 160;
/// Longer inputs are cut at this many boundaries.
const CUTS_OF_LONG_INPUT: usize = 40;
/// Inputs up to this many bytes are also sent byte by byte.
const EVERY_BYTE_BYTES_MAX: usize = 1024;
/// Longer inputs are only replayed as written: they are about amounts.
const CUT_BYTES_MAX: usize = 256 * 1024;
/// Conversations that share one server, one after the other.
const CONVERSATIONS_PER_SERVER: usize = 10;
/// Number of servers that run at the same time.
const WORKERS: usize = 8;

/// A server program and how it is started.
struct Target {
    label: String,
    program: PathBuf,
    arguments: Vec<&'static str>,
    /// True for a real nats-server: some of its answers depend on how the input is cut.
    is_original: bool,
    /// Distance, in byte boundaries, between two cuts.
    cut_stride: usize,
}

/// How a server is configured.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Setup {
    config: String,
    file: Option<String>,
    flags: Vec<String>,
}

/// Conversations for one server.
struct Job<'a> {
    setup: Setup,
    alone: bool,
    conversations: Vec<(usize, &'a Conversation)>,
}

#[test]
fn conversations_hold() {
    let filter = std::env::var("TRANSCRIPT").unwrap_or_default();
    let mut files = read_files();
    let recording = std::env::var_os("UPDATE_GOLDEN").is_some();
    let targets = targets();
    if recording {
        assert!(std::env::var_os("NATS_SERVER").is_some(), "UPDATE_GOLDEN wants NATS_SERVER");
        record(&mut files, &targets[0], &filter);
        return;
    }

    let failures = Mutex::new(Vec::new());
    let mut all = Vec::new();
    for target in &targets {
        all.extend(jobs(&files, &filter).into_iter().map(|job| (target, job)));
    }
    // Taken from the end: conversations that need a server of their own mostly wait for time to
    // pass.
    all.sort_by_key(|(_, job)| job.alone);
    let all = Mutex::new(all);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some((target, job)) = all.lock().unwrap().pop() else { break };
                    let failed = work(target, &job, &files);
                    failures.lock().unwrap().extend(failed);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} conversations failed\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

#[test]
fn there_are_enough_conversations_and_each_has_its_own_name() {
    let mut seen = BTreeMap::new();
    for file in read_files() {
        for conversation in file.conversations {
            let other = seen.insert(conversation.name.clone(), file.path.clone());
            assert!(other.is_none(), "two conversations are called {}", conversation.name);
            let compares = conversation.steps.iter().map(compares_something);
            let compares: Vec<bool> = compares.flatten().collect();
            assert!(compares.contains(&true), "{} compares nothing", conversation.name);
            assert!(!compares.contains(&false), "{} is not recorded", conversation.name);
        }
    }
    assert!(seen.len() >= 120, "only {} conversations", seen.len());
}

/// None for a step without an expectation, Some(false) for one whose answer is still to be
/// recorded.
fn compares_something(step: &format::Step) -> Option<bool> {
    match &step.action {
        Action::Receive { expected, .. } => Some(expected.iter().all(|one| match one {
            Expected::Bytes(pattern) => pattern.size() > 0,
            Expected::Unordered(_) | Expected::Info(_) => true,
        })),
        Action::Closed { reason, .. } | Action::Leave { reason, .. } => Some(!reason.is_empty()),
        Action::Until { expected, .. } => Some(expected.size() > 0),
        _ => None,
    }
}

#[test]
fn what_is_escaped_reads_back_the_same() {
    let all: Vec<u8> = (0..=255).chain([b'a'; 100]).chain([b'{'; 30]).chain([0; 50]).collect();
    assert_eq!(format::unescape(&format::escape(&all)).unwrap(), all);
    let nested = format::unescape("\\*2{a\\*3{b}\\r}c").unwrap();
    assert_eq!(nested, b"abbb\rabbb\rc");
    let choice = format::Pattern::parse("MSG \\(1|2) x").unwrap();
    assert!(choice.starts_like(b"MSG 2 x"));
    assert!(!choice.starts_like(b"MSG 3"));
}

fn targets() -> Vec<Target> {
    if let Some(program) = std::env::var_os("NATS_SERVER") {
        return vec![Target {
            label: "nats-server".into(),
            program: program.into(),
            arguments: Vec::new(),
            is_original: true,
            cut_stride: 1,
        }];
    }
    // How a parser takes cut input does not depend on other shards: on several a sample is enough.
    // On two every client goes to the other one at its first subscription or message.
    let (hash, moves) = (&[][..], &["--balance", "next-shard"][..]);
    [("1", hash, 1), ("3", hash, 4), ("2", moves, 8)]
        .map(|(shards, balance, cut_stride)| Target {
            label: format!("midge --shards {shards} {}", balance.join(" ")),
            program: env!("CARGO_BIN_EXE_midge").into(),
            arguments: [&["--no-pin", "--shards", shards], balance].concat(),
            is_original: false,
            cut_stride,
        })
        .into()
}

fn read_files() -> Vec<TranscriptFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a folder entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| TranscriptFile::read(path).unwrap_or_else(|problem| panic!("{problem}")))
        .collect()
}

/// Conversations with the same options share servers; one that must be alone has its own.
fn jobs<'a>(files: &'a [TranscriptFile], filter: &str) -> Vec<Job<'a>> {
    let mut shared: BTreeMap<Setup, Vec<(usize, &Conversation)>> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (file_index, file) in files.iter().enumerate() {
        for conversation in &file.conversations {
            let is_original = std::env::var_os("NATS_SERVER").is_some();
            if !conversation.name.contains(filter) || (conversation.ours && is_original) {
                continue;
            }
            let setup = Setup {
                config: conversation.config.join("\n"),
                file: conversation.file.clone(),
                flags: conversation.flags.clone(),
            };
            if conversation.alone {
                let conversations = vec![(file_index, conversation)];
                jobs.push(Job { setup, alone: true, conversations });
            } else {
                shared.entry(setup).or_default().push((file_index, conversation));
            }
        }
    }
    for (setup, conversations) in shared {
        for chunk in conversations.chunks(CONVERSATIONS_PER_SERVER) {
            jobs.push(Job { setup: setup.clone(), alone: false, conversations: chunk.to_vec() });
        }
    }
    jobs
}

fn start(target: &Target, setup: &Setup) -> Result<Server, String> {
    let mut arguments = target.arguments.clone();
    arguments.extend(setup.flags.iter().map(String::as_str));
    match &setup.file {
        Some(name) => {
            // What connections end of is in the debug log.
            arguments.push("-D");
            let path = format!("{}/tests/config/{name}.conf", env!("CARGO_MANIFEST_DIR"));
            Server::start_file(&target.program, &arguments, Path::new(&path))
        }
        None => {
            let config = format!("debug: true\n{}", setup.config);
            Server::start(&target.program, &arguments, &config)
        }
    }
}

/// Plays all of a job; one failure per conversation is enough.
fn work(target: &Target, job: &Job, files: &[TranscriptFile]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut server = None;
    for (file_index, conversation) in &job.conversations {
        let mut outcome = Ok(());
        if server.is_none() {
            match start(target, &job.setup) {
                Ok(started) => server = Some(started),
                Err(problem) => outcome = Err((Cut::AsWritten, problem)),
            }
        }
        if let Some(server) = &server {
            outcome = play_all_cuts(target, server, conversation);
        }
        if let Err((cut, problem)) = outcome {
            let name = &conversation.name;
            let path = files[*file_index].path.file_name().expect("it was read").to_string_lossy();
            failures.push(format!(
                "{name} (tests/transcripts/{path}), {label}, {cut:?}\n  {problem}\n  \
                 again: TRANSCRIPT={name} cargo test --test transcripts",
                label = target.label,
            ));
            // Whatever state the failure left behind must not fail the next one.
            server = None;
        }
    }
    failures
}

fn play_all_cuts(
    target: &Target,
    server: &Server,
    conversation: &Conversation,
) -> Result<(), (Cut, String)> {
    let play = |pulse: Option<&mut Pulse>, cut| {
        Replay::run(server, pulse, conversation, cut).map_err(|problem| (cut, problem))
    };
    play(None, Cut::AsWritten)?;
    let size = input_size(conversation);
    if conversation.alone || (conversation.quirk && target.is_original) || size > CUT_BYTES_MAX {
        return Ok(());
    }
    // Nothing may be sent before the answer to an upgrade.
    if !conversation.web {
        play(None, Cut::Merged)?;
    }
    if size <= EVERY_BYTE_BYTES_MAX {
        play(None, Cut::EveryByte)?;
    }
    let mut pulse = Pulse::start(server)
        .map_err(|e| (Cut::After(0), format!("the pulse cannot connect: {e}")))?;
    // A first CONNECT that another conversation sends as well is cut there.
    let greeting_size = greeting_cut_before(target, conversation);
    for boundary in boundaries(conversation, size).into_iter().step_by(target.cut_stride) {
        if boundary < greeting_size {
            continue;
        }
        play(Some(&mut pulse), Cut::After(boundary))?;
    }
    pulse.end();
    Ok(())
}

/// Size of the CONNECT line at the start, where an equal one was cut before on this target; else 0.
fn greeting_cut_before(target: &Target, conversation: &Conversation) -> usize {
    static SEEN: Mutex<BTreeSet<Vec<u8>>> = Mutex::new(BTreeSet::new());
    let first = conversation.steps.iter().find_map(|step| match &step.action {
        Action::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    let line = first.and_then(|bytes| bytes.split_inclusive(|byte| *byte == b'\n').next());
    let Some(line) = line.filter(|line| line.starts_with(b"CONNECT ") && line.ends_with(b"\r\n"))
    else {
        return 0;
    };
    let mut key = target.label.clone().into_bytes();
    key.extend_from_slice(conversation.config.join(" ").as_bytes());
    key.extend_from_slice(conversation.file.as_deref().unwrap_or_default().as_bytes());
    key.extend_from_slice(line);
    if SEEN.lock().unwrap().insert(key) { 0 } else { line.len() }
}

fn input_size(conversation: &Conversation) -> usize {
    conversation
        .steps
        .iter()
        .map(|step| match &step.action {
            Action::Send { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum()
}

/// Where to cut: everywhere, or at places drawn from the conversation's name, the same ones every
/// time.
fn boundaries(conversation: &Conversation, size: usize) -> Vec<usize> {
    if size <= CUT_EVERYWHERE_BYTES_MAX {
        return (1..size).collect();
    }
    let seed =
        conversation.name.bytes().fold(0_u64, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte));
    let mut random = fastrand::Rng::with_seed(seed);
    (0..CUTS_OF_LONG_INPUT).map(|_| random.usize(1..size)).collect()
}

/// Replaces, in the files, what the server answers differently now.
fn record(files: &mut [TranscriptFile], target: &Target, filter: &str) {
    let mut changes: Vec<(usize, Recorded)> = Vec::new();
    let results = Mutex::new(Vec::new());
    let jobs = Mutex::new(jobs(files, filter));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(job) = jobs.lock().unwrap().pop() else { break };
                    for (file_index, conversation) in &job.conversations {
                        let outcome = start(target, &job.setup)
                            .and_then(|server| Replay::record(&server, conversation));
                        results.lock().unwrap().push((*file_index, &conversation.name, outcome));
                    }
                }
            });
        }
    });
    let mut failures = Vec::new();
    for (file_index, name, outcome) in results.into_inner().unwrap() {
        match outcome {
            Ok(recorded) => changes.extend(recorded.into_iter().map(|one| (file_index, one))),
            Err(problem) => failures.push(format!("{name}: {problem}")),
        }
    }
    // From the end, so that earlier indexes stay true.
    changes.sort_by_key(|(file_index, recorded)| (*file_index, recorded.lines.start));
    for (file_index, recorded) in changes.into_iter().rev() {
        files[file_index].lines.splice(recorded.lines, recorded.text);
    }
    for file in files.iter() {
        let text = file.lines.join("\n") + "\n";
        std::fs::write(&file.path, text).expect("the transcripts can be written");
    }
    assert!(failures.is_empty(), "not recorded:\n{}", failures.join("\n"));
}
