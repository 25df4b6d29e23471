//! Accounts that export to each other and import from each other, at random, with permissions, reloads meanwhile and
//! clients that try to reach what is not theirs: against a flat list of who may have what, written down apart from the
//! server's own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use midge::testing::auth::state::AuthState;
use midge::testing::base::limits::{LANE_WORK_MAX, TURN_WORK_MAX};
use midge::testing::broker::message_trace::TraceEvent;
use midge::testing::config::auth_options::{
    AccountOptions, PermissionOptions, Place, Secret, SubjectPermissionOptions, UserOptions,
};
use midge::testing::config::import_options::{
    ExportKind, ExportOptions, ImportKind, ImportOptions, ResponseType, ServiceExportOptions,
};
use midge::testing::config::options::Options;
use midge::testing::mesh::Lanes;

use crate::world::{ShardSizes, World};

const ACCOUNTS: [&str; 4] = ["A", "B", "C", "D"];
const WORDS: [&str; 3] = ["a", "b", "c"];
const HOPS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq)]
struct Export {
    account: usize,
    subject: String,
    is_service: bool,
    /// Empty = all.
    importers: Vec<usize>,
    is_streamed: bool,
    allow_trace: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Import {
    importer: usize,
    exporter: usize,
    remote: String,
    local: String,
    is_service: bool,
    /// Of a stream.
    allow_trace: bool,
}

/// What is exported and imported, as a flat list.
#[derive(Clone, Debug, Default)]
struct Config {
    exports: Vec<Export>,
    imports: Vec<Import>,
}

fn tokens(text: &str) -> Vec<&str> {
    text.split('.').collect()
}

fn filter_matches(filter: &str, subject: &str) -> bool {
    let (filter, subject) = (tokens(filter), tokens(subject));
    for (index, token) in filter.iter().enumerate() {
        match *token {
            ">" => return subject.len() > index,
            _ if index >= subject.len() => return false,
            "*" => {}
            literal if literal != subject[index] => return false,
            _ => {}
        }
    }
    filter.len() == subject.len()
}

fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (tokens(wide), tokens(narrow));
    for (index, token) in wide.iter().enumerate() {
        match (*token, narrow.get(index)) {
            (">", found) => return found.is_some(),
            (_, None | Some(&">")) => return false,
            ("*", Some(_)) => {}
            (literal, Some(found)) if literal == *found => {}
            _ => return false,
        }
    }
    wide.len() == narrow.len()
}

/// What the stars of `pattern` stand for in a subject, and what its `>` does.
fn stars(pattern: &str, subject: &str) -> (Vec<String>, Vec<String>) {
    let (pattern, subject) = (tokens(pattern), tokens(subject));
    let mut found = Vec::new();
    for (index, token) in pattern.iter().enumerate() {
        match *token {
            "*" => found.push(subject[index].to_owned()),
            ">" => return (found, subject[index..].iter().map(|t| (*t).to_owned()).collect()),
            _ => {}
        }
    }
    (found, Vec::new())
}

fn local_filter(local: &str) -> String {
    let token = |token: &str| if token.starts_with('$') { "*".into() } else { token.to_owned() };
    tokens(local).into_iter().map(token).collect::<Vec<_>>().join(".")
}

fn number(token: &str) -> Option<usize> {
    token.strip_prefix('$').map(|digits| digits.parse().expect("a number"))
}

/// The local subject of a remote one.
fn to_local(import: &Import, subject: &str) -> String {
    let (found, tail) = stars(&import.remote, subject);
    let mut out = Vec::new();
    for token in tokens(&import.local) {
        match number(token) {
            Some(star) => out.push(found[star - 1].clone()),
            None if token == ">" => out.extend(tail.clone()),
            None => out.push(token.to_owned()),
        }
    }
    out.join(".")
}

/// The remote subject of a local one.
fn to_remote(import: &Import, subject: &str) -> String {
    let order: Vec<usize> = tokens(&import.local).into_iter().filter_map(number).collect();
    let (found, tail) = stars(&local_filter(&import.local), subject);
    let mut star = 0;
    let mut out = Vec::new();
    for token in tokens(&import.remote) {
        match token {
            "*" => {
                star += 1;
                let place = order.iter().position(|number| *number == star).expect("all are used");
                out.push(found[place].clone());
            }
            ">" => out.extend(tail.clone()),
            _ => out.push(token.to_owned()),
        }
    }
    out.join(".")
}

impl Config {
    fn export_of(&self, import: &Import) -> Option<usize> {
        let mut all = self.exports.iter().enumerate().filter(|(_, export)| {
            export.account == import.exporter && export.is_service == import.is_service
        });
        let lets_in = |export: &Export| {
            export.importers.is_empty() || export.importers.contains(&import.importer)
        };
        let own = all.clone().find(|(_, export)| export.subject == import.remote);
        if let Some((index, export)) = own {
            return lets_in(export).then_some(index);
        }
        all.find(|(_, export)| covers(&export.subject, &import.remote) && lets_in(export))
            .map(|(index, _)| index)
    }

    /// Everywhere a message may be heard: account and subject, as often as it comes there.
    fn reach(&self, account: usize, subject: &str) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        self.follow(account, subject, false, &mut Vec::new(), &mut out);
        out
    }

    /// Everywhere its trace may tell of.
    fn traced_reach(&self, account: usize, subject: &str) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        self.follow(account, subject, true, &mut Vec::new(), &mut out);
        out
    }

    fn follow(
        &self,
        account: usize,
        subject: &str,
        only_traced: bool,
        passed: &mut Vec<usize>,
        out: &mut Vec<(usize, String)>,
    ) {
        out.push((account, subject.to_owned()));
        // What the server answers by is nobody's to import.
        if subject.starts_with("_R_.") {
            return;
        }
        for import in &self.imports {
            if !import.is_service
                && passed.is_empty()
                && (import.allow_trace || !only_traced)
                && import.exporter == account
                && filter_matches(&import.remote, subject)
            {
                out.push((import.importer, to_local(import, subject)));
            }
            if import.is_service
                && import.importer == account
                && filter_matches(&local_filter(&import.local), subject)
            {
                let export = self.export_of(import).expect("it was let in");
                let goes_on = self.exports[export].allow_trace || !only_traced;
                if passed.len() < HOPS_MAX && !passed.contains(&export) && goes_on {
                    passed.push(export);
                    let remote = to_remote(import, subject);
                    self.follow(import.exporter, &remote, only_traced, passed, out);
                    passed.pop();
                }
            }
        }
    }

    fn options(&self, denied: &[Option<String>]) -> Options {
        let mut options = Options::default();
        for (index, name) in ACCOUNTS.iter().enumerate() {
            let exports = self.exports.iter().filter(|export| export.account == index);
            let exports = exports.map(|export| ExportOptions {
                subject: export.subject.clone(),
                kind: match export.is_service {
                    false => ExportKind::Stream,
                    true => ExportKind::Service(ServiceExportOptions {
                        response_type: match export.is_streamed {
                            true => ResponseType::Streamed,
                            false => ResponseType::Singleton,
                        },
                        allow_trace: export.allow_trace,
                        ..ServiceExportOptions::default()
                    }),
                },
                accounts: export.importers.iter().map(|other| ACCOUNTS[*other].into()).collect(),
                activation_required: false,
                revocations: Default::default(),
                account_token_position: 0,
            });
            let imports = self.imports.iter().filter(|import| import.importer == index);
            let imports = imports.map(|import| {
                let to = Some(import.local.clone()).filter(|local| *local != import.remote);
                ImportOptions {
                    account: ACCOUNTS[import.exporter].into(),
                    subject: import.remote.clone(),
                    activation: None,
                    kind: match import.is_service {
                        true => ImportKind::Service { to, share: false },
                        false => {
                            let allow_trace = import.allow_trace;
                            ImportKind::Stream { prefix: None, to, allow_trace }
                        }
                    },
                }
            });
            options.auth.accounts.push(AccountOptions {
                name: (*name).into(),
                exports: exports.collect(),
                imports: imports.collect(),
                ..AccountOptions::default()
            });
            let deny = denied[index].clone().map(|subject| vec![subject]);
            let permissions = PermissionOptions {
                subscribe: Some(SubjectPermissionOptions { allow: None, deny }),
                ..PermissionOptions::default()
            };
            options.auth.users.push(UserOptions {
                user: name.to_lowercase(),
                password: Some(Secret::new("x")),
                account: Some((*name).into()),
                permissions: denied[index].is_some().then_some(permissions),
                ..UserOptions::default()
            });
        }
        options.auth.accounts_place = Place::default();
        options
    }
}

fn random_subject(random: &mut fastrand::Rng, wild: bool) -> String {
    let mut out: Vec<&str> = Vec::new();
    for _ in 0..random.usize(1..=3) {
        out.push(if wild && random.u32(..3) == 0 { "*" } else { WORDS[random.usize(..3)] });
    }
    if wild && random.u32(..4) == 0 {
        out.push(">");
    }
    out.join(".")
}

fn random_import(random: &mut fastrand::Rng) -> Import {
    let (importer, exporter) = (random.usize(..4), random.usize(..4));
    let (remote, is_service) = (random_subject(random, true), random.bool());
    let star_count = tokens(&remote).into_iter().filter(|token| *token == "*").count();
    let local = match random.u32(..3) {
        0 => remote.clone(),
        _ => {
            let mut order: Vec<usize> = (1..=star_count).collect();
            random.shuffle(&mut order);
            let mut out: Vec<String> = order.iter().map(|star| format!("${star}")).collect();
            out.insert(random.usize(..=out.len()), WORDS[random.usize(..3)].into());
            if remote.ends_with('>') {
                out.push(">".into());
            }
            out.join(".")
        }
    };
    // Where they are the same the stars count from the left.
    let local = match local == remote {
        true => {
            let mut star = 0;
            let token = |token: &str| match token {
                "*" => {
                    star += 1;
                    format!("${star}")
                }
                other => other.to_owned(),
            };
            tokens(&remote).into_iter().map(token).collect::<Vec<_>>().join(".")
        }
        false => local,
    };
    let allow_trace = random.bool();
    Import { importer, exporter, remote, local, is_service, allow_trace }
}

/// A configuration that is accepted. `accepted` counts imports.
fn random_config(
    random: &mut fastrand::Rng,
    denied: &[Option<String>],
    previous: Option<&AuthState>,
) -> Result<(Config, Arc<AuthState>), String> {
    let mut config = Config::default();
    for _ in 0..random.usize(3..=8) {
        let importers = match random.bool() {
            true => Vec::new(),
            false => (0..4).filter(|_| random.bool()).collect(),
        };
        let export = Export {
            account: random.usize(..4),
            subject: random_subject(random, true),
            is_service: random.bool(),
            importers,
            is_streamed: random.bool(),
            allow_trace: random.bool(),
        };
        let is_there = config.exports.iter().any(|other| {
            (other.account, other.is_service, &other.subject)
                == (export.account, export.is_service, &export.subject)
        });
        if !is_there {
            config.exports.push(export);
        }
    }
    let mut auth = AuthState::build(&config.options(denied), previous)
        .map_err(|error| format!("exports alone: {error}"))?;
    for _ in 0..40 {
        let mut import = random_import(random);
        if random.bool() {
            // Of what is there, so that more are let in.
            let export = &config.exports[random.usize(..config.exports.len())];
            import.exporter = export.account;
            import.is_service = export.is_service;
        }
        config.imports.push(import.clone());
        let is_let_in = config.export_of(&import).is_some();
        match AuthState::build(&config.options(denied), previous) {
            Ok(built) if is_let_in => auth = built,
            Ok(_) => return Err(format!("{import:?} is let in")),
            Err(_) => drop(config.imports.pop()),
        }
    }
    Ok((config, Arc::new(auth)))
}

struct Subscription {
    filter: String,
    is_queue: bool,
}

struct Member {
    account: usize,
    connection: usize,
    subscriptions: Vec<Subscription>,
    pending: Vec<u8>,
}

/// A message that was published.
struct Published {
    account: usize,
    subject: String,
    /// Generations in force while it may have been on its way: from, to.
    generations: (usize, usize),
    /// Where answers go, and to whom.
    asker: usize,
    has_reply: bool,
    is_traced: bool,
    /// It is only traced.
    is_for_nobody: bool,
}

/// The notes of one traced message, over all shards.
#[derive(Default)]
struct Trace {
    message: Option<usize>,
    parts: usize,
    forwarded: usize,
    /// Who got it by a plain subscription, as far as the trace says: connection and account.
    receivers: Vec<(u64, usize)>,
}

#[derive(Debug)]
struct Message {
    subject: String,
    sid: usize,
    reply: String,
    headers: String,
    payload: String,
}

/// Takes the next message out of what a client was sent.
fn next_message(pending: &mut Vec<u8>) -> Result<Option<Message>, String> {
    loop {
        let Some(end) = memchr::memmem::find(pending, b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&pending[..end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let is_message = matches!(words[0], "MSG" | "HMSG");
        if !is_message {
            if line.starts_with("-ERR") && !line.contains("Permissions Violation") {
                return Err(line);
            }
            pending.drain(..end + 2);
            continue;
        }
        let sizes = if words[0] == "HMSG" { 2 } else { 1 };
        let size: usize = words[words.len() - 1].parse().map_err(|_| line.clone())?;
        let header_size: usize = match sizes {
            2 => words[words.len() - 2].parse().map_err(|_| line.clone())?,
            _ => 0,
        };
        let body = end + 2;
        if pending.len() < body + size + 2 {
            return Ok(None);
        }
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&pending[range]).into_owned();
        let message = Message {
            subject: words[1].into(),
            sid: words[2].parse().map_err(|_| line.clone())?,
            reply: if words.len() == 4 + sizes { words[3].into() } else { String::new() },
            headers: text(body..body + header_size),
            payload: text(body + header_size..body + size),
        };
        pending.drain(..body + size + 2);
        return Ok(Some(message));
    }
}

#[derive(Debug, Default)]
pub struct AccountsOutcome {
    pub imports: usize,
    pub crossed: usize,
    pub answers: usize,
    pub fakes: usize,
    pub traced: usize,
    pub receivers: usize,
}

struct Run {
    world: World,
    random: fastrand::Rng,
    denied: Vec<Option<String>>,
    configs: Vec<Config>,
    /// Up to where the reload under way is applied everywhere.
    settled: usize,
    members: Vec<Member>,
    published: Vec<Published>,
    /// How often each subscription heard each message: member, sid, message.
    heard: BTreeMap<(usize, usize, usize), usize>,
    /// Replies of the server's own that somebody saw.
    replies: Vec<String>,
    /// Who got a request with such a reply: accounts.
    asked: BTreeMap<String, Vec<usize>>,
    /// Traces by the shard where they began, and their number there.
    traces: BTreeMap<(usize, u32), Trace>,
    /// Traces that were looked at before.
    traced_before: usize,
    outcome: AccountsOutcome,
}

/// Plays one seed.
pub fn play(seed: u64) -> Result<AccountsOutcome, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let denied: Vec<Option<String>> = ACCOUNTS
        .iter()
        .map(|_| (random.u32(..3) == 0).then(|| random_subject(&mut random, false)))
        .collect();
    let (config, auth) = random_config(&mut random, &denied, None)?;
    let sizes = ShardSizes {
        shard_count: random.usize(1..=3),
        lanes: Lanes {
            note_slots: random.usize(4..=64),
            message_slots: random.usize(2..=16),
            returned_slots: 4,
        },
        pending_bytes_max: 1 << 20,
        turn_work_max: if random.bool() { random.usize(8..200) } else { TURN_WORK_MAX },
        lane_work_max: LANE_WORK_MAX,
        moves: false,
    };
    let options = config.options(&denied);
    let mut world = World::with_options(seed, &sizes, None, options, auth.clone());
    // A look at everything takes long: not in each run.
    world.check_interval = u64::from(seed.is_multiple_of(8));
    let mut run = Run {
        world,
        random,
        denied,
        configs: vec![config],
        settled: 0,
        members: Vec::new(),
        published: Vec::new(),
        heard: BTreeMap::new(),
        replies: Vec::new(),
        asked: BTreeMap::new(),
        traces: BTreeMap::new(),
        traced_before: 0,
        outcome: AccountsOutcome::default(),
    };
    run.outcome.imports = run.configs[0].imports.len();
    run.connect_all();
    let mut auth = auth;
    for round in 0..4 {
        run.subscribe_anew();
        run.settle()?;
        run.publish_some();
        run.settle()?;
        run.check_complete()?;
        run.check_traces(&auth)?;
        if round < 3 {
            auth = run.reload(&auth)?;
        }
    }
    Ok(run.outcome)
}

impl Run {
    fn connect_all(&mut self) {
        for (account, name) in ACCOUNTS.iter().enumerate() {
            for _ in 0..2 {
                let shard = self.random.usize(..self.world.shard_count());
                let connection = self.world.connect(shard, usize::MAX);
                let user = name.to_lowercase();
                let mut text = format!(
                    "CONNECT {{\"verbose\":false,\"headers\":true,\"user\":\"{user}\",\"pass\":\"x\"}}\r\n"
                );
                let mut subscriptions = Vec::new();
                for sid in 0..self.random.usize(1..=4) {
                    let filter = random_subject(&mut self.random, true);
                    let is_queue = self.random.u32(..4) == 0;
                    let queue = if is_queue { " q" } else { "" };
                    text += &format!("SUB {filter}{queue} {sid}\r\n");
                    subscriptions.push(Subscription { filter, is_queue });
                }
                let own = self.members.len();
                text += &format!("SUB in.{own}.* {}\r\nPING\r\n", subscriptions.len());
                subscriptions.push(Subscription { filter: format!("in.{own}.*"), is_queue: false });
                self.world.arrive(connection, text.into_bytes().into_iter());
                let pending = Vec::new();
                self.members.push(Member { account, connection, subscriptions, pending });
            }
        }
        while self.world.step_all() {}
    }

    /// Some members end a subscription and begin the same again.
    fn subscribe_anew(&mut self) {
        for member in &self.members {
            let sid = self.random.usize(..member.subscriptions.len());
            if self.random.bool() {
                let Subscription { filter, is_queue } = &member.subscriptions[sid];
                let queue = if *is_queue { " q" } else { "" };
                let text = format!("UNSUB {sid}\r\nSUB {filter}{queue} {sid}\r\n");
                self.world.arrive(member.connection, text.into_bytes().into_iter());
            }
        }
    }

    fn publish_some(&mut self) {
        for _ in 0..30 {
            let asker = self.random.usize(..self.members.len());
            let Member { account, connection, .. } = self.members[asker];
            let subject = random_subject(&mut self.random, false);
            let id = self.published.len();
            let has_reply = self.random.bool();
            let reply = if has_reply { format!(" in.{asker}.{id}") } else { String::new() };
            let is_traced = self.random.u32(..3) == 0;
            let is_for_nobody = is_traced && self.random.bool();
            let payload = format!("{} {id}", if is_for_nobody { "nobody" } else { "m" });
            let text = match self.random.bool() {
                _ if is_traced => {
                    let only = if is_for_nobody { "Nats-Trace-Only: 1\r\n" } else { "" };
                    let head =
                        format!("NATS/1.0\r\nNats-Trace-Dest: tr\r\n{only}Number: {id}\r\n\r\n");
                    let total = head.len() + payload.len();
                    format!("HPUB {subject}{reply} {} {total}\r\n{head}{payload}\r\n", head.len())
                }
                true => format!("PUB {subject}{reply} {}\r\n{payload}\r\n", payload.len()),
                false => {
                    let name = ["Nats-Request-Info", "nats-request-INFO"][self.random.usize(..2)];
                    let head =
                        format!("NATS/1.0\r\n{name}: {{\"acc\":\"EVIL\"}}\r\n x\r\nK: v\r\n\r\n");
                    let total = head.len() + payload.len();
                    format!("HPUB {subject}{reply} {} {total}\r\n{head}{payload}\r\n", head.len())
                }
            };
            let generations = (self.settled, self.configs.len() - 1);
            self.published.push(Published {
                account,
                subject,
                generations,
                asker,
                has_reply,
                is_traced,
                is_for_nobody,
            });
            self.world.arrive(connection, text.into_bytes().into_iter());
            for _ in 0..self.random.usize(..20) {
                self.world.step();
            }
            self.fake_something();
        }
    }

    /// Somebody publishes to a reply that is not theirs.
    fn fake_something(&mut self) {
        if self.replies.is_empty() || self.random.bool() {
            return;
        }
        let reply = self.replies[self.random.usize(..self.replies.len())].clone();
        let thief = self.random.usize(..self.members.len());
        let Member { account, connection, .. } = self.members[thief];
        let was_asked = self.asked.get(&reply).is_some_and(|asked| asked.contains(&account));
        if was_asked {
            return;
        }
        self.outcome.fakes += 1;
        let payload = format!("fake {account}");
        let text = format!("PUB {reply} {}\r\n{payload}\r\n", payload.len());
        self.world.arrive(connection, text.into_bytes().into_iter());
    }

    /// Runs until nothing moves and all that was sent is heard, answers included.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            let moved = self.world.step_all();
            let heard = self.hear_all()?;
            if !moved && !heard {
                return Ok(());
            }
        }
    }

    fn hear_all(&mut self) -> Result<bool, String> {
        let mut heard_any = false;
        for member in 0..self.members.len() {
            let bytes = self.world.take_outbound(self.members[member].connection, usize::MAX);
            heard_any |= !bytes.is_empty();
            self.members[member].pending.extend_from_slice(&bytes);
            while let Some(message) = next_message(&mut self.members[member].pending)? {
                self.judge(member, &message)?;
            }
        }
        Ok(heard_any)
    }

    fn judge(&mut self, member: usize, message: &Message) -> Result<(), String> {
        let Member { account, connection, ref subscriptions, .. } = self.members[member];
        let subscription = &subscriptions[message.sid];
        let fail = |why: &str| Err(format!("{} hears {message:?}: {why}", ACCOUNTS[account]));
        if !filter_matches(&subscription.filter, &message.subject) {
            return fail("not subscribed");
        }
        if self.denied[account].as_ref().is_some_and(|denied| *denied == message.subject) {
            return fail("denied");
        }
        let words: Vec<&str> = message.payload.split(' ').collect();
        match words[..] {
            ["m", id] => {
                let id: usize = id.parse().map_err(|_| "a bad payload".to_owned())?;
                let published = &self.published[id];
                let (from, to) = published.generations;
                let to = to.max(self.configs.len() - 1);
                let may = (from..=to).any(|generation| {
                    let reach =
                        self.configs[generation].reach(published.account, &published.subject);
                    reach.contains(&(account, message.subject.clone()))
                });
                if !may {
                    return fail("nobody exports it to them");
                }
                let by_service = message.headers.contains("Nats-Request-Info")
                    && !message.headers.contains("EVIL");
                if message.reply.starts_with("_R_.") && !by_service {
                    return fail("a request without its origin");
                }
                if by_service {
                    self.outcome.crossed += 1;
                    let own = format!("\"acc\":\"{}\"", ACCOUNTS[published.account]);
                    let lower = message.headers.to_lowercase();
                    if lower.matches("nats-request-info").count() != 1
                        || !message.headers.contains(&own)
                    {
                        return fail("a forged origin");
                    }
                } else if account != published.account {
                    // By a stream: as it was sent.
                    let is_it = |import: &Import| {
                        !import.is_service
                            && (import.importer, import.exporter) == (account, published.account)
                            && filter_matches(&import.remote, &published.subject)
                            && to_local(import, &published.subject) == message.subject
                    };
                    if !(from..=to).any(|at| self.configs[at].imports.iter().any(is_it)) {
                        return fail("a request without its origin");
                    }
                }
                *self.heard.entry((member, message.sid, id)).or_default() += 1;
                if message.reply.starts_with("_R_.") {
                    self.replies.push(message.reply.clone());
                    self.asked.entry(message.reply.clone()).or_default().push(account);
                    if self.random.bool() {
                        let payload = format!("ans {id}");
                        let text =
                            format!("PUB {} {}\r\n{payload}\r\n", message.reply, payload.len());
                        self.world.arrive(connection, text.into_bytes().into_iter());
                    }
                }
                Ok(())
            }
            ["ans", id] => {
                let id: usize = id.parse().map_err(|_| "a bad payload".to_owned())?;
                let published = &self.published[id];
                if message.subject.starts_with("_R_.") {
                    // Whoever subscribes to everything hears answers of its own account.
                    let asked = self.asked.get(&message.subject);
                    let is_own = asked.is_some_and(|asked| asked.contains(&account));
                    return if is_own { Ok(()) } else { fail("an answer of another account") };
                }
                let expected = format!("in.{}.{id}", published.asker);
                let is_own = account == published.account && message.subject == expected;
                let may = is_own
                    || self.configs.iter().any(|config| {
                        let reach = config.reach(published.account, &expected);
                        reach.contains(&(account, message.subject.clone()))
                    });
                if !published.has_reply || !may {
                    return fail("an answer that is not theirs");
                }
                self.outcome.answers += 1;
                Ok(())
            }
            ["fake", from] => {
                let from: usize = from.parse().map_err(|_| "a bad payload".to_owned())?;
                let may = message.subject.starts_with("_R_.") && account == from;
                if may { Ok(()) } else { fail("a fake") }
            }
            _ => Err(format!("a bad payload: {message:?}")),
        }
    }

    /// All that was published since the last reload has been heard by everybody who should, once for each way.
    fn check_complete(&self) -> Result<(), String> {
        let now = self.configs.len() - 1;
        for (id, published) in self.published.iter().enumerate() {
            if published.generations != (now, now) {
                continue;
            }
            let reach = match published.is_for_nobody {
                true => Vec::new(),
                false => self.configs[now].reach(published.account, &published.subject),
            };
            for (index, member) in self.members.iter().enumerate() {
                for (sid, subscription) in member.subscriptions.iter().enumerate() {
                    if subscription.is_queue {
                        continue;
                    }
                    let denied = &self.denied[member.account];
                    // The whole subscription was refused.
                    if denied.as_ref().is_some_and(|denied| covers(denied, &subscription.filter)) {
                        continue;
                    }
                    let expected = reach.iter().filter(|(account, subject)| {
                        *account == member.account
                            && filter_matches(&subscription.filter, subject)
                            && denied.as_ref().is_none_or(|denied| denied != subject)
                    });
                    let expected = expected.count();
                    let heard = self.heard.get(&(index, sid, id)).copied().unwrap_or_default();
                    if heard != expected {
                        return Err(format!(
                            "{} published {:?}; {} heard it {heard} times on {:?}, not {expected}: {:?}",
                            ACCOUNTS[published.account],
                            published.subject,
                            ACCOUNTS[member.account],
                            subscription.filter,
                            self.configs[now]
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// What traces say of the receivers of a message is what they may say, and all of it.
    fn check_traces(&mut self, auth: &AuthState) -> Result<(), String> {
        let account_of = |id| {
            let account = auth.account(id).expect("it is in each configuration");
            ACCOUNTS.iter().position(|name| **name == *account.name).expect("one of these")
        };
        for (shard, note) in self.world.take_trace_notes() {
            let trace = self.traces.entry((shard, note.number)).or_default();
            trace.parts += 1;
            trace.forwarded += note.forwarded;
            if let Some(ingress) = &note.ingress {
                let headers = String::from_utf8_lossy(&ingress.headers).into_owned();
                let number = headers.lines().find_map(|line| line.strip_prefix("Number: "));
                trace.message = number.and_then(|number| number.parse().ok());
            }
            for (_, event) in note.events {
                if let TraceEvent::Egress { connection, account, queue, error, .. } = event
                    && error.is_none()
                    && queue.is_empty()
                {
                    trace.receivers.push((connection.0, account_of(account)));
                }
            }
        }
        let now = self.configs.len() - 1;
        for ((shard, number), trace) in &self.traces {
            let (parts, forwarded) = (trace.parts, trace.forwarded);
            if parts != forwarded + 1 {
                return Err(format!("{number} of {shard}: {parts} parts, {forwarded} forwarded"));
            }
            let id = trace.message.ok_or("a trace without a message")?;
            let published = &self.published[id];
            let (from, to) = published.generations;
            let reach_at = |generation: usize| {
                self.configs[generation].traced_reach(published.account, &published.subject)
            };
            for (_, account) in &trace.receivers {
                let may = (from..=to.max(now)).any(|generation| {
                    reach_at(generation).iter().any(|(other, _)| other == account)
                });
                if !may {
                    return Err(format!("{id} is traced to {}", ACCOUNTS[*account]));
                }
            }
            self.outcome.traced += 1;
            self.outcome.receivers += trace.receivers.len();
            if published.generations != (now, now) {
                continue;
            }
            let reach = reach_at(now);
            for member in &self.members {
                let id_there = member.connection as u64 + 5;
                let told = trace.receivers.iter().filter(|(other, _)| *other == id_there).count();
                let denied = self.denied[member.account].as_ref();
                let gets = |subscription: &&Subscription| {
                    let is_refused = denied.is_some_and(|d| covers(d, &subscription.filter));
                    !subscription.is_queue && !is_refused
                };
                let expected = member.subscriptions.iter().filter(gets).map(|subscription| {
                    let comes = reach.iter().filter(|(account, subject)| {
                        *account == member.account
                            && filter_matches(&subscription.filter, subject)
                            && denied.is_none_or(|denied| denied != subject)
                    });
                    comes.count()
                });
                let expected: usize = expected.sum();
                if told != expected {
                    return Err(format!(
                        "{id}: {:?} is traced {told} times to {}, not {expected}: {:?}",
                        published.subject, ACCOUNTS[member.account], self.configs[now]
                    ));
                }
            }
        }
        let traced = self.published.iter().filter(|published| published.is_traced).count();
        let seen = std::mem::take(&mut self.traces).len();
        self.traced_before += seen;
        match self.traced_before == traced {
            true => Ok(()),
            false => Err(format!("{traced} traced messages, {} traces", self.traced_before)),
        }
    }

    /// Other exports and imports, while messages are under way.
    fn reload(&mut self, auth: &Arc<AuthState>) -> Result<Arc<AuthState>, String> {
        let (config, auth) = random_config(&mut self.random, &self.denied, Some(auth))?;
        self.outcome.imports += config.imports.len();
        self.configs.push(config);
        let mut shards: Vec<usize> = (0..self.world.shard_count()).collect();
        self.random.shuffle(&mut shards);
        for shard in shards {
            self.publish_some();
            self.world.reload(shard, &auth);
        }
        let mut members: Vec<usize> = (0..self.members.len()).collect();
        self.random.shuffle(&mut members);
        while let Some(member) = members.pop() {
            if self.random.bool() {
                self.world.step();
            }
            if self.world.review(self.members[member].connection) {
                members.insert(0, member);
            }
        }
        self.settle()?;
        self.settled = self.configs.len() - 1;
        Ok(auth)
    }
}
