//! One capture: a thread between a listener and whoever asked for it.

use super::filter::Expression;
use super::pcapng::{Interface, PacketOptions, Pcapng, flags};
use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use smpnet_stack::{
    BpfFilter, CaptureReader, Captured, Dirs, IfIndex, IfStatus, Link, Listener, ListenerOwner, ListenerSpec, Stack,
    StackError, What, parse_mac,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Bytes of pcapng that are handed on in one piece.
const CHUNK: usize = 64 << 10;
/// Pieces that may wait for the client.
const WAITING: usize = 16;
/// The longest snapshot, tcpdump's.
const SNAPLEN: u32 = smpnet_bpf::SNAPLEN;

/// What is to be captured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Interface, or `any`.
    pub interface: String,
    /// The filter expression; empty for everything.
    #[serde(default)]
    pub filter: String,
    /// `in`, `out` or `both`.
    #[serde(default = "both")]
    pub direction: Dirs,
    /// What is dropped, instead of what passes.
    #[serde(default)]
    pub drops: bool,
    /// The interface is promiscuous meanwhile: frames to other stations are heard too.
    #[serde(default)]
    pub promisc: bool,
    /// Most bytes kept of a packet; 0 for all.
    #[serde(default)]
    pub snaplen: u32,
    /// End after so many packets; 0 for never.
    #[serde(default)]
    pub count: u64,
    /// Bytes of the buffer on each CPU; 0 for the default.
    #[serde(default)]
    pub buffer: u64,
    /// What may be sent through the listener; it may send nothing without this.
    #[serde(default)]
    pub write_filter: Option<String>,
    /// Nothing of the listener can be changed once it runs.
    #[serde(default)]
    pub lock: bool,
}

fn both() -> Dirs {
    Dirs::Both
}

/// Why a capture did not begin.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The interface is not there.
    #[error("{0}")]
    Interface(String),
    /// The filter is wrong.
    #[error("{what}: {error}")]
    Filter {
        /// Which filter.
        what: &'static str,
        /// What is wrong with it.
        error: smpnet_bpf::ExprError,
    },
    /// A number is out of range.
    #[error("{0}")]
    Value(String),
    /// The stack refused.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// There is no thread to be had.
    #[error("no thread for the capture: {0}")]
    Thread(std::io::Error),
}

/// A capture that runs.
pub struct Capture {
    /// Its listener.
    pub listener: Arc<Listener>,
    /// The pcapng, piece by piece. It ends when the capture does; dropping it ends the capture.
    pub chunks: mpsc::Receiver<Bytes>,
}

/// Compiles a filter; an empty one is none.
pub fn compile(what: &'static str, text: &str, link: Link) -> Result<Option<Arc<dyn BpfFilter>>, CaptureError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let filter = Expression::compile(text, link).map_err(|error| CaptureError::Filter { what, error })?;
    Ok(Some(Arc::new(filter)))
}

impl Capture {
    /// Begins a capture.
    ///
    /// # Errors
    /// When the request is wrong; nothing was begun.
    pub fn start(
        stack: &Arc<Stack>,
        request: &Request,
        interface: Option<IfIndex>,
        owner: ListenerOwner,
    ) -> Result<Capture, CaptureError> {
        let snaplen = match request.snaplen {
            0 => SNAPLEN,
            n if n <= SNAPLEN => n,
            n => return Err(CaptureError::Value(format!("a snapshot length of {n} is above {SNAPLEN}"))),
        };
        let link = stack.bpf_link(interface)?;
        let filter = compile("filter", &request.filter, link)?;
        let spec = ListenerSpec {
            interface,
            dirs: request.direction,
            drops: request.drops,
            promisc: request.promisc,
            snaplen,
            ring_bytes: request.buffer,
            filter,
            owner,
        };
        let write = request.write_filter.as_deref().map(|text| compile("write filter", text, link)).transpose()?;
        let reader = stack.bpf_open(spec)?;
        let listener = reader.listener().clone();
        if let Some(write) = write {
            listener.set_write_filter(write)?;
        }
        if request.lock {
            listener.lock();
        }
        let (sender, chunks) = mpsc::channel(WAITING);
        let writer = Writer::new(stack.clone(), request, reader, snaplen, interface);
        std::thread::Builder::new()
            .name(format!("smpnet-bpf{}", listener.id()))
            .spawn(move || writer.run(&sender))
            .map_err(CaptureError::Thread)?;
        Ok(Capture { listener, chunks })
    }
}

/// An interface of the stream.
struct Known {
    number: u32,
    delivered: u64,
}

/// What the thread has.
struct Writer {
    stack: Arc<Stack>,
    reader: CaptureReader,
    pcapng: Pcapng,
    known: HashMap<u32, Known>,
    filter: String,
    /// Packets still to be captured.
    left: u64,
    began: u64,
}

impl Writer {
    fn new(
        stack: Arc<Stack>,
        request: &Request,
        reader: CaptureReader,
        snaplen: u32,
        interface: Option<IfIndex>,
    ) -> Writer {
        let what = if request.drops { "drops" } else { "packets" };
        let comment = format!("{what} of {}", request.interface);
        let mut writer = Writer {
            stack,
            reader,
            pcapng: Pcapng::new(snaplen, &system(), &comment),
            known: HashMap::new(),
            filter: request.filter.clone(),
            left: if request.count == 0 { u64::MAX } else { request.count },
            began: real_ns(),
        };
        // Of a capture on all interfaces, those are described that packets come from.
        if let Some(i) = interface {
            writer.describe(i.get());
        }
        writer
    }

    /// Until the listener ends, the client goes away, or enough was captured.
    fn run(mut self, to: &mpsc::Sender<Bytes>) {
        let mut goes_on = self.send(to);
        while goes_on && self.left > 0 {
            goes_on = self.round(to) && self.left > 0 && self.reader.wait(Duration::from_secs(5)) && !to.is_closed();
        }
        // No worker writes any more: what is in the rings is all there will be.
        self.reader.close();
        while !to.is_closed() && self.left > 0 && self.round(to) {
            if !self.reader.pending() {
                break;
            }
        }
        self.finish(to);
    }

    /// Turns what is there into pcapng and hands it on; false when nobody takes it.
    fn round(&mut self, to: &mpsc::Sender<Bytes>) -> bool {
        let Writer { stack, reader, pcapng, known, filter, left, .. } = self;
        let link = reader.listener().link();
        let mut taken = true;
        reader.drain(|packet| {
            write(stack, pcapng, known, filter, link, packet);
            *left -= 1;
            if pcapng.out.len() >= CHUNK {
                taken = hand_on(pcapng, to);
            }
            taken && *left > 0
        });
        taken && self.send(to)
    }

    fn send(&mut self, to: &mpsc::Sender<Bytes>) -> bool {
        hand_on(&mut self.pcapng, to)
    }

    fn describe(&mut self, ifindex: u32) -> u32 {
        describe(&self.stack, &mut self.pcapng, &mut self.known, &self.filter, self.reader.listener().link(), ifindex)
    }

    /// The statistics, at the end.
    fn finish(mut self, to: &mpsc::Sender<Bytes>) {
        let now = real_ns();
        let mut all: Vec<(&u32, &Known)> = self.known.iter().collect();
        all.sort_by_key(|(_, k)| k.number);
        for (ifindex, known) in all {
            let t = self.reader.tally(*ifindex);
            let counts = [t.received, t.matched, t.dropped, known.delivered];
            self.pcapng.statistics(known.number, self.began, now, counts);
        }
        self.send(to);
    }
}

fn hand_on(pcapng: &mut Pcapng, to: &mpsc::Sender<Bytes>) -> bool {
    if pcapng.out.is_empty() {
        return !to.is_closed();
    }
    let chunk = std::mem::replace(&mut pcapng.out, Vec::with_capacity(CHUNK + 4096));
    to.blocking_send(chunk.into()).is_ok()
}

fn write(
    stack: &Stack,
    pcapng: &mut Pcapng,
    known: &mut HashMap<u32, Known>,
    filter: &str,
    link: Link,
    p: &Captured<'_>,
) {
    let number = match known.get(&p.ifindex) {
        Some(k) => k.number,
        None => describe(stack, pcapng, known, filter, link, p.ifindex),
    };
    if let Some(k) = known.get_mut(&p.ifindex) {
        k.delivered += 1;
    }
    let direction = match p.dir {
        Some(smpnet_runtime::Dir::In) => flags::IN,
        Some(smpnet_runtime::Dir::Out) => flags::OUT,
        None => 0,
    };
    let why = match p.what {
        What::Passed => None,
        What::Dropped(reason) if p.note.is_empty() => Some(format!("{}: {}", reason.name(), reason.text())),
        What::Dropped(reason) => Some(format!("{}: {}", reason.name(), p.note)),
    };
    let options = PacketOptions {
        flags: direction | station(link, p.bytes),
        lost: p.lost.into(),
        dropped: why.as_deref(),
        comment: None,
    };
    pcapng.packet(number, p.time_ns, p.wire_len, p.bytes, &options);
}

/// Whom a frame is for.
fn station(link: Link, bytes: &[u8]) -> u32 {
    match bytes.first_chunk::<6>().filter(|_| link == Link::Ether) {
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => flags::BROADCAST,
        Some([first, ..]) if first & 1 == 1 => flags::MULTICAST,
        Some(_) => flags::UNICAST,
        None => 0,
    }
}

fn describe(
    stack: &Stack,
    pcapng: &mut Pcapng,
    known: &mut HashMap<u32, Known>,
    filter: &str,
    link: Link,
    ifindex: u32,
) -> u32 {
    let all = stack.interfaces();
    let status = all.iter().find(|i| i.index.get() == ifindex);
    let number = pcapng.interface(link, &interface_of(status, ifindex, filter));
    known.insert(ifindex, Known { number, delivered: 0 });
    number
}

fn interface_of(status: Option<&IfStatus>, ifindex: u32, filter: &str) -> Interface {
    let filter = filter.to_owned();
    match status {
        Some(i) => Interface {
            name: i.name.clone(),
            description: i.description.clone(),
            mac: parse_mac(&i.mac).map(|m| m.bytes),
            speed: u64::from(i.speed) * 1_000_000,
            filter,
        },
        // 0: a packet that belongs to no interface; else one that went away meanwhile.
        None if ifindex == 0 => Interface { name: "none".into(), filter, ..Interface::default() },
        None => Interface { name: format!("if{ifindex}"), filter, ..Interface::default() },
    }
}

fn real_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// The system's name and release.
fn system() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim()).trim_end().to_owned()
}
