//! Holds one conversation with a server.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::format::{Parts, Step, Talk, parts};
use crate::masks::mask;
use crate::support::WAIT_MAX;
use crate::support::raw_client::{Fill, RawClient};
use crate::support::server::{Directory, Server};

/// While recording: the time without messages after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(400);
/// While recording: the time after which a state is final.
const SETTLED: Duration = Duration::from_millis(2500);

/// What came in place of what lines of the file say.
pub type Answers = Vec<(Range<usize>, Vec<String>)>;

/// A server that can be started again over the same files.
pub struct Host {
    program: PathBuf,
    arguments: Vec<&'static str>,
    directory: Directory,
    server: Option<Server>,
}

impl Host {
    /// Starts a server.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start(program: &Path, arguments: &[&'static str], config: &str) -> Result<Self, String> {
        let directory = Directory::new()?;
        let place = directory.display().to_string();
        let config = config.replace("DIRECTORY", &place);
        let text = format!("listen: \"127.0.0.1:-1\"\nserver_name: HOST\n{config}\n");
        std::fs::write(directory.join("server.conf"), text).map_err(|e| e.to_string())?;
        let mut host = Self {
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            directory,
            server: None,
        };
        host.run()?;
        Ok(host)
    }

    fn run(&mut self) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.directory.join("server.conf")).args(&self.arguments);
        self.server = Some(Server::start_command(command, Directory::new()?)?);
        Ok(())
    }

    fn restart(&mut self, in_good_order: bool) -> Result<(), String> {
        if let Some(mut server) = self.server.take() {
            server.signal(if in_good_order { Signal::TERM } else { Signal::KILL })?;
            server.wait_for_exit(WAIT_MAX).ok_or("the server does not end")?;
        }
        self.run()
    }

    fn address(&self) -> std::net::SocketAddr {
        self.server.as_ref().expect("it runs").address()
    }
}

/// A message that came.
struct Came {
    sid: usize,
    subject: String,
    reply: String,
    headers: String,
    payload: String,
}

/// A connection for requests, and one for each name.
pub struct Talking<'a> {
    host: &'a mut Host,
    user: Option<&'a str>,
    /// The longest wait for anything.
    patience: Duration,
    main: Option<Line>,
    named: BTreeMap<String, Line>,
    /// Replies of the last message taken, by name.
    replies: BTreeMap<String, String>,
    recorded: Option<Answers>,
}

/// A connection with its inbox.
struct Line {
    patience: Duration,
    raw: RawClient,
    inbox: String,
    count: usize,
    waiting: Vec<Came>,
}

impl Line {
    fn open(
        address: std::net::SocketAddr,
        user: Option<&str>,
        tag: &str,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut raw = RawClient::connect(address).map_err(|e| e.to_string())?;
        raw.take_line(Instant::now() + WAIT_MAX).ok_or("no INFO")?;
        let login =
            user.map_or(String::new(), |user| format!(",\"user\":\"{user}\",\"pass\":\"{user}\""));
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true{login}}}\r\n"
        );
        let inbox = format!("_INBOX.{tag}");
        let sub = format!("{hello}SUB {inbox}.> 1\r\nPING\r\n");
        raw.send(sub.as_bytes()).map_err(|e| e.to_string())?;
        let mut line = Self { patience, raw, inbox, count: 0, waiting: Vec::new() };
        line.flushed()?;
        Ok(line)
    }

    /// Waits for the PONG of a PING that was sent.
    fn flushed(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match self.next_line(deadline)? {
                Some(came) => self.waiting.push(came),
                None => return Ok(()),
            }
        }
    }

    /// The next message, or None for a PONG.
    fn next_line(&mut self, deadline: Instant) -> Result<Option<Came>, String> {
        loop {
            let line = self.raw.take_line(deadline).ok_or("silence")?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if text == "PONG" {
                return Ok(None);
            }
            if text == "PING" {
                self.raw.send(b"PONG\r\n").map_err(|e| e.to_string())?;
                continue;
            }
            if text.starts_with("INFO") {
                continue;
            }
            let words: Vec<&str> = text.split(' ').collect();
            let sizes = match words[0] {
                "MSG" => 1,
                "HMSG" => 2,
                _ => return Err(format!("unexpected {text}")),
            };
            let number = |word: &str| word.parse::<usize>().map_err(|_| format!("bad {text}"));
            let total = number(words[words.len() - 1])?;
            let head = if sizes == 2 { number(words[words.len() - 2])? } else { 0 };
            let reply = if words.len() == 4 + sizes { words[3] } else { "" };
            let bytes = self.take_bytes(total + 2, deadline)?;
            return Ok(Some(Came {
                sid: number(words[2])?,
                subject: words[1].into(),
                reply: reply.into(),
                headers: readable(&bytes[..head]),
                payload: readable(&bytes[head..total]),
            }));
        }
    }

    fn take_bytes(&mut self, size: usize, deadline: Instant) -> Result<Vec<u8>, String> {
        while self.raw.unread().len() < size {
            if self.raw.fill(deadline) != Fill::Grown {
                return Err("a message is cut off".into());
            }
        }
        let bytes = self.raw.unread()[..size].to_vec();
        self.raw.consume(size);
        Ok(bytes)
    }

    fn next(&mut self, deadline: Instant) -> Option<Came> {
        if !self.waiting.is_empty() {
            return Some(self.waiting.remove(0));
        }
        loop {
            match self.next_line(deadline) {
                Ok(Some(came)) => return Some(came),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }

    fn publish(&mut self, subject: &str, reply: &str, parts: &Parts<'_>) -> Result<(), String> {
        let body = unreadable(parts.body);
        let reply = if reply.is_empty() { String::new() } else { format!("{reply} ") };
        let mut bytes = if parts.headers.is_empty() {
            format!("PUB {subject} {reply}{}\r\n", body.len()).into_bytes()
        } else {
            let block = format!("NATS/1.0\r\n{}\r\n\r\n", parts.headers.join("\r\n"));
            let total = block.len() + body.len();
            format!("HPUB {subject} {reply}{} {total}\r\n{block}", block.len()).into_bytes()
        };
        bytes.extend(body);
        bytes.extend(b"\r\n");
        self.raw.send(&bytes).map_err(|e| e.to_string())
    }

    fn request(&mut self, subject: &str, parts: &Parts<'_>) -> Result<String, String> {
        self.count += 1;
        let reply = format!("{}.{}", self.inbox, self.count);
        self.publish(subject, &reply, parts)?;
        let deadline = Instant::now() + self.patience;
        loop {
            let came = self.next(deadline).ok_or_else(|| format!("{subject}: no answer"))?;
            if came.subject == reply {
                return Ok(answer_text(&came));
            }
        }
    }
}

fn answer_text(came: &Came) -> String {
    match came.headers.is_empty() {
        true => came.payload.clone(),
        false => format!("{} = {}", header_text(&came.headers), came.payload),
    }
}

/// Status line and headers, sorted: servers may add theirs in another order.
fn header_text(block: &str) -> String {
    let mut lines = block.trim_end_matches("\\n").split("\\n");
    let status = lines.next().unwrap_or("").trim_start_matches("NATS/1.0").trim().to_owned();
    let mut headers: Vec<&str> = lines.collect();
    headers.sort_unstable();
    let all = std::iter::once(status.as_str()).chain(headers);
    all.map(|text| format!("| {text}")).collect::<Vec<_>>().join(" ")
}

fn message_text(came: &Came, inbox: &str) -> String {
    let subject = if came.subject.starts_with(inbox) { "INBOX" } else { &came.subject };
    let reply = if came.reply.is_empty() { String::new() } else { format!(" -> {}", came.reply) };
    format!("{subject}{reply} {}", answer_text(came))
}

fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\r' => {}
                '\n' => text.push_str("\\n"),
                '\\' => text.push_str("\\\\"),
                other if other < ' ' => text.push_str(&format!("\\x{:02x}", other as u32)),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// `N*x` repeats a letter, to make long bodies.
fn unreadable(text: &str) -> Vec<u8> {
    if let Some((count, what)) = text.split_once('*')
        && let Ok(count) = count.parse::<usize>()
    {
        return what.repeat(count).into_bytes();
    }
    text.replace("\\n", "\r\n").into_bytes()
}

impl<'a> Talking<'a> {
    /// Holds a conversation and returns what is to be recorded.
    ///
    /// # Errors
    /// Where the server deviates.
    pub fn hold(
        host: &'a mut Host,
        talk: &'a Talk,
        records: bool,
        patience: Duration,
    ) -> Result<Answers, String> {
        let mut talking = Self {
            host,
            user: talk.user.as_deref(),
            patience,
            main: None,
            named: BTreeMap::new(),
            replies: BTreeMap::new(),
            recorded: records.then(Vec::new),
        };
        for (index, step) in talk.steps.iter().enumerate() {
            let problem = talking.step(step);
            problem.map_err(|problem| {
                format!("step {}, {} {}: {problem}", index + 1, step.verb, step.text)
            })?;
        }
        talking.clean_up()?;
        Ok(talking.recorded.take().unwrap_or_default())
    }

    fn main(&mut self) -> Result<&mut Line, String> {
        if self.main.is_none() {
            self.main = Some(Line::open(self.host.address(), self.user, "main", self.patience)?);
        }
        Ok(self.main.as_mut().expect("it was opened"))
    }

    fn named(&mut self, name: &str) -> Result<&mut Line, String> {
        if !self.named.contains_key(name) {
            let line = Line::open(self.host.address(), self.user, name, self.patience)?;
            self.named.insert(name.into(), line);
        }
        Ok(self.named.get_mut(name).expect("it was opened"))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let (name, rest) = step.text.split_once(' ').unwrap_or((&step.text, ""));
        match step.verb.as_str() {
            "?" => {
                let parts = parts(&step.text);
                let subject = format!("$JS.API.{}", parts.subject);
                let answer = self.main()?.request(&subject, &parts)?;
                self.compare(step, vec![answer])
            }
            ">" => {
                let parts = parts(&step.text);
                let answer = self.main()?.request(parts.subject, &parts)?;
                self.compare(step, vec![answer])
            }
            "!" => {
                let parts = parts(&step.text);
                let main = self.main()?;
                main.publish(parts.subject, "", &parts)?;
                main.raw.send(b"PING\r\n").map_err(|e| e.to_string())?;
                main.flushed()
            }
            "sub" => {
                let line = self.named(name)?;
                let sub = match rest.is_empty() {
                    true => "PING\r\n".to_owned(),
                    false => format!("SUB {rest} 2\r\nPING\r\n"),
                };
                line.raw.send(sub.as_bytes()).map_err(|e| e.to_string())?;
                line.flushed()
            }
            "ask" => {
                let parts = parts(rest);
                let subject = format!("$JS.API.{}", parts.subject);
                let line = self.named(name)?;
                let reply = format!("{}.ask", line.inbox);
                line.publish(&subject, &reply, &parts)?;
                line.raw.send(b"PING\r\n").map_err(|e| e.to_string())?;
                line.flushed()
            }
            "take" => self.take(step, name, rest),
            "last" | "double" => self.answer_last(step, name),
            "none" => {
                let records = self.recorded.is_some();
                let line = self.named(name)?;
                line.raw.send(b"PING\r\n").map_err(|e| e.to_string())?;
                line.flushed()?;
                let wait = if records { QUIET } else { Duration::ZERO };
                match line.next(Instant::now() + wait) {
                    None => Ok(()),
                    Some(came) => Err(format!("got {}", message_text(&came, &line.inbox))),
                }
            }
            "silent" => self.silent(&step.text),
            "eventually" => self.eventually(step),
            verb => {
                self.main = None;
                self.named.clear();
                self.host.restart(verb == "restart")
            }
        }
    }

    fn take(&mut self, step: &Step, name: &str, count: &str) -> Result<(), String> {
        let count: usize = count.parse().map_err(|_| "no count")?;
        let line = self.named(name)?;
        let inbox = line.inbox.clone();
        let deadline = Instant::now() + line.patience;
        let mut texts = Vec::new();
        let mut last = None;
        for number in 0..count {
            let Some(came) = line.next(deadline) else {
                return Err(format!("{number} messages came, then silence: {texts:?}"));
            };
            debug_assert!(came.sid > 0);
            if !came.reply.is_empty() {
                last = Some(came.reply.clone());
            }
            texts.push(message_text(&came, &inbox));
        }
        if let Some(reply) = last {
            self.replies.insert(name.into(), reply);
        }
        self.compare(step, texts)
    }

    fn answer_last(&mut self, step: &Step, name: &str) -> Result<(), String> {
        let reply = self.replies.get(name).cloned().ok_or("no message was taken")?;
        let parts = parts(&step.text);
        let main = self.main()?;
        if step.verb == "double" {
            let inbox = format!("{}.double", main.inbox);
            main.publish(&reply, &inbox, &parts)?;
            let came = main.next(Instant::now() + main.patience).ok_or("no answer")?;
            let text = message_text(&came, &main.inbox);
            return self.compare(step, vec![text]);
        }
        main.publish(&reply, "", &parts)?;
        main.raw.send(b"PING\r\n").map_err(|e| e.to_string())?;
        main.flushed()
    }

    /// A request without an answer: two others are answered after it.
    fn silent(&mut self, text: &str) -> Result<(), String> {
        let records = self.recorded.is_some();
        let parts = parts(text);
        let main = self.main()?;
        let reply = format!("{}.silent", main.inbox);
        main.publish(&format!("$JS.API.{}", parts.subject), &reply, &parts)?;
        let nothing = Parts { subject: "", headers: Vec::new(), body: "" };
        for _ in 0..2 {
            main.request("$JS.API.INFO", &nothing)?;
        }
        if records && let Some(came) = main.next(Instant::now() + QUIET) {
            return Err(format!("got {}", answer_text(&came)));
        }
        Ok(())
    }

    fn eventually(&mut self, step: &Step) -> Result<(), String> {
        let parts = parts(&step.text);
        let subject = format!("$JS.API.{}", parts.subject);
        if self.recorded.is_some() {
            std::thread::sleep(SETTLED);
            let answer = self.main()?.request(&subject, &parts)?;
            return self.compare(step, vec![answer]);
        }
        let deadline = Instant::now() + self.patience;
        loop {
            let answer = self.main()?.request(&subject, &parts)?;
            let outcome = self.compare(step, vec![answer]);
            if outcome.is_ok() || Instant::now() > deadline {
                return outcome;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn compare(&mut self, step: &Step, came: Vec<String>) -> Result<(), String> {
        let came: Vec<String> = came.iter().map(|text| mask(text)).collect();
        if came == step.expected {
            return Ok(());
        }
        if let Some(recorded) = &mut self.recorded {
            let text = came.iter().map(|text| format!(": {text}")).collect();
            recorded.push((step.answer_lines.clone(), text));
            return Ok(());
        }
        let (expected, came) = (step.expected.join("\n    "), came.join("\n    "));
        Err(format!("\n  expected:\n    {expected}\n  got:\n    {came}"))
    }

    /// Deletes all streams, so that the next conversation begins with none.
    fn clean_up(&mut self) -> Result<(), String> {
        self.named.clear();
        let nothing = Parts { subject: "", headers: Vec::new(), body: "" };
        let main = self.main()?;
        let names = main.request("$JS.API.STREAM.NAMES", &nothing)?;
        let names: serde_json::Value =
            serde_json::from_str(&names).map_err(|e| format!("{e}: {names}"))?;
        for name in names["streams"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            main.request(&format!("$JS.API.STREAM.DELETE.{name}"), &nothing)?;
        }
        Ok(())
    }
}
