//! The server's end of the control channel: one thread for each socket, for all ports that listen there.

use crate::{
    channel::{Channel, Listening, SocketName},
    client::say_goodbye,
    connection::{Connection, Rings},
    error::MemifError,
    port::{Peer, Shared},
    session::{Session, Step, hello},
    sys,
    wire::{Init, MODE_ETHERNET, Message, secret_of},
};
use smpnet_plugin::{Error, debug, info, warn};
use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a client may take from its arrival to `connect`.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most clients that are not connected yet.
const WAITING_MAX: usize = 32;

/// The listeners of this process, by socket. Taken before any other lock, and by control threads only.
static LISTENERS: Mutex<Option<HashMap<SocketName, Arc<Listener>>>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A port's place at a listener, until it is dropped; the port says that it closes before.
pub struct Seat {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
}

/// A socket, and the ports behind it.
struct Listener {
    name: SocketName,
    /// Device and inode of the socket's file, so that another program's is not removed.
    file: Option<(u64, u64)>,
    ports: Mutex<Ports>,
    /// A port has left.
    left: Condvar,
    wake: OwnedFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Ports {
    list: Vec<Arc<Shared>>,
    /// The thread is to end.
    stop: bool,
    /// The thread has ended, as told or by a panic.
    ended: bool,
}

/// Has a port's clients looked after: by the thread of its socket, which is made if there is none.
pub fn take_seat(shared: Arc<Shared>) -> Result<Seat, Error> {
    let mut listeners = lock(&LISTENERS);
    let listeners = listeners.get_or_insert_default();
    let (socket, id) = (shared.socket.clone(), shared.options.id);
    if let Some(listener) = listeners.get(&socket) {
        let mut ports = lock(&listener.ports);
        if ports.list.iter().any(|p| p.options.id == id) {
            return Err(MemifError::IdTaken { socket: socket.to_string(), id }.into());
        }
        ports.list.push(shared.clone());
        drop(ports);
        sys::signal(listener.wake.as_fd());
        return Ok(Seat { shared, listener: listener.clone() });
    }
    let listener = Listener::start(&socket, shared.clone())?;
    listeners.insert(socket, listener.clone());
    Ok(Seat { shared, listener })
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut listeners = lock(&LISTENERS);
        let mut ports = lock(&self.listener.ports);
        sys::signal(self.listener.wake.as_fd());
        while !ports.ended && ports.list.iter().any(|p| Arc::ptr_eq(p, &self.shared)) {
            ports = self.listener.left.wait(ports).unwrap_or_else(|e| e.into_inner());
        }
        ports.list.retain(|p| !Arc::ptr_eq(p, &self.shared));
        if !ports.list.is_empty() {
            return;
        }
        ports.stop = true;
        drop(ports);
        sys::signal(self.listener.wake.as_fd());
        if let Some(thread) = lock(&self.listener.thread).take() {
            // A panic was reported as a fault.
            let _ended = thread.join();
        }
        self.listener.remove_file();
        if let Some(listeners) = listeners.as_mut() {
            listeners.remove(&self.listener.name);
        }
    }
}

impl Listener {
    fn start(name: &SocketName, first: Arc<Shared>) -> Result<Arc<Listener>, Error> {
        let wake = sys::eventfd().map_err(MemifError::os("an event descriptor"))?;
        let listening = bind(name)?;
        let file = name.path().and_then(|p| std::fs::symlink_metadata(p).ok()).map(|m| (m.dev(), m.ino()));
        let ports = Mutex::new(Ports { list: vec![first.clone()], ..Ports::default() });
        let (left, thread) = (Condvar::new(), Mutex::new(None));
        let listener = Arc::new(Listener { name: name.clone(), file, ports, left, wake, thread });
        let own = listener.clone();
        let run = move || {
            let mut thread = Thread { listener: &own, listening, peers: Vec::new(), last_refusal: String::new() };
            let outcome = catch_unwind(AssertUnwindSafe(|| thread.run()));
            let mut ports = lock(&own.ports);
            ports.ended = true;
            if outcome.is_err() {
                ports.list.iter().for_each(|p| p.fault("the thread of the control channel panicked"));
            }
            own.left.notify_all();
        };
        match std::thread::Builder::new().name(format!("memif-{}", first.name)).spawn(run) {
            Ok(thread) => *lock(&listener.thread) = Some(thread),
            Err(source) => {
                listener.remove_file();
                return Err(MemifError::Os { what: "a thread".into(), source }.into());
            }
        }
        Ok(listener)
    }

    fn remove_file(&self) {
        let Some(path) = self.name.path() else { return };
        let now = std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()));
        if now.is_some()
            && now == self.file
            && let Err(e) = std::fs::remove_file(path)
        {
            warn!("{}: the socket's file stays behind: {e}", self.name);
        }
    }
}

/// Binds a socket; a file that a dead server left behind gives way.
fn bind(name: &SocketName) -> Result<Listening, MemifError> {
    let failed = |source: io::Error| MemifError::Os { what: format!("listening on {name}"), source };
    match (Listening::bind(name), name.path()) {
        (Ok(listening), _) => Ok(listening),
        (Err(e), Some(path)) if e.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(name, path)?;
            Listening::bind(name).map_err(failed)
        }
        (Err(e), None) if e.kind() == io::ErrorKind::AddrInUse => Err(MemifError::SocketInUse(name.to_string())),
        (Err(e), _) => Err(failed(e)),
    }
}

fn remove_stale(name: &SocketName, path: &Path) -> Result<(), MemifError> {
    let failed = |source: io::Error| MemifError::Os { what: format!("replacing {name}"), source };
    if !std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(MemifError::NotASocket(name.to_string()));
    }
    match Channel::connect(name) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            info!("{name}: the socket of a server that is gone is replaced");
            std::fs::remove_file(path).map_err(failed)
        }
        _ => Err(MemifError::SocketInUse(name.to_string())),
    }
}

/// A client.
struct Guest {
    channel: Channel,
    session: Session<OwnedFd>,
    program: String,
    port: Option<Arc<Shared>>,
    connection: Option<Connection>,
    deadline: Option<Instant>,
}

struct Thread<'a> {
    listener: &'a Listener,
    listening: Listening,
    peers: Vec<Guest>,
    last_refusal: String,
}

impl Thread<'_> {
    fn run(&mut self) {
        loop {
            let ports = lock(&self.listener.ports).list.clone();
            self.end_what_must(&ports);
            if self.let_ports_go() {
                return;
            }
            ports.iter().for_each(|p| p.tidy());
            self.sleep(&ports);
            self.accept(&ports);
            let mut at = 0;
            while at < self.peers.len() {
                match self.serve(at, &ports) {
                    Ok(()) => at += 1,
                    Err(why) => self.end(at, &why),
                }
            }
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&self, ports: &[Arc<Shared>]) {
        let wakes = [self.listener.wake.as_fd()].into_iter().chain(ports.iter().map(|p| p.wake_fd()));
        let wakes: Vec<_> = wakes.collect();
        let mut set: Vec<_> = wakes.iter().map(|fd| sys::readable(fd.as_raw_fd())).collect();
        set.push(sys::readable(self.listening.raw_fd()));
        set.extend(self.peers.iter().map(|p| sys::readable(p.channel.raw_fd())));
        let now = Instant::now();
        let next = self.peers.iter().filter_map(|p| p.deadline).min();
        if sys::poll(&mut set, next.map(|d| d.saturating_duration_since(now))).is_err() {
            // It cannot fail for these descriptors; if it does all the same, the thread must not spin.
            std::thread::sleep(Duration::from_millis(10));
        }
        for (fd, polled) in wakes.iter().zip(&set) {
            if polled.revents != 0 {
                sys::clear(*fd);
            }
        }
    }

    /// Ends the connections of ports that are down, closing, or broken, and sends away who is too slow.
    fn end_what_must(&mut self, ports: &[Arc<Shared>]) {
        for port in ports {
            let Some(why) = port.must_end() else { continue };
            if let Some(at) = self.peers.iter().position(|c| c.port.as_ref().is_some_and(|p| Arc::ptr_eq(p, port))) {
                self.end(at, &why);
            }
        }
        let now = Instant::now();
        while let Some(at) = self.peers.iter().position(|c| c.deadline.is_some_and(|d| d <= now)) {
            self.end(at, &MemifError::Silent);
        }
    }

    /// Lets go of ports that close; true when the thread is to end.
    fn let_ports_go(&mut self) -> bool {
        let mut ports = lock(&self.listener.ports);
        let before = ports.list.len();
        ports.list.retain(|p| !p.is_closing());
        if ports.list.len() < before {
            self.listener.left.notify_all();
        }
        ports.stop
    }

    fn accept(&mut self, ports: &[Arc<Shared>]) {
        while let Ok(channel) = self.listening.accept() {
            let waiting = self.peers.iter().filter(|c| c.connection.is_none()).count();
            // Every port takes what is promised, so the promise is that of the smallest.
            let rx = ports.iter().map(|p| p.rx.len()).min().unwrap_or(1);
            let tx = ports.iter().map(|p| p.tx.len()).min().unwrap_or(1);
            if waiting >= WAITING_MAX || channel.send(&hello(rx, tx), None).is_err() {
                continue;
            }
            let deadline = Some(Instant::now() + PATIENCE);
            let (session, program) = (Session::new(), String::new());
            self.peers.push(Guest { channel, session, program, port: None, connection: None, deadline });
        }
    }

    /// Answers what a client has said.
    fn serve(&mut self, at: usize, ports: &[Arc<Shared>]) -> Result<(), MemifError> {
        let Some(client) = self.peers.get(at) else { return Ok(()) };
        let Some((message, fd)) = client.channel.receive()? else { return Ok(()) };
        let Some(client) = self.peers.get_mut(at) else { return Ok(()) };
        match client.session.take(message, fd)? {
            Step::Wait => Ok(()),
            Step::Ack => client.channel.send(&Message::Ack, None),
            Step::Bye(reason) => Err(MemifError::Disconnected(reason)),
            Step::Find(init) => {
                let port = find(&init, ports)?;
                if self.peers.iter().any(|c| c.port.as_ref().is_some_and(|p| Arc::ptr_eq(p, &port))) {
                    return Err(MemifError::Refused("already connected".into()));
                }
                let Some(client) = self.peers.get_mut(at) else { return Ok(()) };
                client.session.found(port.rx.len(), port.tx.len());
                client.program = init.name;
                client.port = Some(port);
                client.channel.send(&Message::Ack, None)
            }
            Step::Connect(offer, interface) => {
                let Some(port) = client.port.clone() else { return Ok(()) };
                let peer = Peer { program: client.program.clone(), interface, ..Peer::default() };
                let (connection, peer) = Rings::of_offer(&port, offer)?.begin(&port, peer)?;
                client.connection = Some(connection);
                client.deadline = None;
                // Before the client hears of it, so that whoever asks then is told the same.
                port.link_up(peer);
                client.channel.send(&Message::Connected(port.name.clone()), None)
            }
        }
    }

    fn end(&mut self, at: usize, why: &MemifError) {
        let Guest { channel, port, connection, .. } = self.peers.remove(at);
        say_goodbye(&channel, why);
        match (port, connection) {
            (Some(port), Some(connection)) => {
                connection.end(&port);
                port.link_down(why);
            }
            (Some(port), None) => port.trouble(why),
            // A client that knocks again and again must not fill the log.
            (None, _) => {
                let text = why.to_string();
                if text != self.last_refusal {
                    warn!("{}: a client was sent away: {text}", self.listener.name);
                    self.last_refusal = text;
                } else {
                    debug!("{}: a client was sent away: {text}", self.listener.name);
                }
            }
        }
    }
}

/// The port that a client wants and may have.
fn find(init: &Init, ports: &[Arc<Shared>]) -> Result<Arc<Shared>, MemifError> {
    let refused = |why: &str| Err(MemifError::Refused(why.to_owned()));
    let Some(port) = ports.iter().find(|p| p.options.id == init.id) else {
        return Err(MemifError::Refused(format!("there is no interface with id {}", init.id)));
    };
    if let Some(why) = port.must_end() {
        return Err(why);
    }
    if init.mode != MODE_ETHERNET {
        return refused("only the mode ethernet is possible here");
    }
    let (known, given) = (port.options.secret.as_bytes(), secret_of(&init.secret));
    match (known.is_empty(), given.is_empty()) {
        (true, _) => Ok(port.clone()),
        (false, true) => refused("a secret is needed"),
        // Every byte is looked at, so that the time tells nothing.
        _ if known.len() == given.len() && known.iter().zip(given).fold(0, |d, (a, b)| d | (a ^ b)) == 0 => {
            Ok(port.clone())
        }
        _ => refused("the secret is wrong"),
    }
}
