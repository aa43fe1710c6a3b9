use super::*;
use proptest::prelude::*;
use smpnet_filter::testing::{Fate, Frame, Harness};
use smpnet_filter::wire::tcp_flags;
use std::time::Duration;

fn syn(source: &str) -> Vec<u8> {
    Frame::tcp(source, if source.starts_with('[') { "[2001:db8::80]:80" } else { "10.9.9.9:80" }).bytes()
}

fn harness(config: &str) -> Harness<SynFlood> {
    Harness::new(config).unwrap()
}

/// How many of `n` SYNs of a source pass now.
fn passed(h: &mut Harness<SynFlood>, source: &str, n: usize) -> usize {
    h.burst(&vec![syn(source); n]).iter().filter(|j| j.fate == Fate::Pass).count()
}

#[test]
fn a_source_opens_a_burst_of_connections_and_then_its_rate() {
    let mut h = harness("rate = 10; burst = 25");
    assert_eq!(passed(&mut h, "10.0.0.1:1", 100), 25);
    assert_eq!(passed(&mut h, "10.0.0.2:1", 100), 25, "another source has its own");
    h.advance(Duration::from_secs(1));
    assert_eq!(passed(&mut h, "10.0.0.1:1", 100), 10);
    assert_eq!((h.counter("syns"), h.counter("limited"), h.counter("sources_new")), (300, 240, 2));
}

#[test]
fn only_packets_that_open_a_connection_are_limited() {
    let mut h = harness("rate = 1; burst = 1");
    let others = [
        Frame::tcp("10.0.0.1:1", "10.0.0.2:80").flags(tcp_flags::ACK),
        Frame::tcp("10.0.0.1:1", "10.0.0.2:80").flags(tcp_flags::SYN | tcp_flags::ACK),
        Frame::tcp("10.0.0.1:1", "10.0.0.2:80").flags(tcp_flags::RST),
        Frame::udp("10.0.0.1:1", "10.0.0.2:80"),
        Frame::icmp("10.0.0.1:1", "10.0.0.2:1"),
    ];
    for frame in others {
        assert!(h.burst(&vec![frame.bytes(); 70]).iter().all(|j| j.fate == Fate::Pass), "{frame:?}");
    }
    assert_eq!(h.counter("syns"), 0);
}

#[test]
fn the_addresses_of_an_ipv6_network_are_one_source() {
    let mut h = harness("rate = 1; burst = 3");
    let burst: Vec<Vec<u8>> = (0..10).map(|i| syn(&format!("[2001:db8:1:2::{i:x}]:1"))).collect();
    assert_eq!(h.burst(&burst).iter().filter(|j| j.fate == Fate::Pass).count(), 3);
    assert_eq!(passed(&mut h, "[2001:db8:1:3::1]:1", 10), 3);
}

#[test]
fn a_flood_from_addresses_that_never_come_twice_is_limited_and_known_sources_go_on() {
    let mut h = harness("rate = 5; burst = 5; new_rate = 100; new_burst = 100; sources = 1024");
    assert_eq!(passed(&mut h, "10.0.0.1:1", 1), 1);
    let flood: Vec<Vec<u8>> =
        (0..5000u32).map(|i| syn(&format!("{}:1", std::net::Ipv4Addr::from(0x0b00_0000 + i)))).collect();
    let through = h.burst(&flood).iter().filter(|j| j.fate == Fate::Pass).count();
    assert_eq!((through, h.counter("limited_new")), (99, 4901));
    assert_eq!(passed(&mut h, "10.0.0.1:1", 1), 1, "who was known before is not hurt");
}

#[test]
fn a_worker_applies_its_share_of_the_limits() {
    let mut h = harness("rate = 8; burst = 8");
    h.worker(1, 4);
    assert_eq!(passed(&mut h, "10.0.0.1:1", 50), 2);
    h.advance(Duration::from_secs(1));
    assert_eq!(passed(&mut h, "10.0.0.1:1", 50), 2);
}

#[test]
fn buckets_go_to_the_next_generation_which_may_have_other_limits() {
    let mut h = harness("rate = 10; burst = 20");
    // So many sources that their state does not go over in one part.
    for i in 0..2000u32 {
        passed(&mut h, &format!("{}:1", std::net::Ipv4Addr::from(0x0a00_0000 + i)), 1);
    }
    assert_eq!(passed(&mut h, "10.0.0.1:1", 100), 19);
    let mut h = h.swap::<SynFlood>("rate = 50; burst = 50").unwrap();
    assert_eq!(passed(&mut h, "10.0.0.1:1", 100), 0, "a swap fills no bucket");
    assert_eq!(passed(&mut h, "10.0.7.207:1", 100), 19, "nor does it forget one");
    assert_eq!(h.counter("sources_new"), 0);
    h.advance(Duration::from_secs(1));
    assert_eq!(passed(&mut h, "10.0.0.1:1", 100), 50);
}

#[test]
fn limits_can_be_tried_out() {
    let mut h = harness("rate = 1; burst = 1; only_count = yes");
    assert_eq!(passed(&mut h, "10.0.0.1:1", 10), 10);
    assert_eq!(h.counter("limited"), 9);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let error = |config: &str| Harness::<SynFlood>::new(config).err().unwrap();
    assert!(error("rate = 0").contains("would let no connection through"));
    assert!(error("sources = 100000").contains("from 8 to 32768"));
    assert!(error("rat = 5").contains("there is no key \"rat\""));
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..150), 1..64)) {
        let mut h = harness("rate = 1");
        h.burst(&packets);
    }

    #[test]
    fn no_state_makes_it_panic(state in proptest::collection::vec(any::<u8>(), 0..500), cut in 1usize..100) {
        let mut h = harness("rate = 1");
        for part in state.chunks(cut) {
            h.filter().import_state(0, part).unwrap();
        }
        passed(&mut h, "10.0.0.1:1", 3);
    }
}
