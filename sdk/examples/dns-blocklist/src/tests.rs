use super::*;
use proptest::prelude::*;
use smpnet_filter::testing::{Fate, Frame, Harness, dns_query};

fn query(name: &str) -> Vec<u8> {
    to(53, &dns_query(name))
}

fn to(port: u16, message: &[u8]) -> Vec<u8> {
    Frame::udp("10.0.0.1:5353", &format!("10.0.0.2:{port}")).payload(message).bytes()
}

fn harness(config: &str) -> Harness<DnsBlocklist> {
    let mut h = Harness::new(config).unwrap();
    h.table("names", &[("ads.example", 0), ("good.ads.example", 1), ("maybe.example", 2), ("zip", 0)]);
    h
}

fn fates(h: &mut Harness<DnsBlocklist>, names: &[&str]) -> Vec<bool> {
    let burst: Vec<Vec<u8>> = names.iter().map(|n| query(n)).collect();
    h.burst(&burst).iter().map(|j| j.fate == Fate::Drop).collect()
}

#[test]
fn a_listed_name_and_all_below_it_are_blocked_in_one_look_up() {
    let mut h = harness("");
    let names = ["ads.example", "WWW.Ads.eXample", "example", "bads.example", "ads.example.org", "a.zip", "."];
    assert_eq!(fates(&mut h, &names), [true, true, false, false, false, true, false]);
    assert_eq!((h.counter("queries"), h.counter("blocked"), h.calls_to_tables()), (7, 3, 1));
}

#[test]
fn the_longest_entry_decides() {
    let mut h = harness("");
    let names = ["x.good.ads.example", "good.ads.example", "bad.ads.example", "www.maybe.example"];
    assert_eq!(fates(&mut h, &names), [false, false, true, false]);
    assert_eq!((h.counter("allowed"), h.counter("noted"), h.counter("blocked")), (2, 1, 1));
}

#[test]
fn the_list_is_changed_while_the_filter_runs() {
    let mut h = harness("");
    assert_eq!(fates(&mut h, &["new.example"]), [false]);
    h.table("names", &[("new.example", 0)]);
    assert_eq!(fates(&mut h, &["new.example", "ads.example"]), [true, false]);
}

#[test]
fn other_ports_are_looked_at_when_the_configuration_says_so() {
    let mut h = harness("ports = 5300, 5301");
    let message = dns_query("ads.example");
    let fates = [53, 5300, 5301].map(|port| h.packet(&to(port, &message)).fate);
    assert_eq!(fates, [Fate::Pass, Fate::Drop, Fate::Drop]);
}

#[test]
fn the_sender_is_told_when_the_configuration_says_so() {
    let mut h = harness("action = reject");
    assert_eq!(h.packet(&query("ads.example")).fate, Fate::Reject);
    assert!(Harness::<DnsBlocklist>::new("action = eat").err().unwrap().contains("drop or reject"));
    assert!(Harness::<DnsBlocklist>::new("ports = 1,2,3,4,5,6,7,8,9").err().unwrap().contains("at most 8"));
}

#[test]
fn answers_and_tcp_pass_without_a_look() {
    let mut h = harness("");
    let mut answer = dns_query("ads.example");
    answer[2] |= 0x80;
    assert_eq!(h.packet(&to(53, &answer)).fate, Fate::Pass);
    let over_tcp = Frame::tcp("10.0.0.1:5353", "10.0.0.2:53").payload(&dns_query("ads.example")).bytes();
    assert_eq!(h.packet(&over_tcp).fate, Fate::Pass);
    assert_eq!((h.counter("queries"), h.counter("malformed"), h.calls_to_tables()), (0, 0, 0));
}

#[test]
fn a_name_that_is_given_by_a_pointer_is_followed() {
    let mut h = harness("");
    // Two questions, as nobody asks them: the second one is not looked at, the first one is plain.
    let mut message = dns_query("ads.example");
    message[5] = 2;
    message.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(h.packet(&to(53, &message)).fate, Fate::Drop);
    // A pointer as the first name can only lead astray.
    let mut message = dns_query("");
    message.truncate(12);
    message.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(h.packet(&to(53, &message)).fate, Fate::Pass);
    assert_eq!(h.counter("malformed"), 1);
}

#[test]
fn what_is_not_to_be_understood_passes_and_is_counted() {
    let mut h = harness("");
    let cut = &dns_query("ads.example")[..15];
    for message in [&b"short"[..], cut, &[0; 12]] {
        assert_eq!(h.packet(&to(53, message)).fate, Fate::Pass);
    }
    assert_eq!((h.counter("malformed"), h.counter("queries")), (3, 0));
}

#[test]
fn a_query_over_ipv6_with_a_tag_is_blocked_too() {
    let mut h = harness("");
    let frame = Frame::udp("[2001:db8::1]:5353", "[2001:db8::2]:53").vlan(7);
    assert_eq!(h.packet(&frame.payload(&dns_query("ads.example")).bytes()).fate, Fate::Drop);
}

#[test]
fn names_of_very_many_labels_cost_a_bounded_number_of_look_ups_and_are_blocked_by_their_parents() {
    let mut h = harness("");
    let deep = format!("{}ads.example", "a.".repeat(120));
    assert_eq!(fates(&mut h, &[&*deep; 64]), [true; 64]);
    assert_eq!(h.calls_to_tables(), 3, "640 keys in calls of 250");
}

#[test]
fn the_longest_name_there_is_fits_into_the_window() {
    let mut h = harness("");
    let label = "x".repeat(60);
    let name = format!("{label}.{label}.{label}.{}.ads.example", "y".repeat(56));
    assert_eq!(name.len(), 251);
    let frame = Frame::udp("[2001:db8::1]:5353", "[2001:db8::2]:53").vlan(7).payload(&dns_query(&name));
    assert_eq!(h.packet(&frame.bytes()).fate, Fate::Drop);
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..64)) {
        harness("").burst(&packets);
    }

    #[test]
    fn no_message_makes_it_panic(
        messages in proptest::collection::vec(proptest::collection::vec(prop_oneof![0u8..4, Just(0xc0), any::<u8>()], 0..320), 1..64),
    ) {
        let mut h = harness("");
        let burst: Vec<Vec<u8>> = messages.iter().map(|m| to(53, m)).collect();
        h.burst(&burst);
    }

    #[test]
    fn a_name_is_blocked_if_and_only_if_a_suffix_of_it_is_listed(
        labels in proptest::collection::vec("(ads|example|good|zip|a)", 1..8),
    ) {
        let mut h = Harness::<DnsBlocklist>::new("").unwrap();
        h.table("names", &[("ads.example", 0), ("zip", 0)]);
        let name = labels.join(".");
        let listed = ["ads.example", "zip"].iter().any(|l| name == *l || name.ends_with(&format!(".{l}")));
        prop_assert_eq!(fates(&mut h, &[&*name]), [listed]);
    }
}
