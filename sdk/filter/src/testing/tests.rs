use super::frame::checksum;
use super::*;
use crate::wire::{Ip, Ipv4};
use crate::{Error, Filter, Fix, Keys, Records, fail};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::ToString;

crate::filter! {
    name: "all-of-it",
    version: "9.9.9",
    summary: "does what the first byte of the payload says",
    window: 64,
    tick_ms: 100,
    state: keep,
    capabilities: [tables, mark, edit, reject, clock],
    counters: [packets, ticks],
    tables: [names: exact, nets: ipv4, nets6: ipv6],
    type: AllOfIt,
}

struct AllOfIt {
    greeting: String,
    ticks: u64,
    keys: Keys<34, 8>,
    state: Records<8>,
}

impl Filter for AllOfIt {
    fn new(config: &[u8]) -> Result<Self, Error> {
        let greeting = core::str::from_utf8(config).unwrap_or("").into();
        if greeting == "no" {
            fail!("\"{greeting}\" will not do");
        }
        Ok(AllOfIt { greeting, ticks: 0, keys: Keys::new(), state: Records::new() })
    }

    fn filter(&mut self, burst: &mut Burst<'_>) {
        burst.count(counters::packets, burst.len() as u64);
        burst.count(counters::ticks, core::mem::take(&mut self.ticks));
        for p in burst.packets() {
            let Some(udp) = p.udp() else { continue };
            match udp.payload().first() {
                Some(b'd') => burst.drop(p),
                Some(b'r') => burst.reject(p),
                Some(b'm') => burst.mark(p, crate::clock_ns() as u32),
                Some(b't') => burst.set_ttl(p, 1).unwrap(),
                Some(b'q') => burst.set_dscp(p, 46).unwrap(),
                Some(b'a') => {
                    let at = p.ip_offset().unwrap();
                    let field = if p.ipv4().is_some() { at + 16..at + 20 } else { at + 36..at + 40 };
                    burst.edit(p, field.start, &[9, 8, 7, 6], Fix::BOTH).unwrap();
                    burst.edit(p, p.transport_offset().unwrap() + 2, &[0xab, 0xcd], Fix::L4).unwrap();
                }
                Some(b'o') => assert!(burst.edit(p, 60, &[0; 5], Fix::NOTHING).is_err()),
                Some(b'f') => while burst.edit(p, 0, &[1; 32], Fix::NOTHING).is_ok() {},
                Some(b'n') => {
                    self.keys.clear();
                    self.keys.push(b"absent").unwrap();
                    self.keys.push(&udp.payload()[1..]).unwrap();
                    let found: Vec<Option<u32>> = tables::names.look_up(&mut self.keys).collect();
                    burst.mark(p, found[1].unwrap_or(0) + if found[0].is_some() { 1000 } else { 0 });
                }
                Some(b'p') => {
                    let mut out = [None];
                    match p.ip().unwrap().source() {
                        IpAddr::V4(a) => tables::nets.look_up(&[a], &mut out),
                        IpAddr::V6(a) => tables::nets6.look_up(&[a], &mut out),
                    }
                    burst.mark(p, out[0].unwrap_or(0));
                }
                Some(b'l') => crate::info!("{} from {:?}", self.greeting, burst.direction()),
                _ => burst.pass(p),
            }
        }
    }

    fn tick(&mut self, _now_ns: u64) {
        self.ticks += 1;
    }

    fn export_state(&mut self, offset: usize, out: &mut [u8]) -> usize {
        let all = [1u64, 2, 3].map(u64::to_be_bytes);
        let rest = all.as_flattened().get(offset..).unwrap_or(&[]);
        // Pieces of a size that no record has.
        let n = rest.len().min(5);
        out[..n].copy_from_slice(&rest[..n]);
        n
    }

    fn import_state(&mut self, _offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let greeting = &mut self.greeting;
        self.state.feed(bytes, |r| greeting.push_str(&u64::from_be_bytes(*r).to_string()));
        if self.greeting.starts_with("stranger") {
            fail!("this state is not mine");
        }
        Ok(())
    }
}

fn harness() -> Harness<AllOfIt> {
    Harness::new("hello").unwrap()
}

fn udp(payload: &str) -> Frame {
    Frame::udp("10.1.0.1:1000", "10.0.0.2:2000").payload(payload.as_bytes())
}

fn udp6(payload: &str) -> Frame {
    Frame::udp("[2001:db8::1]:1000", "[2001:db8::2]:2000").payload(payload.as_bytes())
}

/// Whether the sums of IPv4 header and transport are right.
fn sums_are_right(frame: &[u8]) -> bool {
    let bytes = &frame[14..];
    let ip = Ip::parse(bytes).unwrap();
    let (header, addresses) = match ip {
        Ip::V4(ip) => (checksum(&[&bytes[..ip.header_len()]]), bytes[12..20].to_vec()),
        Ip::V6(_) => (0, bytes[8..40].to_vec()),
    };
    let rest = ip.transport().unwrap();
    let pseudo = [&addresses[..], &(rest.len() as u32).to_be_bytes(), &[0, 0, 0, ip.protocol()]].concat();
    header == 0 && checksum(&[&pseudo, rest]) == 0
}

#[test]
fn verdicts_and_marks_reach_the_packets() {
    let mut h = harness();
    let burst: Vec<Vec<u8>> = ["x", "d", "r", "m", ""].iter().map(|p| udp(p).bytes()).collect();
    let fates: Vec<Fate> = h.burst(&burst).iter().map(|j| j.fate).collect();
    assert_eq!(fates, [Fate::Pass, Fate::Drop, Fate::Reject, Fate::Mark(1_000_000_000), Fate::Pass]);
    assert_eq!(h.counter("packets"), 5);
    assert_eq!(h.burst(&vec![udp("d").bytes(); 200]).iter().filter(|j| j.fate == Fate::Drop).count(), 200);
}

#[test]
fn edits_change_the_packet_and_correct_its_checksums() {
    let mut h = harness();
    for frame in [udp("t more"), udp("a odd"), udp6("t more"), udp6("a odd"), udp("q"), udp6("q")] {
        assert!(sums_are_right(&frame.bytes()), "{frame:?}");
        let judged = h.packet(&frame.bytes());
        assert!(judged.bytes != frame.bytes() && sums_are_right(&judged.bytes), "{frame:?}");
    }
    let changed = h.packet(&udp("a odd").bytes()).bytes;
    let ip = Ipv4::parse(&changed[14..]).unwrap();
    assert_eq!((ip.destination().octets(), &ip.payload()[2..4]), ([9, 8, 7, 6], &[0xab, 0xcd][..]));
    assert_eq!(Ip::parse(&h.packet(&udp6("t").bytes()).bytes[14..]).unwrap().ttl(), 1);
}

#[test]
fn an_edit_outside_of_the_window_or_beyond_the_room_is_refused() {
    let mut h = harness();
    let long = std::format!("o{}", "x".repeat(100));
    assert_eq!(h.packet(&udp(&long).bytes()).bytes, udp(&long).bytes());
    assert_eq!(h.packet(&udp("f").bytes()).bytes[..32], [1; 32]);
}

#[test]
fn tables_are_looked_into_and_changed_while_the_filter_runs() {
    let mut h = harness();
    assert_eq!(h.packet(&udp("nfoo").bytes()).fate, Fate::Mark(0));
    h.table("names", &[("foo", 7)]);
    assert_eq!(h.packet(&udp("nfoo").bytes()).fate, Fate::Mark(7));
    h.prefixes("nets", &[("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/23", 3), ("10.1.1.0/24", 4)]);
    assert_eq!(h.packet(&udp("p").bytes()).fate, Fate::Mark(3));
    h.prefixes("nets6", &[("2001:db8::/31", 5)]);
    assert_eq!(h.packet(&udp6("p").bytes()).fate, Fate::Mark(5));
}

#[test]
fn time_passes_only_when_it_is_let() {
    let mut h = harness();
    h.packet(&udp("x").bytes());
    h.advance(Duration::from_millis(99)).packet(&udp("x").bytes());
    assert_eq!(h.counter("ticks"), 0);
    h.advance(Duration::from_millis(500)).packet(&udp("x").bytes());
    assert_eq!(h.counter("ticks"), 1, "ticks that were missed are not made up for");
}

#[test]
fn lines_are_logged_with_their_level() {
    let mut h = harness();
    h.direction(Direction::Out).packet(&udp("l").bytes());
    assert_eq!(h.log(), [Line { level: Level::Info, text: "hello from Out".into() }]);
    assert!(h.logged(Level::Info, "from"));
}

#[test]
fn state_goes_to_the_next_generation_in_parts_of_any_size() {
    let mut h = harness();
    h.table("names", &[("foo", 7)]);
    let mut h = h.swap::<AllOfIt>("again").unwrap();
    h.packet(&udp("l").bytes());
    assert!(h.logged(Level::Info, "again123 from In"));
    assert_eq!(h.packet(&udp("nfoo").bytes()).fate, Fate::Mark(7), "tables belong to the host");
    let mut h = h.swap::<AllOfIt>("stranger").unwrap();
    assert!(h.logged(Level::Error, "this state is not mine"));
    h.packet(&udp("l").bytes());
    assert!(h.logged(Level::Info, "stranger from"), "what refused its state begins anew");
}

#[test]
fn a_configuration_that_is_refused_says_why() {
    assert_eq!(Harness::<AllOfIt>::new("no").err().unwrap(), "\"no\" will not do");
}

/// A filter that does what it has no capability for.
mod without {
    use super::*;

    crate::filter! { name: "without", summary: "may do nothing", type: Without }

    pub struct Without;

    impl Filter for Without {
        fn new(_config: &[u8]) -> Result<Self, Error> {
            Ok(Without)
        }

        fn filter(&mut self, burst: &mut Burst<'_>) {
            for p in burst.packets() {
                match p.udp().and_then(|u| u.payload().first().copied()) {
                    Some(b'r') => burst.reject(p),
                    Some(b'm') => burst.mark(p, 1),
                    Some(b'e') => burst.edit(p, 0, &[1], Fix::NOTHING).unwrap(),
                    Some(b'c') => burst.mark(p, crate::clock_ns() as u32),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn what_smpnet_would_take_as_a_fault_is_a_panic() {
    for (what, says) in [("r", "reject"), ("m", "mark"), ("e", "edit"), ("c", "clock")] {
        let mut h = Harness::<without::Without>::new("").unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| h.packet(&udp(what).bytes()))).unwrap_err();
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap();
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn packets_are_read_from_pcap_files_with_their_times() {
    let file = std::env::temp_dir().join(std::format!("smpnet-filter-{}.pcap", std::process::id()));
    let mut writer = pcap_file::pcap::PcapWriter::new(std::fs::File::create(&file).unwrap()).unwrap();
    for (millis, payload) in [(5_000, "x"), (5_250, "d"), (5_250, "m")] {
        let bytes = udp(payload).bytes();
        let time = Duration::from_millis(millis);
        writer.write_packet(&pcap_file::pcap::PcapPacket::new(time, bytes.len() as u32, &bytes)).unwrap();
    }
    drop(writer);
    let mut h = harness();
    let fates: Vec<Fate> = h.pcap(&file).unwrap().iter().map(|j| j.fate).collect();
    assert_eq!(fates, [Fate::Pass, Fate::Drop, Fate::Mark(1_250_000_000)]);
    assert_eq!(h.counter("ticks"), 1);
    std::fs::remove_file(&file).unwrap();
    assert!(h.pcap(&file).unwrap_err().contains("smpnet-filter"));
}
