//! The client's end of the control channel: a thread that connects, and connects again when the peer has gone.

use crate::{
    channel::{Channel, Received},
    connection::{Connection, Proposal},
    error::MemifError,
    port::{Peer, Shared},
    sys,
    wire::{Hello, Init, MODE_ETHERNET, Message, VERSION, secret_field},
};
use smpnet_plugin::Error;
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a server may take for each answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The thread, until it is dropped; the port says that it closes before.
pub struct Client(Option<JoinHandle<()>>);

impl Client {
    /// Starts it.
    pub fn start(shared: Arc<Shared>) -> Result<Client, Error> {
        let name = format!("memif-{}", shared.name);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| Thread { shared: &shared }.run())).is_err() {
                shared.fault("the thread of the control channel panicked");
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(run).map_err(MemifError::os("a thread"))?;
        Ok(Client(Some(thread)))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic was reported as a fault.
            let _ended = thread.join();
        }
    }
}

struct Thread<'a> {
    shared: &'a Shared,
}

impl Thread<'_> {
    fn run(&self) {
        let mut pause = PAUSE.0;
        while !self.shared.is_closing() {
            self.shared.tidy();
            if !self.shared.is_up() {
                self.sleep(None, None);
                continue;
            }
            let why = match self.connect() {
                Ok((channel, connection)) => {
                    pause = PAUSE.0;
                    self.stay(&channel, connection)
                }
                Err(why) => {
                    self.shared.trouble(&why);
                    why
                }
            };
            if !matches!(why, MemifError::Down | MemifError::Closed) {
                let until = Instant::now() + pause;
                while self.shared.is_up() && Instant::now() < until {
                    self.sleep(None, Some(until - Instant::now()));
                    self.shared.tidy();
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Sleeps until the port is woken, the channel has something, or the time is over.
    fn sleep(&self, channel: Option<&Channel>, limit: Option<Duration>) {
        let mut set = [sys::readable(self.shared.wake_fd().as_raw_fd()), sys::readable(-1)];
        set[1].fd = channel.map_or(-1, Channel::raw_fd);
        if sys::poll(&mut set, limit).is_err() {
            // It cannot fail for these descriptors; if it does all the same, the thread must not spin.
            std::thread::sleep(Duration::from_millis(10));
        }
        if set[0].revents != 0 {
            sys::clear(self.shared.wake_fd());
        }
    }

    /// The dialogue up to `connected`.
    fn connect(&self) -> Result<(Channel, Connection), MemifError> {
        let shared = self.shared;
        let socket = &shared.socket;
        let nobody = |source| MemifError::NoServer { socket: socket.to_string(), source };
        let channel = Channel::connect(socket).map_err(nobody)?;
        let outcome = self.negotiate(&channel);
        if let Err(why) = &outcome {
            say_goodbye(&channel, why);
        }
        Ok((channel, outcome?))
    }

    fn negotiate(&self, channel: &Channel) -> Result<Connection, MemifError> {
        let shared = self.shared;
        let hello = match self.wait(channel)? {
            Message::Hello(hello) => hello,
            other => return Err(MemifError::Refused(format!("{other} instead of hello"))),
        };
        let Hello { name, min_version, max_version, .. } = hello;
        if !(min_version..=max_version).contains(&VERSION) {
            let text = |v: u16| format!("{}.{}", v >> 8, v & 0xff);
            let (min, max) = (text(min_version), text(max_version));
            return Err(MemifError::Refused(format!("the server speaks memif {min} to {max}, and not 2.0")));
        }
        let highest = |n: u16| usize::from(n).saturating_add(1);
        let (c2s, s2c) = (highest(hello.max_c2s_ring), highest(hello.max_s2c_ring));
        let proposal = Proposal::new(shared, c2s, s2c, hello.max_log2_ring_size)?;
        if proposal.regions.len() > highest(hello.max_region) {
            return Err(MemifError::Refused(format!("the server takes {} regions only", highest(hello.max_region))));
        }
        let init = Init {
            version: VERSION,
            id: shared.options.id,
            mode: MODE_ETHERNET,
            secret: secret_field(&shared.options.secret),
            name: concat!("smpnet ", env!("CARGO_PKG_VERSION")).into(),
        };
        self.ask(channel, &Message::Init(init), None)?;
        for (index, size) in proposal.regions.iter().enumerate() {
            let message = Message::AddRegion { index: index as u16, size: *size };
            self.ask(channel, &message, Some(proposal.region_fd(index, shared)))?;
        }
        for (spec, interrupt) in &proposal.announced {
            self.ask(channel, &Message::AddRing(*spec), Some(interrupt.as_fd()))?;
        }
        channel.send(&Message::Connect(shared.name.clone()), None)?;
        let interface = match self.wait(channel)? {
            Message::Connected(interface) => interface,
            other => return Err(MemifError::Refused(format!("{other} instead of connected"))),
        };
        // Only now: DPDK's server sets the rings to zero before it says so.
        let peer = Peer { program: name, interface, ..Peer::default() };
        let (connection, peer) = proposal.accepted().begin(shared, peer)?;
        shared.link_up(peer);
        Ok(connection)
    }

    fn ask(&self, channel: &Channel, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), MemifError> {
        channel.send(message, fd)?;
        match self.wait(channel)? {
            Message::Ack => Ok(()),
            other => Err(MemifError::Refused(format!("{other} instead of ack for {message}"))),
        }
    }

    /// The server's next message.
    fn wait(&self, channel: &Channel) -> Result<Message, MemifError> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((message, _fd)) = channel.receive()? {
                return match message {
                    Message::Disconnect { reason, .. } => Err(MemifError::Disconnected(reason)),
                    message => Ok(message),
                };
            }
            if let Some(why) = self.shared.must_end() {
                return Err(why);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MemifError::Silent);
            }
            self.sleep(Some(channel), Some(left));
        }
    }

    /// Looks after a connection until it ends.
    fn stay(&self, channel: &Channel, connection: Connection) -> MemifError {
        let why = loop {
            self.shared.tidy();
            if let Some(why) = self.shared.must_end() {
                break why;
            }
            match channel.receive() {
                Ok(None) => self.sleep(Some(channel), None),
                Ok(Some(received)) => {
                    if let Some(why) = ends(received) {
                        break why;
                    }
                }
                Err(why) => break why,
            }
        };
        say_goodbye(channel, &why);
        connection.end(self.shared);
        self.shared.link_down(&why);
        why
    }
}

/// Why a message to somebody who is connected ends the connection.
fn ends((message, _fd): Received) -> Option<MemifError> {
    match message {
        Message::Ack => None,
        Message::Disconnect { reason, .. } => Some(MemifError::Disconnected(reason)),
        other => Some(MemifError::Refused(format!("{other} while connected"))),
    }
}

/// Tells the peer why we go, if it is still there and does not know.
pub fn say_goodbye(channel: &Channel, why: &MemifError) {
    if !matches!(why, MemifError::Gone | MemifError::Disconnected(_)) {
        let goodbye = Message::Disconnect { code: 0, reason: why.to_string() };
        // A peer that does not listen any more sees that the socket is closed.
        let _told = channel.send(&goodbye, None);
    }
}
