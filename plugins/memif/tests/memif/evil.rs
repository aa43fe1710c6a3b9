//! Peers that break the rules: hand-made ends of the connection that write what they like.

use super::*;
use smpnet_memif::{
    channel::{Channel, Listening},
    desc::{Desc, NEXT},
    memory::{Memory, Region},
    ring::Ring,
    session,
    wire::{AddRing, Init, MODE_ETHERNET, Message, RING_C2S, VERSION, secret_field},
};
use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const SOCKET: &str = "@smpnet-memif-evil";
const LOG2: u8 = 6;
const SIZE: u16 = 1 << LOG2;
const BUFFER: u32 = 2048;
const S2C_AT: u32 = 4096;
const BUFFERS_AT: u32 = 8192;
/// Both rings, and a buffer for each entry of both.
const BYTES: usize = BUFFERS_AT as usize + 2 * SIZE as usize * BUFFER as usize;

fn eventfd() -> OwnedFd {
    // SAFETY: takes no pointers, and the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) }
}

fn failed(e: impl std::fmt::Display) -> LabError {
    LabError::Failed(e.to_string())
}

fn answer(channel: &Channel) -> Result<Message> {
    let mut answer = None;
    let came = wait_for(|| match channel.receive() {
        Ok(None) => false,
        other => {
            answer = Some(other);
            true
        }
    });
    check(came, || "no answer".into())?;
    match answer.expect("it came").map_err(failed)? {
        Some((message, _)) => Ok(message),
        None => Err(failed("no message")),
    }
}

/// A buffer's descriptor, of the ring from client (0) or from server (1).
fn buffer(ring: u32, place: u16, length: u32) -> Desc {
    let at = ring * u32::from(SIZE) + u32::from(place & (SIZE - 1));
    Desc { flags: 0, region: 0, length, offset: BUFFERS_AT + at * BUFFER }
}

/// A client by hand.
struct Client {
    channel: Channel,
    memory: Arc<Memory>,
    c2s: Ring,
    s2c: Ring,
    next: u16,
    _fds: Vec<OwnedFd>,
}

fn spec(flags: u16, offset: u32) -> AddRing {
    AddRing { flags, index: 0, region: 0, offset, log2_size: LOG2, private_header: 0 }
}

fn init() -> Message {
    Message::Init(Init { version: VERSION, id: 0, mode: MODE_ETHERNET, secret: secret_field(""), name: "evil".into() })
}

/// Connects and says what is given, up to the first refusal, which it returns.
fn dialogue(messages: Vec<(Message, Option<BorrowedFd<'_>>)>) -> Result<(Channel, Option<String>)> {
    let channel = Channel::connect(&SocketName::new(SOCKET).expect("a good name")).map_err(failed)?;
    check(matches!(answer(&channel)?, Message::Hello(_)), || "no hello".into())?;
    for (message, fd) in messages {
        channel.send(&message, fd).map_err(failed)?;
        if let Message::Disconnect { reason, .. } = answer(&channel)? {
            return Ok((channel, Some(reason)));
        }
    }
    Ok((channel, None))
}

impl Client {
    fn connect() -> Result<Client> {
        let (region, fd) = Region::create(BYTES).map_err(failed)?;
        let memory = Arc::new(Memory::new(vec![region]));
        let (c2s_spec, s2c_spec) = (spec(RING_C2S, 0), spec(0, S2C_AT));
        let (c2s, s2c) = (Ring::of(&memory, &c2s_spec), Ring::of(&memory, &s2c_spec));
        let (c2s, s2c) = (c2s.map_err(failed)?, s2c.map_err(failed)?);
        for ring in [&c2s, &s2c] {
            ring.initialise();
        }
        for place in 0..SIZE {
            s2c.write(place, buffer(1, place, BUFFER));
        }
        let interrupts = [eventfd(), eventfd()];
        let (channel, refused) = dialogue(vec![
            (init(), None),
            (Message::AddRegion { index: 0, size: BYTES as u64 }, Some(fd.as_fd())),
            (Message::AddRing(c2s_spec), Some(interrupts[0].as_fd())),
            (Message::AddRing(s2c_spec), Some(interrupts[1].as_fd())),
            (Message::Connect("evil0".into()), None),
        ])?;
        check(refused.is_none(), || format!("refused: {refused:?}"))?;
        let [a, b] = interrupts;
        Ok(Client { channel, memory, c2s, s2c, next: 0, _fds: vec![fd, a, b] })
    }

    /// Puts descriptors into the ring and publishes them.
    fn put(&mut self, descs: &[Desc]) {
        for desc in descs {
            self.c2s.write(self.next, *desc);
            self.next = self.next.wrapping_add(1);
        }
        self.c2s.set_head(self.next);
    }

    /// A good frame in the next buffer, and its descriptor.
    fn good(&self, frame: &[u8]) -> Desc {
        let desc = buffer(0, self.next, frame.len() as u32);
        let to = self.memory.buffer(desc).expect("a buffer of the region");
        // SAFETY: the buffer has room for the frame.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len()) };
        desc
    }
}

fn server(more: Value) -> Result<Port> {
    let mut options = json!({"socket": SOCKET, "role": "server"});
    more.as_object().expect("an object").iter().for_each(|(k, v)| options[k] = v.clone());
    Port::open("s0", 1, options)
}

pub fn a_bad_descriptor_costs_its_own_packet_and_no_other(_lab: Lab) -> Result<()> {
    let mut s = server(json!({}))?;
    let mut c = Client::connect()?;
    let d = |flags, region, offset, length| Desc { flags, region, length, offset };
    let end = BYTES as u32;
    let bad_descriptors: [&[Desc]; 8] = [
        &[d(0, 0, end, 60)],
        &[d(0, 0, end - 59, 60)],
        &[d(0, 0, u32::MAX, 60)],
        &[d(0, 0, 0, u32::MAX)],
        &[d(0, 1, 0, 60)],
        &[d(0, u16::MAX, 0, 60)],
        &[d(0, 0, BUFFERS_AT, 0)],
        // In the midst of a chain; the rest of the chain goes with it.
        &[d(NEXT, 0, BUFFERS_AT, 60), d(NEXT, 7, 0, 60), d(0, 0, BUFFERS_AT, 60)],
    ];
    for (n, bad) in bad_descriptors.iter().enumerate() {
        c.put(bad);
        let frame = frame(n, 60 + n);
        let good = c.good(&frame);
        c.put(&[good]);
        s.expect(std::slice::from_ref(&frame)).map_err(|e| failed(format!("after {bad:?}: {e}")))?;
        check(s.counter("rx_bad_descriptors") == n as u64 + 1, || format!("{bad:?}: {:?}", s.counters()))?;
        check(c.c2s.tail() == c.next, || "the ring is not given back".into())?;
    }
    // Longer than any packet, by many and by few descriptors.
    c.put(&vec![d(NEXT, 0, 0, 4096); 17]);
    let last = frame(99, 70);
    let good = c.good(&last);
    c.put(&[good]);
    let after = frame(100, 71);
    let good = c.good(&after);
    c.put(&[good]);
    s.expect(std::slice::from_ref(&after))?;
    // Without an end: the whole ring, again and again.
    for n in 0..3 {
        check(s.counter("rx_bad_chains") == n + 1, || format!("{:?}", s.counters()))?;
        c.put(&vec![d(NEXT, 0, BUFFERS_AT, 1); usize::from(SIZE)]);
        check(s.poll().is_empty() && c.c2s.tail() == c.next, || "a chain without end blocks the ring".into())?;
    }
    let good = c.good(&after);
    c.put(&[good]);
    s.expect(std::slice::from_ref(&after))?;
    let stats = s.driver().stats();
    check((stats.rx_packets, stats.rx_errors) == (10, 12), || format!("{stats:?}"))?;
    check(s.is_up(), || "the link went down".into())?;
    drop(c);
    s.close();
    nothing_leaks()
}

pub fn a_ring_that_cannot_be_ends_the_connection_with_its_reason(_lab: Lab) -> Result<()> {
    let mut s = server(json!({}))?;
    let beyond = "queue 0: the peer's index is further on than the ring is long";
    let outside = "queue 0: the peer lends a buffer outside of its memory";
    type Evil = fn(&mut Client);
    let cases: [(Evil, &str); 5] = [
        (|c| c.c2s.set_head(SIZE + 1), beyond),
        (|c| c.c2s.set_head(u16::MAX), beyond),
        (|c| c.s2c.set_head(SIZE + 1), beyond),
        (
            |c| {
                c.s2c.write(2, Desc { region: 3, ..buffer(1, 2, BUFFER) });
                c.s2c.set_head(SIZE);
            },
            outside,
        ),
        (
            |c| {
                c.s2c.write(0, buffer(1, 0, 0));
                c.s2c.set_head(SIZE);
            },
            outside,
        ),
    ];
    let frames: Vec<_> = (0..5).map(|n| frame(n, 60)).collect();
    for (n, (evil, want)) in cases.into_iter().enumerate() {
        let mut c = Client::connect()?;
        s.wait(true)?;
        evil(&mut c);
        s.poll();
        s.send(0, &frames);
        s.wait(false)?;
        check(s.last_end() == want, || format!("case {n}: {}", s.last_end()))?;
        check(matches!(answer(&c.channel)?, Message::Disconnect { reason, .. } if reason == want), || {
            format!("case {n}: the peer is told something else")
        })?;
    }
    // A good one goes on where they failed.
    let mut c = Client::connect()?;
    s.wait(true)?;
    let good = c.good(&frames[0]);
    c.put(&[good]);
    s.expect(&frames[..1])?;
    s.close();
    nothing_leaks()
}

pub fn what_a_client_offers_is_checked_before_it_is_used(_lab: Lab) -> Result<()> {
    let s = server(json!({}))?;
    let (region, memory) = Region::create(BYTES).map_err(failed)?;
    drop(region);
    // SAFETY: the name is NUL-terminated and the descriptor new.
    let unsealed = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"unsealed".as_ptr(), libc::MFD_CLOEXEC)) };
    // SAFETY: takes no pointers.
    check(unsafe { libc::ftruncate(unsealed.as_raw_fd(), BYTES as i64) } == 0, || "no memory".into())?;
    let no_eventfd = std::fs::File::open("/dev/null").map_err(failed)?;
    let (pipe, _other_end) = std::io::pipe().map_err(failed)?;
    let good = eventfd();
    let size = BYTES as u64;
    let offer =
        |memory: &'static str, size: u64, ring: AddRing, interrupt: &'static str| (memory, size, ring, interrupt);
    let ring = spec(RING_C2S, 0);
    let cases = [
        (offer("unsealed", size, ring, "good"), "the peer's memory is not sealed"),
        (offer("file", size, ring, "good"), "the peer's memory is not sealed"),
        (offer("sealed", size + 1, ring, "good"), "the peer's memory: a region of 270337 bytes in a file of 270336"),
        (offer("sealed", u64::MAX, ring, "good"), "the peer's memory: a region of 18446744073709551615 bytes"),
        (offer("sealed", 0, ring, "good"), "the peer's memory: a region of 0 bytes"),
        (offer("sealed", size, ring, "file"), "an interrupt that is no eventfd, but /dev/null"),
        (offer("sealed", size, ring, "pipe"), "an interrupt that is no eventfd, but pipe:"),
        (offer("sealed", size, AddRing { region: 1, ..ring }, "good"), "ring 0 from client to server lies outside"),
        (
            offer("sealed", size, AddRing { offset: BYTES as u32 - 64, ..ring }, "good"),
            "ring 0 from client to server lies",
        ),
        (offer("sealed", size, AddRing { offset: u32::MAX - 15, ..ring }, "good"), "ring 0 from client to server lies"),
        (offer("sealed", size, AddRing { offset: 8, ..ring }, "good"), "ring 0 from client to server does not begin"),
        (offer("sealed", size, AddRing { log2_size: 15, ..ring }, "good"), "a ring of 2^15 entries"),
        (offer("sealed", size, AddRing { log2_size: 255, ..ring }, "good"), "a ring of 2^255 entries"),
        (
            offer("sealed", size, AddRing { private_header: 4, ..ring }, "good"),
            "ring 0 from client to server has private",
        ),
        (offer("sealed", size, AddRing { index: 1, ..ring }, "good"), "ring 1 after 0 others"),
        (offer("sealed", size, ring, "good"), "ring 0 has no cookie"),
    ];
    for ((memory_kind, size, ring, interrupt), want) in cases {
        let memory_fd = match memory_kind {
            "sealed" => memory.as_fd(),
            "unsealed" => unsealed.as_fd(),
            _ => no_eventfd.as_fd(),
        };
        let interrupt_fd = match interrupt {
            "good" => good.as_fd(),
            "pipe" => pipe.as_fd(),
            _ => no_eventfd.as_fd(),
        };
        let (_channel, refused) = dialogue(vec![
            (init(), None),
            (Message::AddRegion { index: 0, size }, Some(memory_fd)),
            (Message::AddRing(ring), Some(interrupt_fd)),
            (Message::Connect("evil0".into()), None),
        ])?;
        let refused = refused.unwrap_or_else(|| "nothing".into());
        check(refused.starts_with(want), || format!("{memory_kind} {size} {ring:?} {interrupt}: {refused:?}"))?;
    }
    check(!s.is_up(), || "one of them is connected".into())?;
    // Versions and modes.
    let mut other = Init { version: 0x0100, id: 0, mode: 0, secret: [0; 24], name: "old".into() };
    let (_, refused) = dialogue(vec![(Message::Init(other.clone()), None)])?;
    check(refused.as_deref() == Some("memif version 1.0 is not 2.0"), || format!("{refused:?}"))?;
    (other.version, other.mode) = (VERSION, 1);
    let (_, refused) = dialogue(vec![(Message::Init(other), None)])?;
    check(refused.as_deref() == Some("only the mode ethernet is possible here"), || format!("{refused:?}"))?;
    // A client that says nothing, and one that sends what is no message, disturb nobody.
    let _silent = dialogue(vec![])?;
    let mut noisy = std::os::unix::net::UnixStream::from(raw_connection()?);
    noisy.write_all(&[0xff; 200]).map_err(failed)?;
    let c = Client::connect()?;
    s.wait(true)?;
    drop(c);
    s.close();
    nothing_leaks()
}

/// A connected socket without the frame of messages.
fn raw_connection() -> Result<OwnedFd> {
    let channel = Channel::connect(&SocketName::new(SOCKET).expect("a good name")).map_err(failed)?;
    // SAFETY: a descriptor that is open; the copy is new.
    let fd = unsafe { libc::dup(channel.raw_fd()) };
    check(fd >= 0, || "dup".into())?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A server by hand, that has accepted a client and its offer.
struct Server {
    channel: Channel,
    memory: Arc<Memory>,
    c2s: Ring,
    s2c: Ring,
    _fds: Vec<OwnedFd>,
}

impl Server {
    fn accept(listening: &Listening) -> Result<Server> {
        let mut channel = None;
        wait_for(|| {
            channel = listening.accept().ok();
            channel.is_some()
        });
        let channel = channel.ok_or_else(|| failed("no client"))?;
        channel.send(&session::hello(1, 1), None).map_err(failed)?;
        let (mut regions, mut rings, mut fds) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let mut got = None;
            wait_for(|| {
                got = channel.receive().ok().flatten();
                got.is_some()
            });
            let (message, fd) = got.ok_or_else(|| failed("the client is silent"))?;
            match message {
                Message::Init(_) => {}
                Message::AddRegion { size, .. } => {
                    let fd = fd.ok_or_else(|| failed("no memory"))?;
                    regions.push(Region::of_peer(&fd, size, false).map_err(failed)?);
                    fds.push(fd);
                }
                Message::AddRing(ring) => {
                    rings.push(ring);
                    fds.extend(fd);
                }
                Message::Connect(_) => break,
                other => return Err(failed(other)),
            }
            channel.send(&Message::Ack, None).map_err(failed)?;
        }
        let memory = Arc::new(Memory::new(regions));
        let (c2s, s2c) = (Ring::of(&memory, &rings[0]), Ring::of(&memory, &rings[1]));
        let (c2s, s2c) = (c2s.map_err(failed)?, s2c.map_err(failed)?);
        channel.send(&Message::Connected("evil".into()), None).map_err(failed)?;
        Ok(Server { channel, memory, c2s, s2c, _fds: fds })
    }
}

fn client(zero_copy: bool) -> Result<(Listening, Port)> {
    let listening = Listening::bind(&SocketName::new(SOCKET).expect("a good name")).map_err(failed)?;
    let options = json!({"socket": SOCKET, "role": "client", "ring_size": 64, "zero_copy": zero_copy});
    Ok((listening, Port::open("c0", 1, options)?))
}

pub fn a_server_that_breaks_the_rules_harms_only_its_own_packets(_lab: Lab) -> Result<()> {
    for zero_copy in [false, true] {
        let (listening, mut c) = client(zero_copy)?;
        let s = Server::accept(&listening)?;
        c.wait(true)?;
        c.poll();
        check(s.s2c.head() == 64, || format!("{} buffers are lent", s.s2c.head()))?;
        let mut tail = 0u16;
        let mut put = |descs: &[(u16, u32)]| {
            for (flags, length) in descs {
                let lent = s.s2c.read(tail);
                if *length <= 2048 {
                    let to = s.memory.buffer(lent).expect("a lent buffer");
                    // SAFETY: the buffer has room for as many bytes as it says.
                    unsafe { to.write_bytes(0xab, (*length).min(lent.length) as usize) };
                }
                // Where it says that the buffer lies must not matter.
                s.s2c.write(tail, Desc { flags: *flags, region: 9, length: *length, offset: u32::MAX });
                tail = tail.wrapping_add(1);
            }
            s.s2c.set_tail(tail);
        };
        let good = vec![vec![0xab; 100]];
        for (n, length) in [4096u32, 0, u32::MAX, 1 << 31].into_iter().enumerate() {
            put(&[(0, length), (0, 100)]);
            c.expect(&good).map_err(|e| failed(format!("zero_copy {zero_copy}, length {length}: {e}")))?;
            check(c.counter("rx_bad_descriptors") == n as u64 + 1, || format!("{:?}", c.counters()))?;
        }
        put(&[(NEXT, 60), (NEXT, 4096), (0, 60), (0, 100)]);
        c.expect(&good)?;
        check(c.counter("rx_bad_descriptors") == 5, || format!("{:?}", c.counters()))?;
        // Whole rings of a chain without end.
        for n in 0..3 {
            c.poll();
            put(&[(NEXT, 1); 40]);
            check(c.poll().is_empty() && c.counter("rx_bad_chains") == n + 1, || format!("{:?}", c.counters()))?;
        }
        c.poll();
        put(&[(0, 100)]);
        c.expect(&good)?;
        check(c.is_up() && c.driver().stats().rx_errors == 8, || format!("{:?}", c.driver().stats()))?;
        drop(s);
        c.wait(false)?;
        c.poll();
        nothing_leaks()?;
        // States that cannot be.
        type Evil = fn(&Server);
        let frames: Vec<_> = (0..5).map(|n| frame(n, 60)).collect();
        let cases: [Evil; 4] = [
            |s| s.s2c.set_tail(65),
            |s| s.s2c.set_tail(u16::MAX),
            |s| s.c2s.set_tail(1),
            |s| s.c2s.set_tail(u16::MAX - 100),
        ];
        for (n, evil) in cases.into_iter().enumerate() {
            let s = Server::accept(&listening)?;
            c.wait(true)?;
            c.poll();
            evil(&s);
            c.poll();
            c.send(0, &frames);
            c.wait(false)?;
            check(c.last_end().starts_with("queue 0: the peer"), || format!("case {n}: {}", c.last_end()))?;
            c.poll();
            c.reap();
            nothing_leaks()?;
            check(matches!(answer(&s.channel)?, Message::Disconnect { .. }), || "the peer is not told".into())?;
        }
        c.close();
        nothing_leaks()?;
    }
    Ok(())
}

pub fn a_server_of_another_version_or_without_manners_is_refused(_lab: Lab) -> Result<()> {
    let (listening, c) = client(false)?;
    let next = || -> Result<Channel> {
        let mut channel = None;
        wait_for(|| {
            channel = listening.accept().ok();
            channel.is_some()
        });
        channel.ok_or_else(|| failed("no client"))
    };
    let told = |want: &str| check(wait_for(|| c.trouble() == want), || format!("{want:?}: {}", c.driver().status()));
    let Message::Hello(mut old) = session::hello(1, 1) else { return Err(failed("no hello")) };
    (old.min_version, old.max_version) = (0x0100, 0x01ff);
    let s = next()?;
    s.send(&Message::Hello(old), None).map_err(failed)?;
    told("the server speaks memif 1.0 to 1.255, and not 2.0")?;
    let s = next()?;
    s.send(&Message::Ack, None).map_err(failed)?;
    told("ack instead of hello")?;
    let s = next()?;
    s.send(&session::hello(1, 1), None).map_err(failed)?;
    answer(&s)?;
    s.send(&Message::Connected("too soon".into()), None).map_err(failed)?;
    told("connected instead of ack for init")?;
    let s = next()?;
    s.send(&Message::Disconnect { code: 1, reason: "go\x1b away".into() }, None).map_err(failed)?;
    told("the peer disconnected: go? away")?;
    drop(next()?);
    told("the peer closed the connection")?;
    c.close();
    nothing_leaks()
}

/// A peer that writes anything anywhere, all the time, while packets are received and sent.
pub fn a_peer_that_scribbles_over_all_shared_memory_ends_nothing_but_its_connection(_lab: Lab) -> Result<()> {
    for area in [BYTES, BUFFERS_AT as usize, 200] {
        let mut s = server(json!({}))?;
        let frames: Vec<_> = (0..64).map(|n| frame(n, 60 + 31 * n)).collect();
        let mut ended = 0;
        for seed in 1..=12u64 {
            let mut c = Client::connect()?;
            s.wait(true)?;
            c.s2c.set_head(SIZE);
            let good = c.good(&frames[0]);
            c.put(&vec![good; 32]);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (memory, stop) = (c.memory.clone(), &stop);
                scope.spawn(move || {
                    let base = memory.at(0, 0, BYTES as u64).expect("the region");
                    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    while !stop.load(Ordering::Relaxed) {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let at = (state >> 33) as usize % area;
                        // SAFETY: within the region, which nobody holds a reference to.
                        unsafe { base.add(at).write_volatile((state >> 20) as u8) };
                    }
                });
                let mut cells = 0;
                for _ in 0..3000 {
                    cells += s.poll().len();
                    s.send(0, &frames[..8]);
                    if !s.is_up() {
                        break;
                    }
                }
                stop.store(true, Ordering::Relaxed);
                cells
            });
            ended += usize::from(!s.is_up());
            drop(c);
            s.wait(false)?;
            s.poll();
            s.reap();
            nothing_leaks()?;
        }
        println!("{area} bytes: {ended} of 12 connections ended for what was scribbled; {:?}", s.counters());
        check(area > 200 || ended > 0, || "no index was ever hit".into())?;
        // After all that, all is well.
        let mut c = Client::connect()?;
        s.wait(true)?;
        let good = c.good(&frames[1]);
        c.put(&[good]);
        s.expect(&frames[1..2])?;
        s.close();
        nothing_leaks()?;
    }
    Ok(())
}

/// The same of a server, against a client's own memory.
pub fn a_server_that_scribbles_over_the_clients_memory_ends_nothing_but_its_connection(_lab: Lab) -> Result<()> {
    let (listening, mut c) = client(false)?;
    let frames: Vec<_> = (0..64).map(|n| frame(n, 60 + 31 * n)).collect();
    for seed in 1..=12u64 {
        let s = Server::accept(&listening)?;
        c.wait(true)?;
        c.poll();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (memory, stop) = (s.memory.clone(), &stop);
            scope.spawn(move || {
                let area = if seed % 2 == 0 { 2 * 1152 } else { memory.sizes()[0] };
                let base = memory.at(0, 0, area).expect("the region");
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while !stop.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (state >> 33) % area;
                    // SAFETY: within the region, which nobody holds a reference to.
                    unsafe { base.add(at as usize).write_volatile((state >> 20) as u8) };
                }
            });
            for _ in 0..3000 {
                drop(c.poll());
                c.send(0, &frames[..8]);
                if !c.is_up() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(s);
        c.wait(false)?;
        c.poll();
        c.reap();
        nothing_leaks()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    c.close();
    nothing_leaks()
}
