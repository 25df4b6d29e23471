//! The monitoring port: one ordinary thread that polls its sockets and answers requests one by one.
//!
//! A shard is touched by nothing here but the small tasks of `gather`. The thread runs below the shards'
//! priority. Slow and half-sent requests cost a socket and at most a request head each, end after a
//! deadline, and give way when there are too many.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::base::limits::{HELPER_NICE, HTTP_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX};
use crate::config::options::Options;
use crate::monitor::http::RequestReader;
use crate::net::listener::{bind_all_families, bind_tcp_alone};
use crate::server::answers::endpoints::{Answers, Fixed, Live};
use crate::server::answers::stream::MonitorStream;
use crate::server::host::error_text::os_error_text;
use crate::server::host::process_usage::SAMPLE_INTERVAL;

/// How long a request may take to come in full. As nats-server.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long an open connection may do nothing.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);

/// How long the peer may take no byte of an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// A bound port that is not served yet.
pub struct MonitorPort {
    listener: TcpListener,
    pub address: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
}

impl MonitorPort {
    /// Binds the monitoring port if there is to be one.
    ///
    /// # Errors
    /// The port cannot be had, or is one this server cannot serve.
    pub fn bind(options: &Options) -> Result<Option<Self>, String> {
        let monitor = &options.monitor;
        // Configuration refuses both at once.
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
    /// No thread or no wake-up pipe can be made.
    pub fn serve(self, fixed: Fixed, live: Arc<Mutex<Live>>) -> io::Result<Monitor> {
        let (stop, stopped) = UnixStream::pair()?;
        let answers = Answers::new(fixed, live.clone());
        let of_loop = live;
        let thread = std::thread::Builder::new().name("midge-monitor".into()).spawn(move || {
            // Without the right to lower it the thread runs as any other.
            let _ = rustix::process::setpriority_process(None, HELPER_NICE);
            Loop {
                listener: self.listener,
                stopped,
                connections: Vec::new(),
                answers,
                live: of_loop,
            }
            .run();
        })?;
        Ok(Monitor { stop: Some(stop), thread: Some(thread) })
    }
}

/// A monitoring port that is served. Dropping it ends its thread.
pub struct Monitor {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The other end sees the stream's end.
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
    answers: Answers,
    live: Arc<Mutex<Live>>,
}

struct Connection {
    stream: MonitorStream,
    reader: RequestReader,
    /// Bytes of answers that the kernel has not taken yet.
    unsent: Vec<u8>,
    sent: usize,
    /// No request is read any more; ends when everything is sent.
    ending: bool,
    deadline: Instant,
    /// The peer has been waiting for us since.
    since: Instant,
}

impl Loop {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            self.answers.tick(now);
            self.connections.retain(|connection| connection.deadline > now);
            let nearest = self.connections.iter().map(|connection| connection.deadline).min();
            let wait = nearest.map_or(SAMPLE_INTERVAL, |at| at.saturating_duration_since(now));
            let Some((listening, ready)) = self.wait(wait.min(SAMPLE_INTERVAL)) else { return };
            for index in ready {
                let connection = &mut self.connections[index];
                if connection.serve(&mut self.answers).is_err() {
                    // Swept out below: its time is over.
                    connection.deadline = Instant::now();
                }
            }
            let now = Instant::now();
            self.connections.retain(|connection| connection.deadline > now);
            if listening {
                self.accept();
            }
        }
    }

    /// Waits for something to do: whether somebody connects, and which connections are ready. None = stop.
    fn wait(&self, at_most: Duration) -> Option<(bool, Vec<usize>)> {
        let mut polled = vec![
            PollFd::new(&self.stopped, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
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
            return Some((false, Vec::new()));
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        if is_ready(&polled[0]) {
            return None;
        }
        let ready = polled[2..].iter().enumerate().filter(|(_, polled)| is_ready(polled));
        Some((is_ready(&polled[1]), ready.map(|(index, _)| index).collect()))
    }

    /// Takes everybody who waits. One more than there may be drives out who has made us wait longest.
    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors above all: without a pause this would spin.
                    tracing::error!("monitoring: accept: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            };
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
            ending: false,
            deadline: now + REQUEST_DEADLINE,
            since: now,
        }
    }

    /// Does what the socket is ready for. An error ends the connection.
    fn serve(&mut self, answers: &mut Answers) -> io::Result<()> {
        self.send()?;
        if !self.unsent.is_empty() {
            return Ok(());
        }
        let mut chunk = [0; 4096];
        // One answer at a time: the next request is looked at when this answer is gone.
        while self.unsent.is_empty() && !self.ending {
            self.answer_next(answers)?;
            if !self.unsent.is_empty() || self.reader.held() >= HTTP_HEAD_BYTES_MAX {
                break;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => {
                    if !self.reader.is_half_way() {
                        self.deadline = Instant::now() + REQUEST_DEADLINE;
                    }
                    self.reader.push(&chunk[..size]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.finish()
    }

    /// Answers pipelined requests until an answer does not fit the socket.
    fn answer_next(&mut self, answers: &mut Answers) -> io::Result<()> {
        while self.unsent.is_empty() && !self.ending {
            let (response, head_only, keep_alive) = match self.reader.next_request() {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => {
                    (answers.answer(&request), request.head_only, request.keep_alive)
                }
                Err(refused) => (refused.response(), false, false),
            };
            self.ending = !keep_alive;
            self.unsent = response.encode(SystemTime::now(), head_only, keep_alive);
            self.sent = 0;
            self.since = Instant::now();
            self.deadline = self.since + WRITE_DEADLINE;
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.unsent.len() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(size) => {
                    self.sent += size;
                    self.deadline = Instant::now() + WRITE_DEADLINE;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if !self.stream.flush()? {
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

    /// After everything is sent: closes in a way that lets the peer read it all.
    fn finish(&mut self) -> io::Result<()> {
        if !self.ending || !self.unsent.is_empty() {
            return Ok(());
        }
        self.stream.finish();
        Err(ErrorKind::ConnectionAborted.into())
    }
}
