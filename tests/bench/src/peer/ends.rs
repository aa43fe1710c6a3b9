//! Both other ends of what is measured: a memif server that sends as fast as packets are taken, and one that takes what
//! comes. One thread serves both and costs little for a packet, so that one processor keeps another one busy: it copies 64
//! bytes of a template into each buffer, and of what arrives it looks at no more than the ring's index.

use crate::machine::pin;
use smpnet_memif::{
    channel::{Channel, Listening, SocketName},
    desc::Desc,
    memory::{Memory, Region},
    ring::Ring,
    session::{Offer, Session, Step, hello},
    wire::Message,
};
use std::{
    error::Error,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Packets that are given or taken at once.
const BURST: u16 = 64;
/// How long a client may take to connect.
const PATIENCE: Duration = Duration::from_secs(15);

/// A frame of a template, without FCS; the bytes behind its length are not sent.
pub type Frame = [u8; 64];

/// A server that waits for its client.
pub struct Waiting {
    listening: Listening,
    name: SocketName,
}

impl Waiting {
    /// Listens on a socket.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn at(socket: &Path) -> Result<Waiting, Box<dyn Error>> {
        let name = SocketName::new(socket.to_str().ok_or("the socket's path is no text")?)?;
        Ok(Waiting { listening: Listening::bind(&name)?, name })
    }

    /// Goes through the dialogue with the client that comes.
    ///
    /// # Errors
    /// When none comes, or it says what it should not.
    pub fn connect(self) -> Result<End, Box<dyn Error>> {
        let start = Instant::now();
        let late = || -> Result<(), Box<dyn Error>> {
            if start.elapsed() > PATIENCE {
                return Err(format!("no client connected to {}", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        };
        let channel = loop {
            match self.listening.accept() {
                Ok(channel) => break channel,
                Err(_) => late()?,
            }
        };
        channel.send(&hello(1, 1), None)?;
        let mut session = Session::new();
        loop {
            let Some((message, fd)) = channel.receive()? else {
                late()?;
                continue;
            };
            match session.take(message, fd)? {
                Step::Find(_) => {
                    session.found(1, 1);
                    channel.send(&Message::Ack, None)?;
                }
                Step::Ack => channel.send(&Message::Ack, None)?,
                Step::Connect(offer, _) => {
                    channel.send(&Message::Connected("bench".into()), None)?;
                    return End::of(channel, offer);
                }
                Step::Bye(why) => return Err(format!("the client of {} left: {why}", self.name).into()),
                Step::Wait => {}
            }
        }
    }
}

/// A connected server's end.
pub struct End {
    /// From the client.
    rx: Ring,
    /// To the client.
    tx: Ring,
    /// Wakes the client.
    bell: File,
    /// Bursts that were taken.
    takes: u32,
    /// Lives as long as the connection.
    _channel: Channel,
}

impl End {
    fn of(channel: Channel, mut offer: Offer<OwnedFd>) -> Result<End, Box<dyn Error>> {
        // Memory of programs that this one started.
        let regions = offer.regions.iter().map(|(fd, size)| Region::of_peer(fd, *size, true));
        let memory = Arc::new(Memory::new(regions.collect::<Result<_, _>>()?));
        let (Some((from, _)), Some((to, bell))) = (offer.c2s.pop(), offer.s2c.pop()) else {
            return Err("the client has no ring for each direction".into());
        };
        let (rx, tx) = (Ring::of(&memory, &from)?, Ring::of(&memory, &to)?);
        rx.set_polled(true);
        Ok(End { rx, tx, bell: File::from(bell), takes: 0, _channel: channel })
    }

    /// Puts packets into buffers that the client lent, at most [`BURST`]. Returns how many, and whether less than half a
    /// burst still waited for the client.
    fn give(&mut self, frames: &[Frame], next: &mut usize, len: u32) -> Result<(u64, bool), Box<dyn Error>> {
        let (head, tail) = (self.tx.head(), self.tx.tail());
        let room = head.wrapping_sub(tail);
        let n = room.min(BURST);
        for place in (0..n).map(|i| tail.wrapping_add(i)) {
            let desc = self.tx.read(place);
            let whole = Desc { length: desc.length.max(size_of::<Frame>() as u32), ..desc };
            let at = self.tx.memory().buffer(whole).ok_or("the client lent a buffer that it does not have")?;
            // SAFETY: `buffer` checked that so many bytes lie in mapped memory; the client leaves a lent buffer alone, and
            // if it did not, only a frame of the benchmark would be spoilt.
            unsafe { at.cast::<Frame>().write_unaligned(frames[*next % frames.len()]) };
            *next += 1;
            self.tx.write_first(place, Desc { flags: 0, length: len, ..desc });
        }
        if n != 0 {
            self.tx.set_tail(tail.wrapping_add(n));
            if self.tx.wants_interrupt() {
                self.bell.write_all(&1u64.to_ne_bytes())?;
            }
        }
        Ok((u64::from(n), room.saturating_add(BURST / 2) > self.tx.size()))
    }

    /// Takes what has come. Returns how many packets, each of one buffer.
    fn take(&mut self, last: &mut Frame) -> u64 {
        let (head, tail) = (self.rx.head(), self.rx.tail());
        let n = head.wrapping_sub(tail);
        if n != 0 {
            self.takes = self.takes.wrapping_add(1);
            // One of many is looked at, so that it is known what arrived.
            let desc = self.rx.read(tail);
            let whole = Desc { length: size_of::<Frame>() as u32, ..desc };
            if self.takes.is_multiple_of(64)
                && let Some(at) = self.rx.memory().buffer(whole)
            {
                // SAFETY: as in `give`; the client left the buffer to us.
                let frame = unsafe { at.cast::<Frame>().read_unaligned() };
                // A router says something of its own now and then, by ARP.
                if frame[12..14] == [8, 0] {
                    *last = frame;
                }
            }
            self.rx.set_tail(head);
        }
        u64::from(n)
    }
}

/// What both ends have counted.
#[derive(Default)]
pub struct Counts {
    /// Packets that arrived.
    pub received: AtomicU64,
    /// Looks at the ring of the measured one, and those that found hardly anything in it: it was not kept busy.
    pub looks: AtomicU64,
    /// See `looks`.
    pub starved: AtomicU64,
}

/// Both ends at work, until dropped.
pub struct Ends {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Frame, String>>>,
}

impl Ends {
    /// Sends frames of `len` bytes into one end and takes what comes out of the other, on a processor.
    pub fn start(left: End, right: End, frames: Vec<Frame>, len: u32, cpu: usize) -> Ends {
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let (to, end) = (counts.clone(), stop.clone());
        let work = move || {
            pin(cpu).map_err(|e| e.to_string())?;
            serve(left, right, &frames, len, &to, &end).map_err(|e| e.to_string())
        };
        Ends { counts, stop, thread: Some(std::thread::spawn(work)) }
    }

    /// What was counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Ends, and returns one of the last frames that arrived.
    ///
    /// # Errors
    /// When the thread had ended before.
    pub fn stop(mut self) -> Result<Frame, Box<dyn Error>> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().ok_or("stopped twice")?;
        Ok(thread.join().map_err(|_| "the ends' thread panicked")??)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say was asked for in `stop`, or nobody wants it.
            let _ = thread.join();
        }
    }
}

fn serve(
    mut left: End,
    mut right: End,
    frames: &[Frame],
    len: u32,
    counts: &Counts,
    stop: &AtomicBool,
) -> Result<Frame, Box<dyn Error>> {
    let (mut next, mut last) = (0, [0; 64]);
    let (mut received, mut looks, mut starved) = (0, 0, 0);
    while !stop.load(Relaxed) {
        let (_, empty) = left.give(frames, &mut next, len)?;
        // What comes back the way it went is not what was asked for, and is taken so that it does not stand in the way.
        left.take(&mut [0; 64]);
        received += right.take(&mut last);
        looks += 1;
        starved += u64::from(empty);
        counts.received.store(received, Relaxed);
        counts.looks.store(looks, Relaxed);
        counts.starved.store(starved, Relaxed);
    }
    Ok(last)
}
