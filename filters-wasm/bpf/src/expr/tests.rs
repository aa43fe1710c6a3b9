use super::*;
use crate::disasm;

fn listing(expr: &str, dlt: Dlt) -> String {
    disasm(compile(expr, dlt, 262_144).unwrap().insns())
}

fn refusal(expr: &str, dlt: Dlt) -> String {
    compile(expr, dlt, 1).unwrap_err().to_string()
}

#[test]
fn arp_on_ethernet_is_the_program_of_libpcap() {
    let expected = "(000) ldh      [12]\n(001) jeq      #0x806           jt 2\tjf 3\n(002) ret      #262144\n\
                    (003) ret      #0\n";
    assert_eq!(listing("arp", Dlt::En10mb), expected);
}

#[test]
fn a_test_decided_before_is_left_out() {
    let listing = listing("ip and tcp dst port 80", Dlt::Raw);
    assert!(!listing.contains("0x60"), "IPv6 is excluded by `ip`:\n{listing}");
    assert_eq!(listing.matches("ldb      [0]").count(), 1, "{listing}");
}

#[test]
fn the_empty_expression_accepts_everything() {
    assert_eq!(listing("  ", Dlt::Raw), "(000) ret      #262144\n");
}

#[test]
fn what_needs_libpcap_is_named_with_its_column_and_the_package() {
    for (expr, column, what) in [
        ("ip and vlan 5", 8, "`vlan`"),
        ("host example.org", 6, "example.org"),
        ("port http", 6, "http"),
        ("tcp[13] & 2 != 0", 4, "arithmetic"),
        ("host ::1", 6, "IPv6"),
        ("ip proto 010", 10, "leading 0"),
        ("ip broadcast", 4, "broadcast"),
        ("ether proto 0xfe", 13, "ether proto"),
        ("ip6 protochain 6", 5, "protochain"),
    ] {
        let error = refusal(expr, Dlt::En10mb);
        assert!(error.starts_with(&format!("column {column}: ")), "{expr}: {error}");
        assert!(error.contains(what) && error.contains("libpcap0.8"), "{expr}: {error}");
    }
}

#[test]
fn mistakes_are_named_with_their_column() {
    for (expr, dlt, expected) in [
        ("ip and", Dlt::Raw, "column 4: expected a primitive"),
        ("10.0.0.1", Dlt::Raw, "column 1: expected a qualifier"),
        ("tcp and 80", Dlt::Raw, "column 9: expected a qualifier"),
        ("(ip", Dlt::Raw, "column 2: expected `and`, `or` or `)`"),
        ("ip)", Dlt::Raw, "column 3: expected `and`, `or` or the end"),
        ("port 65536", Dlt::Raw, "column 6: illegal port number 65536"),
        ("host 10.0.0.256", Dlt::Raw, "column 6: invalid IPv4 address"),
        ("net 10.1.0.0/8", Dlt::Raw, "column 5: non-network bits"),
        ("net 10.0.0.0/33", Dlt::Raw, "column 14: mask length"),
        ("net 10/8", Dlt::Raw, "column 7: a network with a length"),
        ("ip proto tcp", Dlt::Raw, "column 10: `tcp` is a word of the language: write \\tcp"),
        ("icmp port 80", Dlt::Raw, "column 11: only `tcp`"),
        ("ether host 02:00:00:00:00:01", Dlt::Raw, "column 12: ethernet addresses"),
        ("src proto 5", Dlt::Raw, "column 11: direction applied"),
        ("arp", Dlt::Raw, "expression rejects all packets (link type RAW)"),
        ("tcp { }", Dlt::Raw, "column 5: expected a word"),
    ] {
        let error = refusal(expr, dlt);
        assert!(error.starts_with(expected), "{expr}: {error}");
    }
}

#[test]
fn a_value_after_or_repeats_the_qualifiers_before_it() {
    for (short, long) in [
        ("port 80 or 443", "port 80 or port 443"),
        ("tcp src port (80 or 443)", "tcp src port 80 or tcp src port 443"),
        ("host 10.0.0.1 and not 10.0.0.2", "host 10.0.0.1 and not host 10.0.0.2"),
        ("src net 10.0.0.0/8 || 11.0.0.0/8 && udp", "(src net 10.0.0.0/8 or src net 11.0.0.0/8) and udp"),
    ] {
        assert_eq!(listing(short, Dlt::En10mb), listing(long, Dlt::En10mb), "{short}");
    }
}

#[test]
fn long_lists_use_long_jumps_and_too_long_ones_are_refused() {
    let list =
        |n: u32| (1..=n).map(|i| format!("dst host 10.0.{}.{}", i / 200, i % 200)).collect::<Vec<_>>().join(" or ");
    let program = compile(&format!("ip and ({})", list(300)), Dlt::Raw, 1).unwrap();
    assert!(program.insns().len() > 256);
    let mut packet = [0u8; 20];
    packet[0] = 0x45;
    for (last, verdict) in [(1u8, 1), (60, 1), (199, 1), (200, 0)] {
        packet[16..].copy_from_slice(&[10, 0, 0, last]);
        assert_eq!(program.run(&packet, 20), verdict, "10.0.0.{last}");
    }
    assert!(refusal(&list(400), Dlt::En10mb).contains("too long"));
    assert!(refusal(&"not ".repeat(100_000), Dlt::Raw).contains("too long"));
    assert!(refusal(&"(".repeat(100_000), Dlt::Raw).contains("too long"));
    assert!(refusal(&"ip or ".repeat(100_000), Dlt::Raw).contains("too long"));
}
