//! Names of protocols, services, ICMP types, Ethernet types, and TCP flags.

use crate::packet::{proto, tcp_flag};

/// Protocols. Where one has several names, the first is the one that is printed.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", proto::ICMP),
    ("igmp", 2),
    ("ipencap", 4),
    ("ipip", 4),
    ("tcp", proto::TCP),
    ("egp", 8),
    ("igp", 9),
    ("udp", proto::UDP),
    ("dccp", 33),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("rsvp", 46),
    ("gre", proto::GRE),
    ("esp", proto::ESP),
    ("ah", proto::AH),
    ("ipv6-icmp", proto::ICMPV6),
    ("icmp6", proto::ICMPV6),
    ("icmpv6", proto::ICMPV6),
    ("ipv6-nonxt", proto::NONE),
    ("ipv6-opts", 60),
    ("eigrp", 88),
    ("ospf", 89),
    ("ospfigp", 89),
    ("etherip", 97),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("carp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", proto::SCTP),
    ("udplite", 136),
    ("mpls-in-ip", 137),
    ("ethernet", 143),
];

/// Services that are known without a file; none has a different port in TCP and in UDP.
const SERVICES: &[(&str, u16)] = &[
    ("tcpmux", 1),
    ("echo", 7),
    ("discard", 9),
    ("systat", 11),
    ("daytime", 13),
    ("chargen", 19),
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("mail", 25),
    ("time", 37),
    ("whois", 43),
    ("tacacs", 49),
    ("domain", 53),
    ("dns", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("gopher", 70),
    ("finger", 79),
    ("http", 80),
    ("www", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("portmapper", 111),
    ("auth", 113),
    ("ident", 113),
    ("nntp", 119),
    ("ntp", 123),
    ("epmap", 135),
    ("netbios-ns", 137),
    ("netbios-dgm", 138),
    ("netbios-ssn", 139),
    ("imap", 143),
    ("imap2", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("snmptrap", 162),
    ("bgp", 179),
    ("irc", 194),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submissions", 465),
    ("smtps", 465),
    ("isakmp", 500),
    ("syslog", 514),
    ("printer", 515),
    ("router", 520),
    ("route", 520),
    ("ripng", 521),
    ("dhcpv6-client", 546),
    ("dhcpv6-server", 547),
    ("rtsp", 554),
    ("nntps", 563),
    ("submission", 587),
    ("ipp", 631),
    ("ldaps", 636),
    ("ldp", 646),
    ("domain-s", 853),
    ("rsync", 873),
    ("ftps-data", 989),
    ("ftps", 990),
    ("telnets", 992),
    ("imaps", 993),
    ("pop3s", 995),
    ("socks", 1080),
    ("openvpn", 1194),
    ("ms-sql-s", 1433),
    ("l2f", 1701),
    ("l2tp", 1701),
    ("pptp", 1723),
    ("radius", 1812),
    ("radius-acct", 1813),
    ("nfs", 2049),
    ("iscsi-target", 3260),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("rdp", 3389),
    ("stun", 3478),
    ("svn", 3690),
    ("ipsec-nat-t", 4500),
    ("vxlan", 4789),
    ("sip", 5060),
    ("sips", 5061),
    ("xmpp-client", 5222),
    ("xmpp-server", 5269),
    ("mdns", 5353),
    ("postgresql", 5432),
    ("amqp", 5672),
    ("vnc", 5900),
    ("x11", 6000),
    ("redis", 6379),
    ("http-alt", 8080),
    ("webcache", 8080),
    ("https-alt", 8443),
    ("git", 9418),
    ("wireguard", 51820),
];

/// Types of ICMP: the names of pf, which NPF has on NetBSD.
const ICMP_TYPES: &[(&str, u8)] = &[
    ("echorep", 0),
    ("unreach", 3),
    ("squench", 4),
    ("redir", 5),
    ("althost", 6),
    ("echoreq", 8),
    ("echo", 8),
    ("routeradv", 9),
    ("routersol", 10),
    ("timex", 11),
    ("paramprob", 12),
    ("timereq", 13),
    ("timerep", 14),
    ("inforeq", 15),
    ("inforep", 16),
    ("maskreq", 17),
    ("maskrep", 18),
    ("trace", 30),
    ("dataconv", 31),
    ("mobredir", 32),
    ("ipv6-where", 33),
    ("ipv6-here", 34),
    ("mobregreq", 35),
    ("mobregrep", 36),
    ("skip", 39),
    ("photuris", 40),
];

/// The same as nftables names them too.
pub(crate) const ICMP_TYPES_LONG: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

/// Types of ICMPv6.
const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("unreach", 1),
    ("toobig", 2),
    ("timex", 3),
    ("paramprob", 4),
    ("echoreq", 128),
    ("echo", 128),
    ("echorep", 129),
    ("groupqry", 130),
    ("listqry", 130),
    ("grouprep", 131),
    ("listenrep", 131),
    ("groupterm", 132),
    ("listendone", 132),
    ("routersol", 133),
    ("routeradv", 134),
    ("neighbrsol", 135),
    ("neighbradv", 136),
    ("redir", 137),
    ("routrrenum", 138),
    ("fqdnreq", 139),
    ("niqry", 139),
    ("wrureq", 139),
    ("fqdnrep", 140),
    ("nirep", 140),
    ("wrurep", 140),
    ("mtraceresp", 200),
    ("mtrace", 201),
];

/// The same as nftables names them too.
pub(crate) const ICMPV6_TYPES_LONG: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("mld2-listener-report", 143),
];

/// Codes of ICMP: its type, its name, its number.
const ICMP_CODES: &[(u8, &str, u8)] = &[
    (3, "net-unr", 0),
    (3, "host-unr", 1),
    (3, "proto-unr", 2),
    (3, "port-unr", 3),
    (3, "needfrag", 4),
    (3, "srcfail", 5),
    (3, "net-unk", 6),
    (3, "host-unk", 7),
    (3, "isolate", 8),
    (3, "net-prohib", 9),
    (3, "host-prohib", 10),
    (3, "net-tos", 11),
    (3, "host-tos", 12),
    (3, "filter-prohib", 13),
    (3, "host-preced", 14),
    (3, "cutoff-preced", 15),
    (5, "redir-net", 0),
    (5, "redir-host", 1),
    (5, "redir-tos-net", 2),
    (5, "redir-tos-host", 3),
    (9, "normal-adv", 0),
    (9, "common-adv", 16),
    (11, "transit", 0),
    (11, "reassemb", 1),
    (12, "badhead", 0),
    (12, "optmiss", 1),
    (12, "badlen", 2),
];

/// Codes of ICMPv6.
const ICMPV6_CODES: &[(u8, &str, u8)] = &[
    (1, "noroute-unr", 0),
    (1, "admin-unr", 1),
    (1, "beyond-unr", 2),
    (1, "addr-unr", 3),
    (1, "port-unr", 4),
    (3, "transit", 0),
    (3, "reassemb", 1),
    (4, "badhead", 0),
    (4, "nxthdr", 1),
];

/// Types of Ethernet.
const ETHER_TYPES: &[(&str, u16)] = &[
    ("ip", 0x0800),
    ("ip4", 0x0800),
    ("inet4", 0x0800),
    ("arp", 0x0806),
    ("vlan", 0x8100),
    ("ip6", 0x86dd),
    ("inet6", 0x86dd),
    ("mpls", 0x8847),
    ("pppoed", 0x8863),
    ("pppoe", 0x8864),
    ("qinq", 0x88a8),
    ("lldp", 0x88cc),
];

const FLAGS: &[(char, u8)] = &[
    ('F', tcp_flag::FIN),
    ('S', tcp_flag::SYN),
    ('R', tcp_flag::RST),
    ('P', tcp_flag::PSH),
    ('A', tcp_flag::ACK),
    ('U', tcp_flag::URG),
    ('E', tcp_flag::ECE),
    ('W', tcp_flag::CWR),
];

fn find<T: Copy>(table: &[(&'static str, T)], name: &str) -> Option<T> {
    table.iter().find(|(n, _)| *n == name).map(|&(_, value)| value)
}

fn all<T>(table: &'static [(&'static str, T)]) -> impl Iterator<Item = &'static str> {
    table.iter().map(|(name, _)| *name)
}

/// Number of a protocol.
pub(super) fn protocol(name: &str) -> Option<u8> {
    find(PROTOCOLS, name)
}

/// Name of a protocol.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(_, n)| *n == number).map(|&(name, _)| name)
}

/// Names of all protocols.
pub(super) fn protocols() -> impl Iterator<Item = &'static str> {
    all(PROTOCOLS)
}

/// Port of a service.
pub(super) fn service(name: &str) -> Option<u16> {
    find(SERVICES, name)
}

/// Names of all services.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    all(SERVICES)
}

type Names = &'static [(&'static str, u8)];

/// Names of types, those that stand for a number in what is printed first.
fn icmp_names(v6: bool) -> (Names, Names) {
    if v6 { (ICMPV6_TYPES, ICMPV6_TYPES_LONG) } else { (ICMP_TYPES, ICMP_TYPES_LONG) }
}

/// Number of a type of ICMP, or of ICMPv6.
pub(super) fn icmp_type(v6: bool, name: &str) -> Option<u8> {
    let (short, long) = icmp_names(v6);
    find(short, name).or_else(|| find(long, name))
}

/// Names of all types.
pub(super) fn icmp_types(v6: bool) -> impl Iterator<Item = &'static str> {
    let (short, long) = icmp_names(v6);
    all(short).chain(all(long))
}

/// Number of a code of a type.
pub(super) fn icmp_code(v6: bool, kind: u8, name: &str) -> Option<u8> {
    let codes = if v6 { ICMPV6_CODES } else { ICMP_CODES };
    codes.iter().find(|(k, n, _)| *k == kind && *n == name).map(|&(_, _, code)| code)
}

/// Names of all codes of a type.
pub(super) fn icmp_codes(v6: bool, kind: u8) -> impl Iterator<Item = &'static str> {
    let codes = if v6 { ICMPV6_CODES } else { ICMP_CODES };
    codes.iter().filter(move |(k, _, _)| *k == kind).map(|(_, name, _)| *name)
}

/// Number of a type of Ethernet.
pub(super) fn ether_type(name: &str) -> Option<u16> {
    find(ETHER_TYPES, name)
}

/// Names of all types of Ethernet.
pub(super) fn ether_types() -> impl Iterator<Item = &'static str> {
    all(ETHER_TYPES)
}

/// TCP's flags from their letters, or the letter that is none.
pub(super) fn tcp_flags(letters: &str) -> Result<u8, char> {
    letters.chars().try_fold(0, |flags, letter| match FLAGS.iter().find(|(l, _)| *l == letter) {
        Some((_, flag)) => Ok(flags | flag),
        None => Err(letter),
    })
}

/// Letters of TCP's flags.
pub(super) fn tcp_letters(flags: u8) -> String {
    FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(letter, _)| *letter).collect()
}

/// A service from the text of a file in the form of services(5).
pub(super) fn service_in(text: &str, name: &str) -> Option<u16> {
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.split('/').next()?.parse().ok()?;
        (first == name || words.any(|alias| alias == name)).then_some(port)
    })
}
