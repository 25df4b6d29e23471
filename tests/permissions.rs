//! Random permissions against a naive matcher, through the whole server on one shard and on three:
//! no denied message is ever delivered, whether plain, to a queue or as a response, and no allowed
//! one is lost.
//!
//! A failure prints the seed: `MIDGE_PERMISSIONS_SEED=n cargo test --test permissions`. Subsets are
//! decided over all subjects up to a depth, so patterns here are at most three tokens deep.

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use fastrand::Rng;
use rustix::process::Signal;
use support::WAIT_MAX;
use support::raw_client::RawClient;
use support::server::Server;

const ROUNDS: u64 = 40;
const TOKENS: [&str; 3] = ["a", "b", "c"];
const DEPTH: usize = 4;
/// The queues that the random user may name; patterns use only the first two tokens.
const QUEUES: [&str; 3] = ["q", "q.x", "r.1.2"];

/// Subject pattern and queue pattern.
type Entry = (String, Option<&'static str>);

struct Rules {
    subscribe_allow: Vec<Entry>,
    subscribe_deny: Vec<Entry>,
    publish_allow: Vec<String>,
    publish_deny: Vec<String>,
    responses_max: Option<usize>,
}

fn pattern(random: &mut Rng) -> String {
    let mut tokens: Vec<&str> =
        (0..random.usize(..3)).map(|_| ["a", "b", "*"][random.usize(..3)]).collect();
    if tokens.is_empty() || random.bool() {
        tokens.push(">");
    }
    tokens.join(".")
}

fn list<T>(random: &mut Rng, mut one: impl FnMut(&mut Rng) -> T) -> Vec<T> {
    (0..random.usize(..4)).map(|_| one(random)).collect()
}

impl Rules {
    fn random(random: &mut Rng) -> Self {
        let entry = |random: &mut Rng| {
            let queue = [None, None, Some("q"), Some("q.*"), Some("r.>")][random.usize(..5)];
            (pattern(random), queue)
        };
        Self {
            subscribe_allow: list(random, entry),
            subscribe_deny: list(random, entry),
            publish_allow: list(random, pattern),
            publish_deny: list(random, pattern),
            responses_max: random.bool().then(|| random.usize(1..4)),
        }
    }

    fn config(&self) -> String {
        let entries = |list: &[Entry]| {
            let texts = list.iter().map(|(subject, queue)| match queue {
                Some(queue) => format!("\"{subject} {queue}\""),
                None => format!("\"{subject}\""),
            });
            texts.collect::<Vec<_>>().join(", ")
        };
        let responses = self.responses_max.map_or(String::new(), |max| {
            format!(", allow_responses: {{ max: {max}, expires: \"1h\" }}")
        });
        format!(
            "authorization {{ users: [ {{user: free, password: free}}, {{user: bound, password: bound, \
             permissions: {{ subscribe: {{allow: [{}], deny: [{}]}}, \
             publish: {{allow: {:?}, deny: {:?}}}{responses} }} }} ] }}",
            entries(&self.subscribe_allow),
            entries(&self.subscribe_deny),
            self.publish_allow,
            self.publish_deny,
        )
    }

    fn accepts(&self, filter: &str, queue: Option<&str>, universe: &[String]) -> bool {
        let covers = |entry: &Entry| {
            universe.iter().all(|subject| !matches(filter, subject) || matches(&entry.0, subject))
        };
        let plain = |list: &[Entry]| list.iter().any(|entry| entry.1.is_none() && covers(entry));
        let mut allowed = self.subscribe_allow.is_empty() || plain(&self.subscribe_allow);
        if let Some(queue) = queue {
            let mut queued =
                self.subscribe_allow.iter().filter(|e| e.1.is_some() && covers(e)).peekable();
            if queued.peek().is_some() {
                allowed = queued.any(|entry| names(entry.1, queue));
            }
        }
        let denied = plain(&self.subscribe_deny)
            || queue.is_some_and(|queue| {
                self.subscribe_deny.iter().any(|e| e.1.is_some() && covers(e) && names(e.1, queue))
            });
        allowed && !denied
    }

    fn denies(&self, subject: &str, queue: Option<&str>) -> bool {
        self.subscribe_deny.iter().any(|entry| {
            matches(&entry.0, subject)
                && match (entry.1, queue) {
                    (None, _) => true,
                    (some, Some(queue)) => names(some, queue),
                    (Some(_), None) => false,
                }
        })
    }

    fn may_publish(&self, subject: &str) -> bool {
        let any = |list: &[String]| list.iter().any(|entry| matches(entry, subject));
        let open = self.publish_allow.is_empty() && self.responses_max.is_none();
        (open || any(&self.publish_allow)) && !any(&self.publish_deny)
    }
}

fn names(entry_queue: Option<&str>, queue: &str) -> bool {
    entry_queue.is_some_and(|entry| entry == queue || matches(entry, queue))
}

fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

fn universe() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut level = vec![String::new()];
    for _ in 0..DEPTH {
        let deeper = level.iter().flat_map(|prefix| {
            TOKENS.iter().map(move |token| match prefix.as_str() {
                "" => (*token).to_owned(),
                prefix => format!("{prefix}.{token}"),
            })
        });
        level = deeper.collect();
        all.extend(level.iter().cloned());
    }
    all
}

fn log_in(server: &Server, name: &str) -> RawClient {
    let mut client = RawClient::connect(server.address()).expect("the server listens");
    let connect = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"echo\":false,\"user\":\"{name}\",\"pass\":\"{name}\"}}\r\n"
    );
    client.send(connect.as_bytes()).expect("sent");
    client.round_trip().expect("logged in");
    client
}

/// Sends, and returns every line up to the answer to a PING after it.
fn exchange(client: &mut RawClient, bytes: &str) -> Vec<String> {
    client.send(format!("{bytes}PING\r\n").as_bytes()).expect("sent");
    let deadline = Instant::now() + WAIT_MAX;
    let mut lines = Vec::new();
    loop {
        let line = client.take_message_line(deadline);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        match line.as_str() {
            "PONG" => return lines,
            _ => lines.push(line),
        }
    }
}

/// Returns the sids at which each subject arrived, from what the server sent. A payload is the
/// subject it was published to.
fn deliveries(lines: &[String]) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in lines {
        if let Some(rest) = line.strip_prefix("MSG ") {
            let words: Vec<&str> = rest.split(' ').collect();
            all.entry(words[0].to_owned()).or_default().push(words[1].parse().expect("a sid"));
        }
    }
    all
}

fn round(server: &Server, seed: u64, universe: &[String]) {
    let mut random = Rng::with_seed(seed);
    let rules = Rules::random(&mut random);
    let start = server.log().line_count();
    server.rewrite_config(&rules.config()).expect("the file can be written");
    server.signal(Signal::HUP).expect("the server runs");
    let reloaded = server.log().wait_for(start, WAIT_MAX, |line| {
        line.contains("loaded server configuration").then(|| line.to_owned())
    });
    assert!(
        reloaded.is_some_and(|line| line.contains("Reloaded")),
        "{}\n{}",
        rules.config(),
        server.log().lines()[start..].join("\n")
    );
    let (mut bound, mut free) = (log_in(server, "bound"), log_in(server, "free"));

    // Subscriptions: the sid is the index of the request.
    let mut held: Vec<(usize, String, Option<&str>)> = Vec::new();
    for sid in 0..random.usize(1..12) {
        let filter = pattern(&mut random);
        let queue = random.bool().then(|| QUEUES[random.usize(..QUEUES.len())]);
        let said = exchange(&mut bound, &format!("SUB {filter} {} {sid}\r\n", queue.unwrap_or("")));
        let accepted = rules.accepts(&filter, queue, universe);
        assert_eq!(said.is_empty(), accepted, "SUB {filter} {queue:?}: {said:?}");
        if accepted {
            held.push((sid, filter, queue));
        }
    }

    // Everything that can be published, by a user who may.
    let all: String = universe.iter().map(|s| format!("PUB {s} {}\r\n{s}\r\n", s.len())).collect();
    assert_eq!(exchange(&mut free, &all), Vec::<String>::new());
    let mut delivered = deliveries(&exchange(&mut bound, ""));
    for subject in universe {
        let mut got = delivered.remove(subject).unwrap_or_default();
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (sid, filter, queue) in &held {
            if !matches(filter, subject) {
                continue;
            }
            let denied = rules.denies(subject, *queue);
            let count = got.iter().filter(|one| *one == sid).count();
            match queue {
                Some(queue) if !denied => groups.entry(queue).or_default().push(*sid),
                _ => assert_eq!(count, usize::from(!denied), "{subject} to {filter} {queue:?}"),
            }
            if queue.is_none() || denied {
                got.retain(|one| one != sid);
            }
        }
        for (queue, members) in groups {
            let count = got.iter().filter(|sid| members.contains(sid)).count();
            assert_eq!(count, 1, "{subject} to one of {members:?} in {queue}");
            got.retain(|sid| !members.contains(sid));
        }
        assert_eq!(got, Vec::<usize>::new(), "{subject} came to whom it should not");
    }
    assert!(delivered.is_empty(), "{delivered:?}");

    // Everything published by the restricted user.
    exchange(&mut free, "SUB > 1\r\n");
    for subject in universe {
        let publish = format!("PUB {subject} {}\r\n{subject}\r\n", subject.len());
        let refused = !exchange(&mut bound, &publish).is_empty();
        assert_eq!(refused, !rules.may_publish(subject), "PUB {subject}");
        let came = deliveries(&exchange(&mut free, "")).contains_key(subject);
        assert_eq!(came, !refused, "{subject} published by the bound one");
    }

    // Responses to requests that reached it.
    for (number, subject) in universe.iter().enumerate().filter(|_| random.u8(..8) == 0) {
        let reply = format!("answer.{number}");
        exchange(&mut free, &format!("PUB {subject} {reply} 1\r\nx\r\n"));
        let asked = !exchange(&mut bound, "").is_empty();
        let may = match (rules.may_publish(&reply), rules.responses_max, asked) {
            (true, _, _) => usize::MAX,
            (false, Some(max), true) => max,
            _ => 0,
        };
        for answer in 0..5 {
            let refused = !exchange(&mut bound, &format!("PUB {reply} 1\r\ny\r\n")).is_empty();
            assert_eq!(refused, answer >= may, "answer {answer} to {subject}, asked: {asked}");
            let came = deliveries(&exchange(&mut free, "")).contains_key(&reply);
            assert_eq!(came, !refused, "answer {answer} to {subject}");
        }
    }
}

#[test]
fn no_denied_message_is_delivered_and_no_allowed_one_is_lost() {
    let universe = universe();
    let given = std::env::var("MIDGE_PERMISSIONS_SEED").ok();
    let seeds = match given.map(|text| text.parse::<u64>().expect("a number")) {
        Some(seed) => seed..seed + 1,
        None => 0..ROUNDS,
    };
    for shards in [1, 3] {
        let server = Server::midge(shards, "");
        for seed in seeds.clone() {
            let run = || round(&server, seed, &universe);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            assert!(
                outcome.is_ok(),
                "{shards} shards: MIDGE_PERMISSIONS_SEED={seed} cargo test --test permissions"
            );
        }
    }
}
