//! Texts and what they mean.

use super::*;
use crate::{config::*, params::Key};
use std::time::Duration;

/// Rules as they may be written, and as they are printed.
const RULES: &[(&str, &str)] = &[
    ("pass all", "pass all"),
    ("block all", "block all"),
    ("block return in all", "block return in all"),
    ("block return-rst out proto tcp all", "block return-rst out proto tcp all"),
    ("block return-icmp final all", "block return-icmp final all"),
    ("pass stateful in final on eth0 all", "pass stateful in final on \"eth0\" all"),
    ("pass stateful-all out quick on \"eth0\" all", "pass stateful-all out final on \"eth0\" all"),
    ("pass in on eth0 stateful final all", "pass stateful in final on \"eth0\" all"),
    ("pass forw all", "pass forw all"),
    // M6: names of interfaces.
    ("pass on eth0.100 all", "pass on \"eth0.100\" all"),
    ("pass on br-lan all", "pass on \"br-lan\" all"),
    ("pass on veth_x@1 all", "pass on \"veth_x@1\" all"),
    ("pass on \"wg 0\\\" all", "!may not contain ' '"),
    ("pass on \"0123456789abcdef\" all", "!it may have 15 bytes"),
    // Families, protocols, flags.
    ("pass family inet4 proto icmp all", "pass family inet4 proto icmp all"),
    ("pass family inet6 proto icmp6 all", "pass family inet6 proto ipv6-icmp all"),
    ("pass proto { tcp, udp, 132, 254 } all", "pass proto { tcp, udp, sctp, 254 } all"),
    ("pass proto tcp flags S/SAFR all", "pass proto tcp flags S/FSRA all"),
    ("pass proto tcp flags SA all", "pass proto tcp flags SA/SA all"),
    ("pass proto { tcp flags S/SA, udp } all", "pass proto { tcp flags S/SA, udp } all"),
    ("pass proto tcp flags Q all", "!'Q' is no flag of TCP"),
    ("pass proto udp flags S all", "!only tcp has flags"),
    ("pass proto tpc all", "!did you mean \"tcp\"?"),
    ("pass proto 256 all", "!a protocol is a number up to 255"),
    // M8: types of ICMP by name.
    ("pass proto icmp icmp-type echo all", "pass proto icmp icmp-type echoreq all"),
    ("pass proto icmp icmp-type 8 code 0 all", "pass proto icmp icmp-type echoreq code 0 all"),
    ("pass proto icmp icmp-type unreach code needfrag all", "pass proto icmp icmp-type unreach code 4 all"),
    ("pass proto ipv6-icmp icmp-type echo-request all", "pass proto ipv6-icmp icmp-type echoreq all"),
    ("pass proto ipv6-icmp icmp-type neighbrsol all", "pass proto ipv6-icmp icmp-type neighbrsol all"),
    ("pass proto icmp icmp-type 200 all", "pass proto icmp icmp-type 200 all"),
    ("pass proto icmp icmp-type toobig all", "!\"toobig\" is no type of ICMP"),
    ("pass proto tcp icmp-type echo all", "!only icmp and ipv6-icmp have types"),
    // Addresses. M1: host bits; M4: both families; M5: dotted masks; M7: short addresses and ::/0.
    ("pass from 10.1.1.5/24", "pass from 10.1.1.0/24"),
    ("pass from 10.1/16", "pass from 10.1.0.0/16"),
    ("pass from 10/8", "pass from 10.0.0.0/8"),
    ("pass from ::/0", "pass from ::/0"),
    ("pass from 0.0.0.0/0", "pass from 0.0.0.0/0"),
    ("pass from { 10.0.0.1, 2001:db8::1 } to any", "pass from { 10.0.0.1, 2001:db8::1 }"),
    ("pass from 10.1.1.0/255.255.255.0", "pass from 10.1.1.0/24"),
    ("pass from 2001:db8::/ffff:ffff::", "pass from 2001:db8::/32"),
    ("pass from 10.0.0.0/255.0.255.0", "!the mask \"255.0.255.0\" has gaps"),
    ("pass from 10.0.0.0/33", "!it is a number from 0 to 32"),
    ("pass from 10.1", "!write all four numbers, or a prefix such as 10.1.0.0/16"),
    ("pass from 10.0.0.01", "!is no address"),
    ("pass from 10.0.0.1-10.0.0.9", "!ranges of addresses are not known"),
    ("pass from fe80::1%eth0", "!an address has no zone here"),
    ("pass from eth0", "!write ifaddrs(eth0)"),
    ("pass from ! { 10.0.0.0/8, <t> } to ! ifaddrs(eth0)", "pass from ! { 10.0.0.0/8, <t> } to ! ifaddrs(\"eth0\")"),
    ("pass to { inet4(eth0), inet6(\"eth0\") }", "pass to { inet4(\"eth0\"), inet6(\"eth0\") }"),
    ("pass from inet5(eth0)", "!did you mean \"inet4\"?"),
    ("pass from <x>", "!there is no table <x>"),
    ("pass from ! any", "!matches nothing"),
    ("pass family inet4 from 2001:db8::1", "!no address here is of the family inet4"),
    ("pass from any to any", "pass all"),
    // Ports. M3: hexadecimal numbers.
    ("pass to any port 80", "pass to any port 80"),
    ("pass to any port 0x50", "pass to any port 80"),
    (
        "pass proto 0x11 to any port { https, 8000-0x1f90, 6000 - 6010 }",
        "pass proto udp to any port { 443, 8000-8080, 6000-6010 }",
    ),
    ("pass from port 53 to 10.0.0.1 port ssh-telnet", "pass from any port 53 to 10.0.0.1 port 22-23"),
    ("pass to any port ms-wbt-server", "pass to any port 3389"),
    ("pass to any port 90-80", "!write 80-90"),
    ("pass to any port 65536", "!is no port"),
    ("pass to any port htps", "!did you mean \"https\"?"),
    ("pass to any port ! 80", "!ports cannot be negated"),
    ("pass proto icmp to any port 80", "!no protocol of this rule has ports"),
    // Packet expressions.
    ("block in pcap-filter \"greater 128\"", "block in pcap-filter \"greater 128\""),
    ("block pcap-filter \"tcp and\n  port 80\" apply x", "block pcap-filter \"tcp and   port 80\" apply \"x\""),
    ("block pcap-filter \"tcp prot 80\"", "!this packet expression is wrong"),
    // Behind the filter.
    ("pass all apply \"x\" name \"web\" log tag \"a b\"", "pass all apply \"x\" name \"web\" log tag \"a b\""),
    ("pass all tag \"t\" name \"web\" apply x log", "pass all apply \"x\" name \"web\" log tag \"t\""),
    ("pass tagged \"t\" from 10.0.0.1", "pass from 10.0.0.1 tagged \"t\""),
    ("pass in proto tcp tagged ! \"t\" all", "pass in proto tcp all tagged ! \"t\""),
    ("pass all tagged \"t\"", "pass all tagged \"t\""),
    ("pass all aply \"x\"", "!did you mean \"apply\"?"),
    ("pass all apply \"y\"", "!there is no procedure \"y\""),
    ("pass stateful all limit states 10", "pass stateful all limit states 10"),
    (
        "pass stateful all limit states 10 per source /24 overload <t> for 10m log",
        "pass stateful all limit states 10 per source /24 /128 overload <t> for 10m log",
    ),
    ("pass all limit rate 10/s", "pass all limit rate 10/1s burst 10"),
    (
        "pass all limit rate 10/500ms burst 20 per source /24 /64 limit rate 1000/1h",
        "pass all limit rate 10/500ms burst 20 per source /24 /64 limit rate 1000/1h burst 1000",
    ),
    ("pass all limit states 10", "!only a rule that opens connections can limit them"),
    ("pass all limit rate 10/5", "!write its unit: 5s for seconds"),
    ("pass all limit rate 10/1s burst 5", "!it is a number from 10"),
    ("pass all limit rate 10/1s overload <p>", "!cannot take addresses"),
    ("pass all limit rate 10/0s", "!it must be longer than nothing"),
    ("pass all limit rate 10/99999999999999999999s", "!is no time"),
    // What is not written.
    ("pass in", "!expected all, from, to or pcap-filter, but the line ends"),
    ("pass in out all", "!a direction stands here twice"),
    ("pass ether all", "!ether rules stand in layer-2 groups only"),
    ("pass form any", "!did you mean \"from\"?"),
];

#[test]
fn rules_mean_what_they_say() {
    for (text, expected) in RULES {
        match (rule(text), expected.strip_prefix('!')) {
            (Ok(printed), None) => assert_eq!(printed, *expected, "{text}"),
            (Err(error), Some(part)) => assert!(error.contains(part), "{text}:\n{error}"),
            (Ok(printed), Some(_)) => panic!("{text} is taken, as {printed}"),
            (Err(error), None) => panic!("{text}:\n{error}"),
        }
    }
}

/// M2, and who may not have it.
#[test]
fn stateful_rules_without_flags_look_for_the_first_packet_of_tcp() {
    let table = [
        ("pass stateful all", true),
        ("pass stateful proto { tcp, udp } all", true),
        ("pass stateful-all proto tcp to any port 80", true),
        ("pass stateful proto udp all", false),
        ("pass stateful proto tcp flags S/SA all", false),
        ("pass proto tcp all", false),
    ];
    for (text, opening) in table {
        let config = right(&format!("group default {{ {text} }}"));
        let Item::Rule(Rule { filter: Filter::Match(filter), .. }) = &config.groups[0].items[0] else { panic!() };
        assert_eq!(filter.opening, opening, "{text}");
    }
}

/// Maps as they may be written, and as they are printed.
const MAPS: &[(&str, &str)] = &[
    ("map eth0 dynamic 10.0.0.0/24 -> 192.0.2.1", "map \"eth0\" dynamic 10.0.0.0/24 -> 192.0.2.1"),
    ("map eth0 10.0.0.0/24->inet4(eth0)", "map \"eth0\" dynamic 10.0.0.0/24 -> inet4(\"eth0\")"),
    ("map eth0 dynamic 0.0.0.0/0 -> ifaddrs(eth0)", "map \"eth0\" dynamic 0.0.0.0/0 -> ifaddrs(\"eth0\")"),
    (
        "map eth0 dynamic no-ports proto { tcp, udp } 10.0.0.0/8 -> 192.0.2.1 pass all",
        "!a map has either a protocol before its addresses or a filter",
    ),
    (
        "map eth0 dynamic no-ports 10.0.0.0/8 -> 192.0.2.1 pass family inet4 proto tcp from 10.1/16 to any port 80",
        "map \"eth0\" dynamic no-ports 10.0.0.0/8 -> 192.0.2.1 pass family inet4 proto tcp from 10.1.0.0/16 to any port 80",
    ),
    (
        "map eth0 hairpin endpoint-independent algo ip-hash 10/8 -> { 192.0.2.1, 192.0.2.2 }",
        "map \"eth0\" dynamic algo ip-hash endpoint-independent hairpin 10.0.0.0/8 -> { 192.0.2.1, 192.0.2.2 }",
    ),
    ("map eth0 endpoint-independent <t> -> 192.0.2.1", "map \"eth0\" dynamic endpoint-independent <t> -> 192.0.2.1"),
    ("map eth0 hairpin 10/8 -> 192.0.2.1", "!hairpin needs outer ports that stay the same"),
    ("map eth0 hairpin hairpin 10/8 -> 192.0.2.1", "!\"hairpin\" stands here twice"),
    ("map eth0 endpoint-independent no-ports 10/8 -> 192.0.2.1", "!the map says no-ports, and that ports are mapped"),
    ("map eth0 endpoint-independent 10.0.0.1 <- 192.0.2.1", "!only a dynamic map with -> chooses ports"),
    ("map eth0 static endpoint-independent 10.0.0.1 -> 192.0.2.1", "!only a dynamic map with -> chooses ports"),
    (
        "map eth0 endpoint-independent inet4(eth1) -> 192.0.2.1",
        "!endpoint-independent mapping is for the hosts of a network",
    ),
    (
        "map eth0 endpoint-independent algo round-robin 10/8 -> { 192.0.2.1, 192.0.2.2 }",
        "!an inner host has the same outer address for all its ports",
    ),
    (
        "map eth0 dynamic 10.0.0.0/8 -> 192.0.2.1 port 2000-3000",
        "map \"eth0\" dynamic 10.0.0.0/8 -> 192.0.2.1 port 2000-3000",
    ),
    (
        "map eth0 dynamic proto tcp 10.0.0.2 port 80 <- 192.0.2.1 port 8080",
        "map \"eth0\" dynamic proto tcp 10.0.0.2 port 80 <- 192.0.2.1 port 8080",
    ),
    ("map eth0 dynamic 10.0.0.2 port 80 <-ifaddrs(eth0)", "map \"eth0\" dynamic 10.0.0.2 port 80 <- ifaddrs(\"eth0\")"),
    ("map eth0 dynamic 10.0.0.2 <-> 192.0.2.2", "map \"eth0\" dynamic 10.0.0.2 <-> 192.0.2.2"),
    ("map eth0 static 10.0.0.2<->192.0.2.2", "map \"eth0\" static 10.0.0.2 <-> 192.0.2.2"),
    ("map eth0 static algo netmap 10.1/16 <-> 10.2/16", "map \"eth0\" static algo netmap 10.1.0.0/16 <-> 10.2.0.0/16"),
    ("map eth0 dynamic algo ip-hash 10/8 -> <t>", "map \"eth0\" dynamic algo ip-hash 10.0.0.0/8 -> <t>"),
    (
        "map eth0 algo round-robin dynamic 10/8 -> 192.0.2.0/28",
        "map \"eth0\" dynamic algo round-robin 10.0.0.0/8 -> 192.0.2.0/28",
    ),
    (
        "map eth0 dynamic algo round-robin proto tcp { 10.0.0.2, 10.0.0.3 } port 80 <- 192.0.2.1 port 80",
        "map \"eth0\" dynamic algo round-robin proto tcp { 10.0.0.2, 10.0.0.3 } port 80 <- 192.0.2.1 port 80",
    ),
    (
        "map eth0 static algo npt66 fd01:203:405::/48 <-> 2001:db8:1::/48",
        "map \"eth0\" static algo npt66 fd01:203:405::/48 <-> 2001:db8:1::/48",
    ),
    (
        "map eth0 static algo npt66 fd01::/48 <-> 2001:db8::/56",
        "!npt66 needs prefixes of the same length, not /48 and /56",
    ),
    ("map eth0 static algo npt66 fd01::/96 <-> 2001:db8::/96", "!64 bits at most"),
    ("map eth0 static algo npt66 10/8 <-> 11/8", "!npt66 needs one IPv6 prefix on each side"),
    ("map eth0 dynamic algo npt66 fd01::/48 <-> 2001:db8::/48", "!write: map IF static algo npt66"),
    ("map eth0 static algo netmap 10.1/16 <-> 10.2.0.0/24", "!netmap needs prefixes of the same length"),
    ("map eth0 dynamic 10/8 -> 2001:db8::1", "!both sides of a map are of one family"),
    ("map eth0 dynamic 10/8 -> 192.0.2.0/28", "!or algo ip-hash, round-robin or netmap"),
    ("map eth0 static 10/8 <-> 11/8", "!or algo netmap"),
    ("map eth0 static algo ip-hash 10/8 <-> 11/8", "!leave out the algorithm"),
    ("map eth0 static 10.0.0.1 port 80 <- 192.0.2.1", "!a static map leaves ports as they are"),
    ("map eth0 dynamic any -> 192.0.2.1", "!write 0.0.0.0/0 or ::/0"),
    ("map eth0 dynamic 10.0.0.2 port 80-90 <- 192.0.2.1 port 80", "!the ranges of ports are not equally long"),
    ("map eth0 dynamic 10.0.0.2 port { 1, 2 } <- 192.0.2.1", "!write a map for each"),
    ("map eth0 dynamic algo nat 10.0.0.2 <- 192.0.2.1", "!expected netmap, ip-hash, round-robin or npt66"),
    ("map eth0 dynamic 10/8 = 192.0.2.1", "!expected \"->\", \"<-\" or \"<->\""),
];

#[test]
fn maps_mean_what_they_say() {
    for (text, expected) in MAPS {
        let whole = format!("table <t> type ipset\n{text}\ngroup default {{ pass all }}\n");
        match (parse("npf.conf", &whole, &NoFiles), expected.strip_prefix('!')) {
            (Ok(parsed), None) => {
                let MapItem::Map(map) = &parsed.config.maps[0] else { panic!() };
                assert_eq!(print_map(&parsed.config, map), *expected, "{text}");
                right_with(&whole, &NoFiles);
            }
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{text}:\n{error}"),
            (Ok(_), Some(_)) => panic!("{text} is taken"),
            (Err(error), None) => panic!("{text}:\n{error}"),
        }
    }
}

/// A home router with most of what the language has.
pub(super) const ROUTER: &str = r#"
# A home router.
$ext_if = "eth0"
$int_if = br-lan
$dmz_if = eth0.100
$localnet = { 10.1.1.0/24, fd00:1::/64 }
$services_tcp = { http, https, smtp, domain, 6000 }
$services_udp = { domain, ntp, 6000 }
$services = { $services_tcp, 9022 }
$ext_addrs = { inet4($ext_if), inet6($ext_if) }

set state.tcp.timeout.new 20 ; set ip4.reassembly off
set portmap.max_port 65535

alg "icmp"
table <blocklist> type ipset
table <limited> type lpm timeout 1h counters
table <web> type ipport

procedure "log" {
	log: npflog0
}
procedure "norm" {
	normalize: "random-id", "min-ttl" 64, "max-mss" 1432, \
	    "no-df"
	rndblock: "percentage" 0.5; ratelimit: "bitrate" 128k, "normal-burst" 2k, "extended-burst" 4k
	route: "route-interface" $dmz_if
	wasm: "module" scrub
}

map $ext_if dynamic 10.1.1.0/24 -> inet4($ext_if)
map $ext_if dynamic proto tcp 10.1.1.2 port 22 <- inet4($ext_if) port 9022
map $ext_if dynamic 10.1.1.7 <-> 192.0.2.7
map ruleset "map:upnp" in on $ext_if

group default {
	pass final on lo all
	block return all apply "log"
}

group "external" on $ext_if {
	ruleset "blocklistd"
	block in final from <blocklist>
	pass stateful out final all
	pass stateful in final family inet4 proto tcp to $ext_addrs port ssh apply "log" \
	    limit rate 5/1m per source overload <limited> for 1d
	pass stateful in final proto tcp to $ext_addrs port $services
	pass stateful in final proto udp to $ext_addrs port $services_udp name "udp services"
	group "nested" in { ruleset ("inner" in on $dmz_if); pass from $localnet }
	block return-icmp in all
}
group "internal" on $int_if {
	pass all
}
group "bridge" in on $int_if layer-2 {
	pass ether in final from 02:00:00:00:00:01 to ! ff:ff:ff:ff:ff:ff type arp
	pass ether from any type 0x88cc
	block ether all
}
"#;

#[test]
fn a_home_router_in_the_style_of_the_manual_page() {
    let config = right(ROUTER);
    assert_eq!(config.params.get(Key::StateTcpTimeoutNew), 20);
    assert!(!config.params.is_on(Key::Ip4Reassembly));
    let names: Vec<_> = config.groups.iter().map(|g| g.name.as_deref().unwrap_or("-")).collect();
    assert_eq!(names, ["external", "internal", "bridge", "-"], "the default group is the last one");
    let printed = print(&config);
    for line in [
        "\tpass stateful in final proto tcp to { inet4(\"eth0\"), inet6(\"eth0\") } port { 80, 443, 25, 53, 6000, 9022 }\n",
        "\tpass stateful in final family inet4 proto tcp to { inet4(\"eth0\"), inet6(\"eth0\") } port 22 apply \"log\" limit rate 5/1m burst 5 per source /32 /128 overload <limited> for 1d\n",
        "table <limited> type lpm timeout 1h counters\n",
        "map ruleset \"map:upnp\" in on \"eth0\"\n",
        "\tpass ether in final from 02:00:00:00:00:01 to ! ff:ff:ff:ff:ff:ff type 0x0806\n",
        "\t\truleset \"inner\" in on \"eth0.100\"\n",
        "\t\tpass from { 10.1.1.0/24, fd00:1::/64 }\n",
    ] {
        assert!(printed.contains(line), "{line}in\n{printed}");
    }
    assert_eq!(
        config.procedures[1].calls,
        [
            Call::Normalize(Normalize { random_id: true, min_ttl: 64, max_mss: 1432, no_df: true }),
            Call::RndBlock(RndBlock::Percentage(0.5)),
            Call::RateLimit { bitrate: 128_000, normal_burst: 2_000, extended_burst: 4_000 },
            Call::Route { interface: "eth0.100".into() },
            Call::Wasm { module: "scrub".into() },
        ]
    );
    assert_eq!(config.tables[1].timeout, Some(Duration::from_secs(3600)));
}

#[test]
fn the_configuration_of_upstreams_tests_is_taken() {
    let files = Held::new(&[("/tmp/npf_test_cdb", "192.168.1.1\n10.0.0.2\n")]);
    let parsed = right_with(
        r#"
set portmap.max_port 65535
$ext_if = "npftest0"
$int_if = "npftest1"
$local_ip1 = 10.1.1.1
$local_ip2 = 10.1.1.2
$local_net = { 10.1.1.0/24 }
$pub_ip1 = 192.0.2.1
$net_a = 10.100.0.0/16
$net_b = 10.255.0.0/16
$net6_inner = fd01:203:405::/48
$net6_outer = 2001:db8:1::/48
table <black> type hash
table <white> type tree
table <fixed> type cdb file "/tmp/npf_test_cdb"
table <old> type ipset dynamic
map $ext_if dynamic $local_ip1 port 6000 <- $pub_ip1 port 8000
map $ext_if dynamic $local_ip2 <-> 192.0.2.2
map $ext_if dynamic $local_net -> $pub_ip1
map $ext_if static 10.1.1.3 <-> 192.0.2.3
map $ext_if static algo netmap $net_a <-> $net_b
map $ext_if static algo npt66 $net6_inner <-> $net6_outer
group "ext" on $ext_if {
	pass stateful final proto tcp flags S/SA all
	pass stateful final from $local_net
	pass stateful in final to any port 8000
}
group "int" on $int_if {
	pass stateful out final to $local_ip2
	block final to 10.1.1.4
	ruleset "test-rules"
}
group default { block all }
"#,
        &files,
    );
    let kinds: Vec<_> = parsed.config.tables.iter().map(|t| t.kind).collect();
    assert_eq!(kinds, [TableKind::Ipset, TableKind::Lpm, TableKind::Const, TableKind::Ipset]);
    assert_eq!(parsed.config.tables[2].entries.len(), 2);
    let warned: Vec<_> = parsed.warnings.iter().map(|w| (w.line, w.column)).collect();
    assert_eq!(warned, [(13, 20), (14, 20), (15, 20), (16, 24)]);
}

#[test]
fn table_files_are_read_and_checked_line_by_line() {
    let files = Held::new(&[
        ("nets", "# networks\n10.0.0.0/8\n\n  10.1.0.0/16 # inner\n2001:db8::/32\n10.1.2.3/16\r\n"),
        ("ports", "192.0.2.1 tcp 80\n2001:db8::1 udp domain\n"),
        ("bad", "10.0.0.1\n10.0.0.0/8\n10.0.0.1\nhost.example\n"),
    ]);
    let end = "group default { pass all }\n";
    let parsed =
        right_with(&format!("table <a> type lpm file \"nets\"\ntable <b> type ipport file \"ports\"\n{end}"), &files);
    assert_eq!(parsed.config.tables[0].entries.len(), 3);
    assert_eq!(parsed.config.tables[1].entries[1].service, Some((17, 53)));
    let warnings: Vec<_> = parsed.warnings.iter().map(|d| (d.file.as_str(), d.line, d.column)).collect();
    assert_eq!(warnings, [("nets", 6, 1), ("nets", 6, 1)], "host bits, and what they hide is there already");
    let errors = wrong_with(
        &format!("table <a> type ipset file \"bad\"\ntable <b> type lpm file \"none\"\ntable <c> type const\n{end}"),
        &files,
    );
    let places: Vec<_> = errors.iter().map(|d| (d.file.as_str(), d.line, d.message.as_str())).collect();
    assert_eq!(
        places,
        [
            ("npf.conf", 2, "\"none\" cannot be read: no such file"),
            ("npf.conf", 3, "a table of type const needs a file: it cannot be changed later"),
            ("bad", 2, "\"10.0.0.0/8\" is a prefix, and this table holds addresses"),
            ("bad", 3, "this entry is there already"),
            ("bad", 4, "\"host.example\" is no address"),
        ]
    );
}

#[test]
fn files_are_included_beside_the_one_that_names_them() {
    let files = Held::new(&[
        ("/etc/npf.d/vars", "$web = { 80, 443 }\ninclude \"more/tables\"\n"),
        ("/etc/npf.d/more/tables", "table <t> type ipset\n"),
        ("/etc/rules", "pass to any port $web\ngroup \"inner\" { block from <t> }\n"),
        ("/etc/loop", "include \"./npf.d/loop2\"\n"),
        ("/etc/npf.d/loop2", "include \"/etc/loop\"\n"),
        ("/etc/bad", "pass to any port 80\n}\npass all\n"),
    ]);
    let text = "include \"npf.d/vars\"\ngroup default {\n  include \"rules\"\n}\n";
    let config = parse("/etc/npf.conf", text, &files).unwrap().config;
    assert!(print(&config).contains("pass to any port { 80, 443 }"));
    assert!(matches!(&config.groups[0].items[..], [Item::Rule(_), Item::Group(_)]));
    let Item::Rule(rule) = &config.groups[0].items[0] else { panic!() };
    assert_eq!((&*rule.at.file, rule.at.line), ("/etc/rules", 1));

    let errors = parse("/etc/npf.conf", "include \"loop\"\ngroup default { include \"bad\" }\n", &files).unwrap_err();
    let errors: Vec<_> = errors.into_iter().collect();
    assert_eq!(errors[0].message, "\"/etc/loop\" includes itself");
    let chain = "the chain of files: /etc/npf.conf -> /etc/loop -> /etc/npf.d/loop2 -> /etc/loop";
    assert_eq!(errors[0].hint.as_deref(), Some(chain));
    assert_eq!((errors[1].file.as_str(), errors[1].line), ("/etc/bad", 2));
}

#[test]
fn ids_stay_with_what_a_rule_says() {
    let ids = |text: &str| {
        let config = right(text);
        let mut ids = Vec::new();
        each_rule(&config.groups, &mut |rule| ids.push(rule.id));
        ids
    };
    let before = ids("group default { pass all; block in all; pass all }");
    let after = ids("# changed\ngroup default { block in all name \"b\" log; pass out all; pass all; pass all }");
    assert_eq!([after[0], after[2], after[3]], [before[1], before[0], before[2]]);
    assert_ne!(before[0], before[2]);
    // The id of "pass all" may never change: operators write it down.
    assert_eq!(before[0], RuleId(print::hash("pass all", 0).0));

    let config = right("table <t> type ipset\ngroup default { pass all }");
    let added = parse_rule("pass all", &config).unwrap();
    assert_eq!(added.id, before[2], "one such rule is there already");
    assert_eq!(rule_id(&config, &added, 0), before[0]);
    assert_eq!(print_rule(&config, &parse_rule("block in from <t>\n", &config).unwrap()), "block in from <t>");
    assert!(parse_rule("pass ether type arp", &config).is_ok());
    let map = parse_map("map eth0 dynamic 10/8 -> 192.0.2.1", &config).unwrap();
    assert_eq!(map.id, map_id(&config, &map, 0));
}

#[test]
fn what_is_shown_leaves_out_what_is_as_always() {
    let config = right("set gc.step 100\ngroup default { pass all }");
    let id = print::hash("pass all", 0);
    assert_eq!(print_shown(&config), format!("set gc.step 100\ngroup default {{\n\tpass all # id=\"{id}\"\n}}\n"));
}

#[test]
fn services_come_from_the_system_where_we_do_not_know_them() {
    let files = Held::new(&[("/etc/services", "# none\nours\t 7777/tcp  mine # ours\n")]);
    let parsed = parse("npf.conf", "group default { pass to any port { ours, mine, 80 } }", &files).unwrap();
    assert!(print(&parsed.config).contains("port { 7777, 7777, 80 }"));
}
