//! The monitoring port: an ordinary thread that polls its sockets and answers requests one by one.
//!
//! It goes over its connections in passes. In one pass each connection that is ready gets one step:
//! a bounded part of its answer is sent, or one piece is read and at most one request answered. So
//! no connection keeps the thread from the others, or from noticing that the server stops, whatever
//! its peer sends and however fast it reads.
//!
//! Shards are reached only by the small tasks of `gather`. The thread runs below the shards'
//! priority. Slow and half-sent requests cost a socket and at most a request head each, end after a
//! deadline, and give way when there are too many. The bytes of unread answers are bounded, all
//! together.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::base::limits::{
    HELPER_NICE, HTTP_ACCEPTS_PER_PASS, HTTP_ANSWERS_BYTES_MAX, HTTP_CONNECTIONS_MAX,
    HTTP_SENT_PER_PASS_BYTES,
};
use crate::config::options::Options;
use crate::monitor::http::{Request, RequestReader, Response};
use crate::net::listener::{AcceptPause, bind_all_families, bind_tcp_alone};
use crate::server::answers::endpoints::{Answers, Fixed, Live};
use crate::server::answers::stream::MonitorStream;
use crate::server::host::error_text::os_error_text;
use crate::server::host::process_usage::SAMPLE_INTERVAL;

/// Time for a request to arrive in full, as in nats-server.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Time that an open connection may be idle.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);

/// Time during which the peer may take no byte of an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// A bound port that is not served yet.
pub(crate) struct MonitorPort {
    listener: TcpListener,
    pub address: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
}

impl MonitorPort {
    /// Binds the monitoring port, if there is to be one.
    ///
    /// # Errors
    /// If the port cannot be bound, or the server cannot serve it.
    pub(crate) fn bind(options: &Options) -> Result<Option<Self>, String> {
        let monitor = &options.monitor;
        // The configuration refuses both at once.
        let Some(port) = monitor.https_port.or(monitor.port) else { return Ok(None) };
        let scheme = if monitor.https_port.is_some() { "https" } else { "http" };
        let host = monitor.host.as_deref().unwrap_or(&options.listen.host);
        let bare = host.trim_matches(['[', ']']);
        let wanted = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
        let refused = |error: io::Error| {
            let reason = os_error_text(&error);
            format!("can't listen to the monitor port: listen tcp {wanted}:{port}: bind: {reason}")
        };
        let address = (bare, port).to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| {
            format!("can't listen to the monitor port: listen tcp: lookup {host}: no such host")
        })?;
        let listener = bind_all_families(address, bind_tcp_alone).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        tracing::info!("Starting {scheme} monitor on {wanted}:{}", address.port());
        Ok(Some(Self { listener, address, scheme }))
    }

    /// Serves the port on a thread of its own.
    ///
    /// # Errors
    /// If no thread or no wake-up pipe can be made.
    pub(crate) fn serve(self, fixed: Fixed, live: Arc<Mutex<Live>>) -> io::Result<Monitor> {
        let (stop, stopped) = UnixStream::pair()?;
        let stopping = fixed.stopping.clone();
        let mut answers = Answers::new(fixed, live.clone());
        let thread = std::thread::Builder::new().name("midge-monitor".into()).spawn(move || {
            // Without the right to lower its priority the thread runs like any other.
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
            Loop::new(self.listener, stopped, live).run(&mut answers);
        })?;
        Ok(Monitor { stop: Some(stop), stopping, thread: Some(thread) })
    }
}

/// A monitoring port that is being served. Dropping it ends its thread.
pub(crate) struct Monitor {
    stop: Option<UnixStream>,
    /// Set to end an answer that is being gathered.
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // The thread sees the end of the stream.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

struct Loop {
    listener: TcpListener,
    stopped: UnixStream,
    connections: Vec<Connection>,
    live: Arc<Mutex<Live>>,
    accept_pause: AcceptPause,
    /// No connection is accepted before this time.
    accept_from: Option<Instant>,
}

struct Connection {
    stream: MonitorStream,
    reader: RequestReader,
    /// Bytes of an answer that the kernel has not taken yet.
    unsent: Vec<u8>,
    sent: usize,
    /// True if bytes may be left to read that no poll will report.
    has_read: bool,
    /// True once no further request is read; ends when everything is sent.
    ending: bool,
    deadline: Instant,
    /// The last time that the peer sent or took something.
    moved: Instant,
    /// Since when the peer has been waiting for us.
    since: Instant,
}

/// The work of one pass.
struct Ready {
    listening: bool,
    connections: Vec<usize>,
}

impl Loop {
    fn new(listener: TcpListener, stopped: UnixStream, live: Arc<Mutex<Live>>) -> Self {
        Self {
            listener,
            stopped,
            connections: Vec::new(),
            live,
            accept_pause: AcceptPause::default(),
            accept_from: None,
        }
    }

    fn run(mut self, answers: &mut Answers) {
        loop {
            answers.tick(Instant::now());
            if !self.pass(&mut |request| answers.answer(request)) {
                return;
            }
        }
    }

    /// Waits until something is ready, then takes one step for each. False when the server stops.
    fn pass(&mut self, answer: &mut impl FnMut(&Request) -> Response) -> bool {
        let now = Instant::now();
        self.sweep(now);
        let Some(ready) = self.wait(now) else { return false };
        for index in ready.connections {
            let connection = &mut self.connections[index];
            if connection.serve(answer).is_err() {
                connection.give_up();
            }
            self.make_room(index);
        }
        self.sweep(Instant::now());
        if ready.listening {
            self.accept();
        }
        true
    }

    fn sweep(&mut self, now: Instant) {
        self.connections.retain(|connection| connection.deadline > now);
    }

    /// Waits for something to do. None = stop.
    fn wait(&mut self, now: Instant) -> Option<Ready> {
        if self.accept_from.is_some_and(|at| at <= now) {
            self.accept_from = None;
        }
        let deadlines = self.connections.iter().map(|connection| connection.deadline);
        let nearest = deadlines.chain(self.accept_from).min().unwrap_or(now + SAMPLE_INTERVAL);
        let at_most = match self.connections.iter().any(|connection| connection.has_read) {
            true => Duration::ZERO,
            false => nearest.saturating_duration_since(now).min(SAMPLE_INTERVAL),
        };
        let listener = match self.accept_from {
            None => PollFlags::IN,
            Some(_) => PollFlags::empty(),
        };
        let mut polled =
            vec![PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.listener, listener)];
        polled.extend(self.connections.iter().map(|connection| {
            let wanted = match (connection.unsent.is_empty(), connection.stream.wants_write()) {
                (true, false) => PollFlags::IN,
                // A handshake goes both ways.
                (true, true) => PollFlags::IN | PollFlags::OUT,
                (false, _) => PollFlags::OUT,
            };
            PollFd::new(&connection.stream, wanted)
        }));
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()) as _,
        };
        if let Err(error) = poll(&mut polled, Some(&timeout)) {
            if error != rustix::io::Errno::INTR {
                tracing::error!("monitoring: poll: {error}");
            }
            return Some(Ready { listening: false, connections: Vec::new() });
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        if is_ready(&polled[0]) {
            return None;
        }
        let connections = self.connections.iter().zip(&polled[2..]).enumerate();
        let ready = connections.filter(|(_, (own, polled))| own.has_read || is_ready(polled));
        Some(Ready {
            listening: self.accept_from.is_none() && is_ready(&polled[1]),
            connections: ready.map(|(index, _)| index).collect(),
        })
    }

    /// Returns the bytes of answers that wait for their readers.
    fn unsent_bytes(&self) -> usize {
        self.connections.iter().map(|connection| connection.unsent.len()).sum()
    }

    /// Ends connections whose peers do not read, those that have moved nothing for longest first,
    /// until the rest is within the bound. `latest` has just been served and stays.
    fn make_room(&mut self, latest: usize) {
        while self.unsent_bytes() > HTTP_ANSWERS_BYTES_MAX {
            let others = self.connections.iter_mut().enumerate();
            let waiting = others.filter(|(index, one)| *index != latest && !one.unsent.is_empty());
            let Some((_, stuck)) = waiting.min_by_key(|(_, one)| one.moved) else { return };
            stuck.give_up();
        }
    }

    /// Accepts some of the waiting connections. One above the maximum displaces the connection that
    /// has kept us waiting longest.
    fn accept(&mut self) {
        for _ in 0..HTTP_ACCEPTS_PER_PASS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    // Usually out of descriptors: without a pause this would spin.
                    tracing::error!("monitoring: accept: {error}");
                    self.accept_from = Some(Instant::now() + self.accept_pause.lengthen());
                    return;
                }
            };
            self.accept_pause.reset();
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            if self.connections.len() >= HTTP_CONNECTIONS_MAX {
                let waiting = self.connections.iter().enumerate();
                let longest = waiting.min_by_key(|(_, connection)| connection.since);
                if let Some((index, _)) = longest {
                    self.connections.swap_remove(index);
                }
            }
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            let tls = live.tls.as_ref().map(|tls| tls.config.clone());
            drop(live);
            match MonitorStream::new(stream, tls) {
                Ok(stream) => self.connections.push(Connection::new(stream)),
                Err(error) => tracing::error!("monitoring: {error}"),
            }
        }
    }
}

impl Connection {
    fn new(stream: MonitorStream) -> Self {
        let now = Instant::now();
        Self {
            stream,
            reader: RequestReader::default(),
            unsent: Vec::new(),
            sent: 0,
            has_read: false,
            ending: false,
            deadline: now + REQUEST_DEADLINE,
            moved: now,
            since: now,
        }
    }

    /// Lets its time run out: the next sweep removes it, and until then it holds nothing.
    fn give_up(&mut self) {
        self.deadline = self.since;
        self.unsent = Vec::new();
        self.has_read = false;
    }

    /// Takes one step of what the socket is ready for. An error ends the connection.
    fn serve(&mut self, answer: &mut impl FnMut(&Request) -> Response) -> io::Result<()> {
        self.has_read = false;
        self.send()?;
        if self.unsent.is_empty() && !self.ending {
            // One answer at a time: the next request is looked at when this answer has been sent.
            let answered = self.answer_next(answer)?;
            if answered || (self.read()? && self.answer_next(answer)?) {
                self.has_read = self.unsent.is_empty() && !self.ending;
            }
        }
        self.finish()
    }

    /// Reads one piece; false if there is none.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => {
                self.moved = Instant::now();
                if !self.reader.is_half_way() {
                    self.deadline = self.moved + REQUEST_DEADLINE;
                }
                self.reader.push(&chunk[..size]);
                // TLS may hold more than it has returned.
                self.has_read = true;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.has_read = true;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Answers one request; false if there is none.
    fn answer_next(&mut self, answer: &mut impl FnMut(&Request) -> Response) -> io::Result<bool> {
        let (response, head_only, keep_alive) = match self.reader.next_request() {
            Ok(None) => return Ok(false),
            Ok(Some(request)) => (answer(&request), request.head_only, request.keep_alive),
            Err(refused) => (refused.response(), false, false),
        };
        self.ending = !keep_alive;
        self.unsent = response.encode(SystemTime::now(), head_only, keep_alive);
        self.sent = 0;
        self.since = Instant::now();
        self.moved = self.since;
        self.deadline = self.since + WRITE_DEADLINE;
        self.send()?;
        Ok(true)
    }

    /// Sends part of the answer, as far as the socket takes it.
    fn send(&mut self) -> io::Result<()> {
        let end = self.unsent.len().min(self.sent + HTTP_SENT_PER_PASS_BYTES);
        while self.sent < end {
            match self.stream.write(&self.unsent[self.sent..end]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(size) => {
                    self.sent += size;
                    self.moved = Instant::now();
                    self.deadline = self.moved + WRITE_DEADLINE;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.sent < self.unsent.len() || !self.stream.flush()? {
            return Ok(());
        }
        if !self.unsent.is_empty() {
            self.unsent = Vec::new();
            self.sent = 0;
            self.deadline = Instant::now()
                + if self.reader.is_half_way() { REQUEST_DEADLINE } else { IDLE_DEADLINE };
        }
        Ok(())
    }

    /// Once everything is sent, closes the connection in a way that lets the peer read it all.
    fn finish(&mut self) -> io::Result<()> {
        if !self.ending || !self.unsent.is_empty() {
            return Ok(());
        }
        self.stream.finish();
        Err(ErrorKind::ConnectionAborted.into())
    }
}

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
