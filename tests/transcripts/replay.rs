//! Replays one conversation against one server and reports where they differ.

#[path = "recording.rs"]
mod recording;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use recording::Recorded;

use crate::format::{
    ANSWER_MARK, Action, Conversation, Expected, Pattern, SIGNATURE_MARK, SIGNATURE_SIZE, Step,
};
use crate::lines::{difference, info_fields, subscribed};
use crate::support::WAIT_MAX;
use crate::support::raw_client::{Fill, RawClient};
use crate::support::server::Server;
use crate::support::web_client;

/// How the bytes of a conversation are cut into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One write per step.
    AsWritten,
    /// Steps of one connection that follow each other are sent in one write, before any answer is
    /// read.
    Merged,
    /// One write per byte.
    EveryByte,
    /// As written, but with a pause after this many bytes of the whole conversation.
    After(usize),
}

pub struct Replay<'a> {
    server: &'a Server,
    /// Its round trips are the pauses between two pieces of one input.
    pulse: Option<&'a mut Pulse>,
    clients: BTreeMap<char, Client>,
    cut: Cut,
    sent_size: usize,
    /// The server's own PINGs are ignored in conversations that do not mention them.
    expects_ping: bool,
    masked: bool,
    web: bool,
    log_start: usize,
    recording: Option<Vec<Recorded>>,
}

/// Makes the server do a round of its work.
pub enum Pulse {
    /// A client that stays connected.
    Client(RawClient),
    /// For servers that do not answer strangers: one connection after the other that waits for its
    /// INFO.
    Visitors(std::net::SocketAddr),
}

impl Pulse {
    /// Starts a pulse.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn start(server: &Server) -> std::io::Result<Self> {
        let mut client = RawClient::connect(server.address())?;
        // Skips the INFO, too.
        let greeted = client.send(b"CONNECT {\"verbose\":false}\r\n").is_ok();
        Ok(match greeted && client.round_trip().is_ok() {
            true => Self::Client(client),
            false => Self::Visitors(server.address()),
        })
    }

    fn beat(&mut self) -> Result<(), String> {
        match self {
            Self::Client(client) => client.round_trip(),
            Self::Visitors(address) => {
                let mut visitor = RawClient::connect(*address).map_err(|e| e.to_string())?;
                let info = visitor.take_line(Instant::now() + WAIT_MAX);
                visitor.close();
                info.map(drop).ok_or_else(|| "no INFO".to_owned())
            }
        }
    }

    pub fn end(self) {
        if let Self::Client(mut client) = self {
            client.close();
        }
    }
}

struct Client {
    raw: RawClient,
    /// That of the skipped INFO; empty if it had none.
    nonce: String,
    /// Everything sent, to know what was subscribed.
    sent: Vec<u8>,
    ended: bool,
}

impl<'a> Replay<'a> {
    /// Replays a conversation.
    ///
    /// # Errors
    /// Where the server deviated from the conversation: expected and got.
    pub fn run(
        server: &'a Server,
        pulse: Option<&'a mut Pulse>,
        conversation: &Conversation,
        cut: Cut,
    ) -> Result<(), String> {
        Self::new(server, pulse, conversation, cut, None).play(conversation).map(|_| ())
    }

    /// Plays the conversation as written and returns what the server answered.
    ///
    /// # Errors
    /// If a step failed that a recording cannot change.
    pub fn record(
        server: &'a Server,
        conversation: &Conversation,
    ) -> Result<Vec<Recorded>, String> {
        Self::new(server, None, conversation, Cut::AsWritten, Some(Vec::new())).play(conversation)
    }

    fn new(
        server: &'a Server,
        pulse: Option<&'a mut Pulse>,
        conversation: &Conversation,
        cut: Cut,
        recording: Option<Vec<Recorded>>,
    ) -> Self {
        let expects_ping = conversation.steps.iter().any(|step| match &step.action {
            Action::Receive { expected, .. } => expected.iter().any(
                |one| matches!(one, Expected::Bytes(pattern) if pattern.describe() == "PING\\r\\n"),
            ),
            _ => false,
        });
        let log_start = server.log().line_count();
        let clients = BTreeMap::new();
        let (masked, web) = (conversation.masked, conversation.web);
        Self {
            server,
            pulse,
            clients,
            cut,
            sent_size: 0,
            expects_ping,
            masked,
            web,
            log_start,
            recording,
        }
    }

    fn play(mut self, conversation: &Conversation) -> Result<Vec<Recorded>, String> {
        let merged;
        let steps = if self.cut == Cut::Merged {
            merged = merge(&conversation.steps);
            &merged
        } else {
            &conversation.steps
        };
        for (index, step) in steps.iter().enumerate() {
            let ends = matches!(
                steps.get(index + 1).map(|next| &next.action),
                Some(Action::Closed { after_anything: false, .. })
            );
            self.step(step, ends)
                .map_err(|problem| format!("line {}: {problem}", step.lines.start + 1))?;
        }
        self.finish()?;
        Ok(self.recording.take().unwrap_or_default())
    }

    fn step(&mut self, step: &Step, ends: bool) -> Result<(), String> {
        match &step.action {
            Action::Connect { peer, skip_info } => self.connect(*peer, *skip_info),
            Action::Refused { peer } => match RawClient::connect(self.server.address()) {
                Ok(_) => Err(format!("{peer} is accepted; expected a refusal")),
                Err(_) => Ok(()),
            },
            Action::Send { peer, bytes } => self.send(*peer, bytes),
            Action::Away { peer } => {
                self.client(*peer)?.ended = true;
                Ok(())
            }
            Action::Receive { peers, expected } if self.recording.is_some() && peers.len() == 1 => {
                self.record_answer(peers[0], step, expected, ends)
            }
            Action::Receive { peers, expected } => self.receive(peers, expected),
            Action::Closed { peer, reason, after_anything } => {
                self.closed(*peer, reason, *after_anything, step)
            }
            Action::Leave { peer, reason, reset } => self.leave(*peer, reason, *reset, step),
            Action::Until { peer, bytes, expected } => self.until(*peer, bytes, expected),
            Action::Signal { name } => self.server.signal(match name.as_str() {
                "USR1" => Signal::USR1,
                "USR2" => Signal::USR2,
                "INT" => Signal::INT,
                "TERM" => Signal::TERM,
                other => return Err(format!("unknown signal {other:?}")),
            }),
            Action::Reload { config, expected } => self.reload(config, expected, step),
            Action::Get { path, fields } => self.get(path, fields, step),
        }
    }

    fn connect(&mut self, peer: char, skip_info: bool) -> Result<(), String> {
        let address = if self.web { self.server.web_address()? } else { self.server.address() };
        let mut raw =
            RawClient::connect(address).map_err(|e| format!("{peer} cannot connect: {e}"))?;
        if self.web {
            raw.unframe();
            if skip_info {
                raw.send(web_client::request(&[]).as_bytes()).map_err(|e| e.to_string())?;
                while raw.take_line(Instant::now() + WAIT_MAX).is_some_and(|line| line != b"\r\n") {
                }
            }
        }
        let mut nonce = String::new();
        if skip_info {
            let line = raw.take_line(Instant::now() + WAIT_MAX).unwrap_or_default();
            let info = info_fields(&line);
            let info = info.map_err(|problem| format!("{peer} got no INFO: {problem}"))?;
            if let Some(serde_json::Value::String(given)) = info.get("nonce") {
                nonce.clone_from(given);
            }
        }
        if self.masked {
            raw.mask();
        }
        self.clients.insert(peer, Client { raw, nonce, sent: Vec::new(), ended: false });
        Ok(())
    }

    fn client(&mut self, peer: char) -> Result<&mut Client, String> {
        self.clients.get_mut(&peer).ok_or_else(|| format!("{peer} was never opened"))
    }

    fn send(&mut self, peer: char, bytes: &[u8]) -> Result<(), String> {
        let start = self.sent_size;
        self.sent_size += bytes.len();
        let cut = self.cut;
        let client = self.client(peer)?;
        let bytes = &answering(&signed(bytes, &client.nonce), client.raw.last_reply())[..];
        client.sent.extend_from_slice(bytes);
        // A failed write alone is not a failure: the server may rightly have closed at an earlier
        // byte, and what it said before that is compared nevertheless.
        match cut {
            Cut::EveryByte => {
                for byte in bytes {
                    if client.raw.send(std::slice::from_ref(byte)).is_err() {
                        break;
                    }
                }
            }
            Cut::After(size) if start < size && size < start + bytes.len() => {
                let (first, second) = bytes.split_at(size - start);
                let _ = client.raw.send(first);
                if let Some(pulse) = self.pulse.as_mut() {
                    pulse.beat().map_err(|problem| format!("between two pieces: {problem}"))?;
                }
                let _ = self.client(peer)?.raw.send(second);
            }
            _ => {
                let _ = client.raw.send(bytes);
            }
        }
        Ok(())
    }

    fn receive(&mut self, peers: &[char], expected: &[Expected]) -> Result<(), String> {
        let peer = if let [peer] = peers { *peer } else { self.first_with_bytes(peers)? };
        for one in expected {
            self.skip_server_ping(peer, one);
            match one {
                Expected::Bytes(pattern) => self.receive_pattern(peer, pattern)?,
                Expected::Unordered(patterns) => self.receive_unordered(peer, patterns)?,
                Expected::Info(fields) => self.receive_info(peer, fields)?,
            }
        }
        Ok(())
    }

    /// The server asks every client for a PONG from time to time; few conversations are about that.
    fn skip_server_ping(&mut self, peer: char, next: &Expected) {
        let wants_it = matches!(next, Expected::Bytes(pattern) if pattern.starts_like(b"PING\r\n"));
        if self.expects_ping || wants_it {
            return;
        }
        let Ok(client) = self.client(peer) else { return };
        let deadline = Instant::now() + WAIT_MAX;
        while client.raw.unread().len() < 6 && b"PING\r\n".starts_with(client.raw.unread()) {
            if client.raw.fill(deadline) != Fill::Grown {
                return;
            }
        }
        if client.raw.unread().starts_with(b"PING\r\n") {
            client.raw.consume(6);
        }
    }

    /// Returns the one of `peers` to which the server sends something.
    fn first_with_bytes(&mut self, peers: &[char]) -> Result<char, String> {
        let deadline = Instant::now() + WAIT_MAX;
        while Instant::now() < deadline {
            for peer in peers {
                let raw = &mut self.client(*peer)?.raw;
                if !raw.unread().is_empty() {
                    return Ok(*peer);
                }
                raw.fill(Instant::now() + Duration::from_millis(1));
            }
        }
        Err(format!("none of {peers:?} received anything"))
    }

    fn receive_pattern(&mut self, peer: char, pattern: &Pattern) -> Result<(), String> {
        let raw = &mut self.client(peer)?.raw;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let unread = raw.unread();
            if !pattern.starts_like(unread) {
                return Err(difference(peer, &pattern.describe(), unread, ""));
            }
            if unread.len() >= pattern.size() {
                raw.consume(pattern.size());
                return Ok(());
            }
            match raw.fill(deadline) {
                Fill::Grown => {}
                Fill::Closed => {
                    return Err(difference(
                        peer,
                        &pattern.describe(),
                        raw.unread(),
                        ", then closed",
                    ));
                }
                Fill::TimedOut => {
                    return Err(difference(
                        peer,
                        &pattern.describe(),
                        raw.unread(),
                        ", then silence",
                    ));
                }
            }
        }
    }

    fn receive_unordered(&mut self, peer: char, patterns: &[Pattern]) -> Result<(), String> {
        let raw = &mut self.client(peer)?.raw;
        let deadline = Instant::now() + WAIT_MAX;
        let mut left: Vec<&Pattern> = patterns.iter().collect();
        while !left.is_empty() {
            let unread = raw.unread();
            let met = left
                .iter()
                .position(|pattern| unread.len() >= pattern.size() && pattern.starts_like(unread));
            if let Some(index) = met {
                raw.consume(left.remove(index).size());
                continue;
            }
            let possible = left.iter().any(|pattern| pattern.starts_like(unread));
            if !possible || raw.fill(deadline) != Fill::Grown {
                let wanted: Vec<String> = left.iter().map(|pattern| pattern.describe()).collect();
                return Err(difference(peer, &wanted.join(" or "), raw.unread(), ""));
            }
        }
        Ok(())
    }

    fn receive_info(
        &mut self,
        peer: char,
        wanted: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(), String> {
        let raw = &mut self.client(peer)?.raw;
        let Some(line) = raw.take_line(Instant::now() + WAIT_MAX) else {
            let then = if raw.is_closed() { ", then closed" } else { ", then silence" };
            return Err(difference(peer, "INFO", raw.unread(), then));
        };
        let got = info_fields(&line).map_err(|problem| difference(peer, &problem, &line, ""))?;
        for (name, value) in wanted {
            let found = got.get(name);
            if !is_wanted(value, found) {
                return Err(difference(peer, &format!("INFO with {name} = {value}"), &line, ""));
            }
        }
        Ok(())
    }

    fn closed(
        &mut self,
        peer: char,
        reason: &str,
        after_anything: bool,
        step: &Step,
    ) -> Result<(), String> {
        let expects_ping = self.expects_ping;
        let client = self.client(peer)?;
        let deadline = Instant::now() + WAIT_MAX;
        client.ended = true;
        loop {
            if after_anything || (!expects_ping && client.raw.unread() == b"PING\r\n") {
                let size = client.raw.unread().len();
                client.raw.consume(size);
            }
            match client.raw.fill(deadline) {
                Fill::Closed => break,
                Fill::Grown => {}
                Fill::TimedOut => {
                    return Err(difference(peer, "the end", client.raw.unread(), ", still open"));
                }
            }
        }
        if !client.raw.unread().is_empty() {
            return Err(difference(peer, "the end", client.raw.unread(), ", then closed"));
        }
        let port = client.raw.local_port();
        self.check_reason(peer, port, reason, step)
    }

    /// Disconnects: in an orderly way, or by a reset that the server notices while it reads.
    fn leave(&mut self, peer: char, reason: &str, reset: bool, step: &Step) -> Result<(), String> {
        let mut client = self.clients.remove(&peer).ok_or("no such connection")?;
        let port = client.raw.local_port();
        if reset {
            client.raw.reset();
        } else {
            client.raw.close();
        }
        self.check_reason(peer, port, reason, step)
    }

    /// Compares the reason in the server's log, if this replay is the one that checks it.
    fn check_reason(
        &mut self,
        peer: char,
        port: u16,
        reason: &str,
        step: &Step,
    ) -> Result<(), String> {
        if self.cut != Cut::AsWritten {
            return Ok(());
        }
        let name = format!("127.0.0.1:{port} - ");
        let logged = self.server.log().wait_for(self.log_start, WAIT_MAX, |line| {
            let (_, about) = line.split_once(&name)?;
            let (_, reason) = about.split_once("Client connection closed: ")?;
            Some(reason.trim().to_owned())
        });
        let logged =
            logged.ok_or_else(|| format!("{peer} is closed, but the log gives no reason"))?;
        // After the reason the log may continue with the account and the user.
        let is_it = logged
            .strip_prefix(reason)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" - "));
        if is_it && !reason.is_empty() {
            return Ok(());
        }
        let Some(recording) = &mut self.recording else {
            return Err(format!("{peer} is closed\n  expected: {reason}\n  got:      {logged}"));
        };
        let verb = match &step.action {
            Action::Closed { after_anything: true, .. } => "cut",
            Action::Closed { .. } => "closed",
            Action::Leave { reset: true, .. } => "reset",
            _ => "drop",
        };
        let text = vec![format!("{peer} {verb} {logged}")];
        recording.push(Recorded { lines: step.lines.clone(), text });
        Ok(())
    }

    /// Replaces the configuration and waits for what the log says about it.
    fn reload(&mut self, config: &[String], expected: &str, step: &Step) -> Result<(), String> {
        let start = self.server.log().line_count();
        self.server.rewrite_config(&config.join("\n"))?;
        self.server.signal(Signal::HUP)?;
        let said = self.server.log().wait_for(start, WAIT_MAX, |line| {
            let (_, said) = line.split_once("] ")?.1.split_once("] ")?;
            let is_it = said.starts_with("Reloaded server configuration")
                || said.starts_with("Failed to reload server configuration");
            is_it.then(|| said.to_owned())
        });
        let said = said.ok_or("the log says nothing of the reload")?;
        let directory = format!("{}/", self.server.directory().display());
        let said = said.replace(&directory, "");
        if said == expected {
            return Ok(());
        }
        let Some(recording) = &mut self.recording else {
            return Err(format!("the reload\n  expected: {expected}\n  got:      {said}"));
        };
        let mut text: Vec<String> = config.iter().map(|line| format!("rewrite {line}")).collect();
        text.push(format!("reload {said}"));
        recording.push(Recorded { lines: step.lines.clone(), text });
        Ok(())
    }

    /// Requests a path of the monitoring port and checks the fields.
    fn get(
        &mut self,
        path: &str,
        fields: &serde_json::Map<String, serde_json::Value>,
        step: &Step,
    ) -> Result<(), String> {
        let body = self.server.monitor_get(path)?;
        let got: serde_json::Value =
            serde_json::from_slice(&body).map_err(|e| format!("{path}: {e}"))?;
        let find = |name: &str| match name.starts_with('/') {
            true => got.pointer(name),
            false => got.get(name),
        };
        let wrong = fields.iter().find(|(name, value)| !is_wanted(value, find(name)));
        let Some((name, value)) = wrong else { return Ok(()) };
        let Some(recording) = &mut self.recording else {
            let found = find(name).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            return Err(format!("{path}, {name}\n  expected: {value}\n  got:      {found}"));
        };
        let fields: serde_json::Map<String, serde_json::Value> = fields
            .iter()
            .map(|(name, value)| match value.as_str() {
                Some("~") => (name.clone(), value.clone()),
                _ => (name.clone(), find(name).cloned().unwrap_or_default()),
            })
            .collect();
        let text = vec![format!("get {path} {}", serde_json::Value::Object(fields))];
        recording.push(Recorded { lines: step.lines.clone(), text });
        Ok(())
    }

    fn until(&mut self, peer: char, bytes: &[u8], expected: &Pattern) -> Result<(), String> {
        let client = self.client(peer)?;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let _ = client.raw.send(bytes);
            let mut answer = Vec::new();
            while !answer.ends_with(b"PONG\r\n") {
                match client.raw.take_line(deadline) {
                    Some(line) => answer.extend(line),
                    None => return Err(difference(peer, &expected.describe(), &answer, "")),
                }
            }
            if answer.len() == expected.size() && expected.starts_like(&answer) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(difference(peer, &expected.describe(), &answer, " to the end"));
            }
        }
    }

    /// Withdraws subscriptions, so that the next replay on this server starts from nothing, and
    /// checks that nothing unexpected came. Twice: what one connection's last bytes made the server
    /// send to another is certain to be there only in the second round.
    fn finish(&mut self) -> Result<(), String> {
        for round in 0..2 {
            for (peer, client) in &mut self.clients {
                if client.ended {
                    continue;
                }
                let mut goodbye = Vec::new();
                if round == 1 {
                    for sid in subscribed(&client.sent) {
                        goodbye.extend_from_slice(b"UNSUB ");
                        goodbye.extend_from_slice(sid);
                        goodbye.extend_from_slice(b"\r\n");
                    }
                }
                goodbye.extend_from_slice(b"PING\r\n");
                client.raw.send_lines(&goodbye).map_err(|e| format!("{peer} at the end: {e}"))?;
                let deadline = Instant::now() + WAIT_MAX;
                loop {
                    let Some(line) = client.raw.take_line(deadline) else {
                        let got = client.raw.unread();
                        return Err(format!(
                            "at the end: {}",
                            difference(*peer, "PONG\\r\\n", got, "")
                        ));
                    };
                    match line.as_slice() {
                        b"PONG\r\n" => break,
                        b"PING\r\n" => {}
                        b"+OK\r\n" if round == 1 => {}
                        // Follows a connection's first PONG.
                        line if round == 1 && line.starts_with(b"INFO ") => {}
                        _ => {
                            let what = "nothing but PONG\\r\\n";
                            return Err(format!(
                                "at the end: {}",
                                difference(*peer, what, &line, "")
                            ));
                        }
                    }
                }
            }
        }
        for client in self.clients.values_mut() {
            client.raw.close();
        }
        Ok(())
    }
}

/// Returns true if a field is as a conversation requires.
fn is_wanted(wanted: &serde_json::Value, found: Option<&serde_json::Value>) -> bool {
    match wanted {
        serde_json::Value::Null => found.is_none(),
        serde_json::Value::String(any) if any == "~" => found.is_some(),
        _ => found == Some(wanted),
    }
}

/// Returns the bytes with signatures of the nonce in their places.
fn signed(bytes: &[u8], nonce: &str) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(start) = memchr::memmem::find(&bytes, SIGNATURE_MARK) {
        let number = bytes[start + SIGNATURE_MARK.len()];
        let pair = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, [number; 32]);
        let pair = pair.expect("any 32 bytes are a seed");
        let signature = pair.sign(nonce.as_bytes()).expect("the pair has its seed");
        let text = data_encoding::BASE64URL_NOPAD.encode(&signature);
        bytes[start..start + SIGNATURE_SIZE].copy_from_slice(text.as_bytes());
    }
    bytes
}

/// The bytes with the reply where its place is.
fn answering(bytes: &[u8], reply: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let Some(start) = memchr::memmem::find(&bytes, ANSWER_MARK) {
        bytes.splice(start..start + ANSWER_MARK.len(), reply.iter().copied());
    }
    bytes
}

/// Moves a connection's sends before its receives, as far as no other connection stands between.
fn merge(steps: &[Step]) -> Vec<Step> {
    let mut merged: Vec<Step> = Vec::new();
    // Where the current run of one connection's sends and receives starts in `merged`.
    let mut run: Option<(char, usize)> = None;
    for step in steps {
        match &step.action {
            Action::Send { peer, bytes } => match run {
                Some((owner, start)) if owner == *peer => {
                    if let Action::Send { bytes: all, .. } = &mut merged[start].action {
                        all.extend_from_slice(bytes);
                    }
                }
                _ => {
                    run = Some((*peer, merged.len()));
                    merged.push(step.clone());
                }
            },
            Action::Receive { peers, .. } => {
                if run.is_some_and(|(owner, _)| *peers != [owner]) {
                    run = None;
                }
                merged.push(step.clone());
            }
            _ => {
                run = None;
                merged.push(step.clone());
            }
        }
    }
    merged
}
