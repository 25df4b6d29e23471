//! Clients that subscribe, publish, ask, answer, dawdle and leave as a seed determines.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use midge::testing::base::limits::{
    LANE_WORK_MAX, SUBSCRIPTION_WORK, TURN_WORK_MAX, WHOLE_WORK_SHARE, WORK_UNIT_BYTES,
};
use midge::testing::mesh::Lanes;
use midge::testing::protocol::nats::error::CloseReason;

use crate::ear::{Ear, Heard};
use crate::laws::{Client, Known, Laws};
use crate::services::Observer;
use crate::visitors::{Asked, Visitor};
use crate::world::{Plant, ShardSizes, Totals, World};

/// Steps in which a run must come to rest.
const REST_STEPS_MAX: u64 = 400_000;

const FILTERS: [&str; 12] =
    ["a", "b", "a.b", "a.*", "*.b", "a.>", ">", "a.b.c", "*.*", "a.*.c", "svc.*", "svc.one"];
const SUBJECTS: [&str; 9] = ["a", "b", "a.b", "a.c", "c.b", "a.b.c", "a.d.c", "svc.one", "c"];
const SERVICES: [&str; 3] = ["svc.one", "svc.two", "nobody.here"];
const QUEUES: [&str; 2] = ["blue", "red"];

/// Longest chain of questions and answers.
const DEPTH_MAX: u8 = 3;

/// So many that their PONGs pass the bound of a client that does not read.
const PINGS_OF_THE_DEAF: usize = 1_200;

/// Number of messages after which nobody answers any more.
const MESSAGES_MAX: usize = 2000;

#[derive(Default)]
struct Marks {
    subscribed: Vec<usize>,
    ended: Vec<usize>,
    published: Vec<usize>,
}

struct SimulatedClient {
    connection: usize,
    /// Written by the application, not yet at the server.
    written: VecDeque<u8>,
    ear: Ear,
    known: Known,
    /// By sid.
    subscriptions: HashMap<u32, usize>,
    next_sid: u32,
    /// What each awaited PONG confirms.
    pings: VecDeque<Marks>,
    unconfirmed: Marks,
    deaf_until: u64,
    leaves: bool,
    left: bool,
}

/// The moves of clients between shards in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    None,
    /// They are asked to at random moments.
    Asked,
    /// And each goes to a random shard when it first subscribes or publishes.
    Placed,
}

/// One run: a world, its clients and the laws.
pub struct Run {
    pub world: World,
    pub laws: Laws,
    clients: Vec<SimulatedClient>,
    inboxes: HashMap<String, usize>,
    /// Depth of a question's chain, by message.
    depths: HashMap<usize, u8>,
    payload_bytes_max: usize,
    action_count: usize,
    overflows: bool,
    /// True if clients are asked to move to other shards.
    wanders: bool,
    /// True if all subscriptions are plain and without a maximum, as those that can be handed over.
    plain_only: bool,
    /// The most work that a turn may do.
    turn_work_bound: usize,
    /// For each service that watches interest, how often it is to begin or to end a watch.
    asked: Vec<Rc<Cell<usize>>>,
    /// For each service that subscribes and lets go, what it is to do.
    visits: Vec<Rc<Asked>>,
}

impl Run {
    pub fn new(seed: u64, plant: Option<Plant>, moves: Moves) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // Some runs fill the message lanes with large messages, in some consumers are closed for
        // being slow.
        let heavy = random.u32(..8) == 0;
        let overflows = !heavy && random.u32(..4) == 0;
        let sizes = ShardSizes {
            shard_count: random.usize(1..=5),
            lanes: Lanes {
                note_slots: random.usize(1..=12),
                message_slots: random.usize(1..=4),
                returned_slots: random.usize(1..=8),
            },
            pending_bytes_max: if overflows { 6_000 } else { 64 << 20 },
            // Half of the runs often end a turn in the middle of a message, or of a client's end.
            turn_work_max: if random.bool() { random.usize(1..60) } else { TURN_WORK_MAX },
            lane_work_max: if random.bool() { random.usize(1..20) } else { LANE_WORK_MAX },
            moves: moves == Moves::Placed,
        };
        let payload_bytes_max = if heavy { 60_000 } else { 600 };
        // Pieces that may still begin while a turn is not over: a part of a message, one delivery,
        // or one subscription's end. Two pieces of one message may come together: one of its plain
        // subscriptions and one of a queue group.
        let piece = (sizes.turn_work_max / WHOLE_WORK_SHARE)
            .max(1 + payload_bytes_max / WORK_UNIT_BYTES)
            // With the cached subjects that it is compared with.
            .max(2 * SUBSCRIPTION_WORK);
        let mut run = Self {
            turn_work_bound: sizes.turn_work_max + 2 * piece,
            world: World::new(random.u64(..), &sizes, plant),
            laws: Laws::new(sizes.shard_count, sizes.turn_work_max < TURN_WORK_MAX),
            clients: Vec::new(),
            inboxes: HashMap::new(),
            depths: HashMap::new(),
            payload_bytes_max,
            action_count: if heavy { 60 } else { random.usize(80..250) },
            overflows,
            wanders: moves != Moves::None,
            plain_only: moves != Moves::None && random.u32(..3) > 0,
            asked: Vec::new(),
            visits: Vec::new(),
        };
        run.world.check_interval = 1;
        for shard in 0..sizes.shard_count {
            let (asked, seed) = (Rc::<Cell<usize>>::default(), random.u64(..));
            let observer = Observer::new(seed, &SUBJECTS, &QUEUES, asked.clone());
            run.world.add_service(shard, |_| Box::new(observer));
            run.asked.push(asked);
            let (visits, seed) = (Rc::<Asked>::default(), random.u64(..));
            let visitor = Visitor::new(seed, visits.clone());
            run.world.add_service(shard, |_| Box::new(visitor));
            run.visits.push(visits);
        }
        for _ in 0..random.usize(2..=7) {
            run.join();
        }
        run
    }

    fn ask_to_move(&mut self) {
        let target = self.world.random.usize(..self.world.shard_count());
        let client = self.world.random.usize(..self.clients.len());
        self.world.ask_to_move(self.clients[client].connection, target);
    }

    fn join(&mut self) {
        let shard_count = self.world.shard_count();
        let shard = self.world.random.usize(..shard_count);
        let random = &mut self.world.random;
        let window = if random.bool() { usize::MAX } else { random.usize(64..4096) };
        let echo = random.u32(..4) > 0;
        let connection = self.world.connect(shard, window);
        let mut client = SimulatedClient {
            connection,
            written: VecDeque::new(),
            ear: Ear::default(),
            known: Known::default(),
            subscriptions: HashMap::new(),
            next_sid: 1,
            pings: VecDeque::new(),
            unconfirmed: Marks::default(),
            deaf_until: 0,
            leaves: false,
            left: false,
        };
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"echo\":{echo},\"headers\":true,\
             \"no_responders\":true,\"protocol\":1}}\r\n"
        );
        client.written.extend(connect.bytes());
        self.clients.push(client);
        self.laws.clients.push(Client { echo, ..Client::default() });
    }

    /// Plays the whole run: work, rest, and everybody leaves.
    ///
    /// # Errors
    /// The law that was broken.
    pub fn go(&mut self) -> Result<Totals, String> {
        let mut actions = 0;
        while actions < self.action_count {
            match self.world.random.u32(..10) {
                0 => {
                    self.act();
                    actions += 1;
                }
                1..=2 => self.carry_somewhere(),
                3 => self.listen_somewhere()?,
                4 if self.wanders && self.world.random.u32(..3) == 0 => self.ask_to_move(),
                4 if self.world.random.u32(..40) == 0 => self.world.reload_some_shard(),
                4 if self.world.random.u32(..40) == 0 => {
                    let steps = self.world.random.u64(1..400);
                    self.world.stall_some_shard(steps);
                }
                4 if self.world.random.u32(..8) == 0 => {
                    let asked = &self.asked[self.world.random.usize(..self.asked.len())];
                    asked.set(asked.get() + 1);
                    let visits = &self.visits[self.world.random.usize(..self.visits.len())];
                    visits.steps.set(visits.steps.get() + 1);
                }
                _ => {
                    self.world.step();
                }
            }
        }
        self.rest()?;
        // Interest does not wake a shard; its ticker takes what is left.
        self.world.tick();
        self.rest()?;
        self.world.check_interest();
        self.laws.settle()?;
        for client in 0..self.clients.len() {
            self.leave(client, false);
        }
        self.visits.iter().for_each(|visits| visits.leaves.set(true));
        self.rest()?;
        self.world.tick();
        self.rest()?;
        self.world.check_interest();
        let totals = self.world.totals();
        if totals.interest_left > 0 {
            return Err(format!("{} subscriptions outlive all clients", totals.interest_left));
        }
        if totals.turn_work_max > self.turn_work_bound {
            let (did, may) = (totals.turn_work_max, self.turn_work_bound);
            return Err(format!("a turn did {did} units of work, and may do {may}"));
        }
        if totals.batches_in != totals.batches_out {
            return Err(format!("lanes hold batches: {totals:?}"));
        }
        Ok(totals)
    }

    /// Everybody reads and everything moves until nothing does.
    fn rest(&mut self) -> Result<(), String> {
        self.world.hasten();
        let deadline = self.world.now + REST_STEPS_MAX;
        loop {
            let mut moved = false;
            for client in 0..self.clients.len() {
                self.clients[client].deaf_until = 0;
                moved |= self.carry(client);
                moved |= self.listen(client)?;
            }
            moved |= self.world.step_all();
            if !moved {
                self.world.hurried = true;
                let moved = self.world.step_all();
                self.world.hurried = false;
                if moved {
                    continue;
                }
                break;
            }
            if self.world.now > deadline {
                return Err("the server does not come to rest".into());
            }
        }
        let stuck = self.world.stuck_readers();
        if !stuck.is_empty() {
            return Err(format!("readers wait for ever: {stuck:?}"));
        }
        let waiting = self.clients.iter().enumerate().find(|(index, client)| {
            !client.left && !self.laws.clients[*index].gone && !client.pings.is_empty()
        });
        match waiting {
            Some((index, _)) => Err(format!("client {index} waits for a PONG for ever")),
            None => Ok(()),
        }
    }

    fn act(&mut self) {
        let random = &mut self.world.random;
        let client = random.usize(..self.clients.len());
        if self.clients[client].left || self.laws.clients[client].gone {
            if self.clients.len() < 12 {
                self.join();
            }
            return;
        }
        let may_end = !self.plain_only;
        match random.u32(..100) {
            0..18 => {
                let filter = random.choice(FILTERS).expect("not empty");
                let max = (may_end && random.u32(..5) == 0).then(|| random.u64(1..5));
                self.subscribe(client, filter, None, max);
            }
            18..28 => {
                let filter = random.choice(FILTERS).expect("not empty");
                let queue = random.choice(QUEUES).expect("not empty");
                let queue = may_end.then_some(queue);
                let max = (may_end && random.u32(..8) == 0).then(|| random.u64(1..5));
                self.subscribe(client, filter, queue, max);
            }
            28..36 => self.unsubscribe(client),
            36..70 => {
                let count = random.u32(1..=12);
                let repeats = random.bool();
                let mut subject = random.choice(SUBJECTS).expect("not empty");
                for _ in 0..count {
                    if !repeats {
                        subject = self.world.random.choice(SUBJECTS).expect("not empty");
                    }
                    self.publish(client, subject, None, None);
                }
            }
            70..84 => {
                let service = random.choice(SERVICES).expect("not empty");
                self.ask(client, service);
            }
            84..94 => self.ping(client),
            94..98 => {
                let steps = if self.overflows { 20_000 } else { 400 };
                self.clients[client].deaf_until = self.world.now + random.u64(..steps);
                if self.overflows && random.bool() {
                    (0..PINGS_OF_THE_DEAF).for_each(|_| self.ping(client));
                }
            }
            _ => {
                let torn = random.bool();
                self.leave(client, torn);
            }
        }
        if self.world.random.u32(..3) == 0 && !self.clients[client].left {
            self.ping(client);
        }
    }

    fn write(&mut self, client: usize, text: &str) {
        self.clients[client].written.extend(text.bytes());
    }

    fn subscribe(
        &mut self,
        client: usize,
        filter: &str,
        queue: Option<&str>,
        max: Option<u64>,
    ) -> usize {
        let index = self.laws.subscribed(client, filter, queue, max);
        let sid = self.clients[client].next_sid;
        self.clients[client].next_sid += 1;
        self.clients[client].subscriptions.insert(sid, index);
        let line = format!("SUB {filter} {} {sid}\r\n", queue.unwrap_or_default());
        self.write(client, &line);
        if let Some(max) = max {
            // In one write with the SUB, but not always in one read.
            self.write(client, &format!("UNSUB {sid} {max}\r\n"));
        } else if self.world.random.u32(..8) == 0 {
            // The first subscription of a sid stays.
            let other = self.world.random.choice(FILTERS).expect("not empty");
            self.write(client, &format!("SUB {other} {sid}\r\n"));
        }
        self.clients[client].known.add(index);
        self.clients[client].unconfirmed.subscribed.push(index);
        index
    }

    fn unsubscribe(&mut self, client: usize) {
        let mut live: Vec<(u32, usize)> = self.clients[client]
            .subscriptions
            .iter()
            .filter(|(_, index)| !self.laws.subscriptions[**index].ending)
            .map(|(sid, index)| (*sid, *index))
            .collect();
        live.sort_unstable();
        let Some((sid, index)) = self.world.random.choice(live) else { return };
        self.laws.ending(index);
        self.write(client, &format!("UNSUB {sid}\r\n"));
        self.clients[client].unconfirmed.ended.push(index);
    }

    fn ping(&mut self, client: usize) {
        self.write(client, "PING\r\n");
        let client = &mut self.clients[client];
        client.pings.push_back(std::mem::take(&mut client.unconfirmed));
    }

    fn publish(
        &mut self,
        client: usize,
        subject: &str,
        reply: Option<&str>,
        inbox: Option<usize>,
    ) -> usize {
        let known = &self.clients[client].known;
        let at = self.laws.written(client, subject, known, inbox, self.world.now);
        self.clients[client].unconfirmed.published.push(at);
        let mut payload = format!("{at};");
        if self.world.random.u32(..3) == 0 {
            let size = self.world.random.usize(..self.payload_bytes_max);
            payload.extend(std::iter::repeat_n('x', size));
        }
        let reply = reply.map_or(String::new(), |reply| format!("{reply} "));
        // From time to time in a spelling that the quick path leaves to the parser.
        let blank = if self.world.random.u32(..8) == 0 { "  " } else { " " };
        self.write(client, &format!("PUB {subject}{blank}{reply}{}\r\n", payload.len()));
        self.write(client, &payload);
        self.write(client, "\r\n");
        at
    }

    /// Makes a request: a fresh inbox, and the question right after it.
    fn ask(&mut self, client: usize, service: &str) {
        let name = format!("_INBOX.{}", self.inboxes.len());
        let inbox = self.subscribe(client, &name, None, None);
        self.inboxes.insert(name.clone(), inbox);
        let at = self.publish(client, service, Some(&name), Some(inbox));
        self.depths.insert(at, 0);
    }

    fn leave(&mut self, client: usize, torn: bool) {
        if std::mem::replace(&mut self.clients[client].left, true) {
            return;
        }
        if torn {
            self.clients[client].written.clear();
            let connection = self.clients[client].connection;
            match self.world.random.u32(..4) {
                0 => self.world.kick(connection),
                _ => self.world.tear(connection),
            }
            self.laws.gone(client, true);
        } else {
            self.clients[client].leaves = true;
            for index in self.clients[client].subscriptions.values() {
                self.laws.ending(*index);
            }
        }
    }

    fn carry_somewhere(&mut self) {
        let client = self.world.random.usize(..self.clients.len());
        self.carry(client);
    }

    /// Carries some of what the client wrote to the server.
    fn carry(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        if client.written.is_empty() {
            if std::mem::take(&mut client.leaves) {
                self.world.arrive_end(client.connection);
                return true;
            }
            return false;
        }
        let most = client.written.len();
        let count = match self.world.random.u32(..3) {
            0 => self.world.random.usize(1..=most.min(40)),
            _ => self.world.random.usize(1..=most),
        };
        self.world.arrive(client.connection, client.written.drain(..count));
        true
    }

    fn listen_somewhere(&mut self) -> Result<(), String> {
        let client = self.world.random.usize(..self.clients.len());
        if self.clients[client].deaf_until <= self.world.now {
            self.listen(client)?;
        }
        Ok(())
    }

    fn listen(&mut self, index: usize) -> Result<bool, String> {
        let most = match self.world.random.u32(..3) {
            0 => self.world.random.usize(1..100),
            _ => usize::MAX,
        };
        let client = &mut self.clients[index];
        let bytes = self.world.take_outbound(client.connection, most);
        client.ear.hear(&bytes);
        while let Some(heard) = self.clients[index].ear.next()? {
            self.hears(index, heard).map_err(|reason| format!("client {index}: {reason}"))?;
        }
        if self.world.is_over(self.clients[index].connection) && !self.laws.clients[index].gone {
            let reason = self.world.close_reason(self.clients[index].connection);
            self.laws.gone(index, reason != Some(CloseReason::ClientClosed));
            if !self.clients[index].left && !self.overflows {
                return Err(format!("client {index} was closed: {reason:?}"));
            }
            return Ok(true);
        }
        Ok(!bytes.is_empty())
    }

    fn hears(&mut self, index: usize, heard: Heard) -> Result<(), String> {
        match heard {
            Heard::Info => {}
            Heard::Error(text) => return Err(text),
            Heard::Pong => {
                let marks = self.clients[index].pings.pop_front().ok_or("PONG without PING")?;
                marks.subscribed.into_iter().for_each(|index| self.laws.confirmed(index));
                marks.published.into_iter().for_each(|at| self.laws.message_confirmed(at));
                for ended in marks.ended {
                    self.laws.subscriptions[ended].ended_at = Some(self.world.now);
                }
            }
            Heard::Message { sid, subject, reply, no_responders, payload } => {
                let subscription = self.clients[index].subscriptions.get(&sid);
                let subscription = *subscription.ok_or("a message for no subscription")?;
                if no_responders {
                    return self.laws.heard_no_responders(index, &subject);
                }
                let number = payload.split(|byte| *byte == b';').next().unwrap_or_default();
                let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                let at: usize = number.ok_or("a payload nobody wrote")?;
                self.laws.heard(subscription, at, &subject)?;
                let known = self.laws.messages[at].known.clone();
                self.clients[index].known.add_all(&known);
                if !reply.is_empty() && !self.clients[index].left {
                    self.answer(index, at, &reply);
                }
            }
        }
        Ok(())
    }

    /// Answers a question, or passes it on to another service.
    fn answer(&mut self, client: usize, question: usize, reply: &str) {
        let depth = match self.laws.messages.len() {
            0..MESSAGES_MAX => self.depths.get(&question).copied().unwrap_or(DEPTH_MAX),
            _ => DEPTH_MAX,
        };
        // A 503 for a client's own question must be about the question itself.
        let own = self.laws.messages[question].publisher == client
            || self
                .inboxes
                .get(reply)
                .is_some_and(|inbox| self.laws.subscriptions[*inbox].client == client);
        if depth < DEPTH_MAX && !own && self.world.random.u32(..3) == 0 {
            let service = self.world.random.choice(SERVICES).expect("not empty");
            let at = self.publish(client, service, Some(reply), None);
            self.depths.insert(at, depth + 1);
        } else if depth < DEPTH_MAX {
            self.publish(client, reply, None, None);
        }
    }
}
