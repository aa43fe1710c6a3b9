//! What rules of pf become.

use super::*;
use crate::convert::pf;

/// What rules of pf become. Rules begin with what pf passes by itself, which is left out here, and so is that IP options
/// are dropped.
pub(super) const PF: &[(&str, &[&str])] = &[
    ("block all", &["block all"]),
    ("block drop in", &["block in all"]),
    ("block return out", &["block return out all"]),
    ("block return-rst(ttl 3) in proto tcp", &["block return-rst in proto tcp all"]),
    ("set block-policy return\nblock", &["block return all"]),
    ("pass no state", &["pass all"]),
    ("pass", &["pass stateful-all all"]),
    ("set state-policy if-bound\npass", &["pass stateful all"]),
    ("pass keep state (if-bound)", &["pass stateful all"]),
    ("pass in quick on em0", &["pass stateful-all in final on \"em0\" all"]),
    (
        "pass out on { em0, em1 } inet6",
        &["pass stateful-all out on \"em0\" family inet6 all", "pass stateful-all out on \"em1\" family inet6 all"],
    ),
    ("pass log (all) from any to any", &["pass stateful-all all log"]),
    (
        "block from 10.0.0.0/8 to { 192.0.2.1 2001:db8::/32 }",
        &["block from 10.0.0.0/8 to { 192.0.2.1, 2001:db8::/32 }"],
    ),
    ("block from ! 10.0.0.1", &["block from ! 10.0.0.1"]),
    // pf makes a rule of each entry.
    ("block from { 10.0.0.1 10.0.0.2 ! 10.0.0.3 }", &["block from { 10.0.0.1, 10.0.0.2 }", "block from ! 10.0.0.3"]),
    ("block from { 10.0.0.1 any }", &["block all"]),
    ("block from 10.0.0.3 - 10.0.0.6", &["block from { 10.0.0.3, 10.0.0.4/31, 10.0.0.6 }"]),
    ("block to (em0)", &["block to ifaddrs(\"em0\")"]),
    ("block inet to em0", &["block family inet4 to inet4(\"em0\")"]),
    ("block to em0", &["block to { inet4(\"em0\"), inet6(\"em0\") }"]),
    (
        "block proto tcp from any port 20 to any port { ssh 80:90 }",
        &["block proto tcp from any port 20 to any port { 22, 80-90 }"],
    ),
    ("block proto tcp to port != 25", &["block proto tcp to any port { 0-24, 26-65535 }"]),
    (
        "block proto udp to port { < 10, >= 60000, 5 >< 8, 100 <> 200, = 7 }",
        &["block proto udp to any port { 0-9, 60000-65535, 6-7, 0-99, 201-65535, 7 }"],
    ),
    ("block proto udp to port :10", &["block proto udp to any port 0-10"]),
    ("pass proto tcp to port 22", &["pass stateful-all proto tcp flags S/SA to any port 22"]),
    (
        "pass proto tcp to port 22 flags S/SAFR modulate state",
        &["pass stateful-all proto tcp flags S/SAFR to any port 22"],
    ),
    ("pass proto { tcp udp } to port 53", &["pass stateful-all proto { tcp flags S/SA, udp } to any port 53"]),
    ("pass proto tcp flags any no state", &["pass proto tcp all"]),
    ("block proto tcp flags FS/FS", &["block proto tcp flags FS/FS all"]),
    (
        "pass inet proto icmp icmp-type { echoreq, 3 code 4 }",
        &["pass stateful-all family inet4 proto { icmp icmp-type echoreq, icmp icmp-type 3 code 4 } all"],
    ),
    (
        "pass inet6 proto icmp6 all icmp6-type toobig",
        &["pass stateful-all family inet6 proto ipv6-icmp icmp-type toobig all"],
    ),
    ("pass quick label \"a \\ b\"", &["pass stateful-all final all name \"a \\ b\""]),
    ("pass quick tag GOOD", &["pass stateful-all final all tag \"GOOD\""]),
    ("block tagged BAD", &["block all tagged \"BAD\""]),
    ("block ! tagged GOOD", &["block all tagged ! \"GOOD\""]),
    (
        "pass proto tcp to port 22 keep state (max 100)",
        &[
            "block proto tcp flags S/SA to any port 22",
            "pass stateful-all proto tcp flags S/SA to any port 22 limit states 100",
        ],
    ),
    (
        "table <bad> persist\npass quick proto tcp to port 22 keep state (max-src-conn-rate 5/10, overload <bad> flush)",
        &[
            "table <bad> type lpm",
            "pass stateful-all final proto tcp flags S/SA to any port 22 limit rate 5/10s per source overload <bad>",
            "block final proto tcp flags S/SA to any port 22",
        ],
    ),
    // Tables.
    ("table <t> counters\nblock from <t>", &["table <t> type lpm counters", "block from <t>"]),
    ("block from ! <t>", &["table <t> type lpm", "block from ! <t>"]),
    ("block from <t>\ntable <t> persist { 10.0.0.1 }", &["table <t> type lpm", "block from { <t>, 10.0.0.1 }"]),
    (
        "table <t> const { 10.0.0.0/8\n  192.168.0.0/16 } # private\nblock from <t>",
        &["block from { 10.0.0.0/8, 192.168.0.0/16 }"],
    ),
    // Macros.
    (
        "if = em0\nnets=\"{ 10.0.0.1, 10.0.0.2 }\"\nblock in on $if from $nets",
        &["block in on \"em0\" from { 10.0.0.1, 10.0.0.2 }"],
    ),
    ("a = \"10.0.0.1\"\nb = \"{\" $a \"10.0.0.2 }\"\nblock from $b", &["block from { 10.0.0.1, 10.0.0.2 }"]),
    ("block in \\\n  from 10.0.0.1 # a comment \\\nblock all\nblock out", &["block in from 10.0.0.1", "block out all"]),
    // Parameters.
    ("set skip on { lo0 em1 }\nblock", &["pass final on \"lo0\" all", "pass final on \"em1\" all", "block all"]),
    ("set reassemble no", &["set ip4.reassembly off", "set ip6.reassembly off"]),
    ("set timeout { tcp.established 3600 }", &["set state.tcp.timeout.established 3600"]),
    ("antispoof log quick for em0 inet", &["block in final family inet4 from ifaddrs(\"em0\") log"]),
    // Translation.
    ("match out on em0 inet from 10.0.0.0/8 nat-to (em0)", &["map \"em0\" dynamic 10.0.0.0/8 -> ifaddrs(\"em0\")"]),
    ("match out on em0 nat-to 192.0.2.1", &["map \"em0\" dynamic 0.0.0.0/0 -> 192.0.2.1"]),
    (
        "match out on em0 nat-to (em0)",
        &["map \"em0\" dynamic ::/0 -> ifaddrs(\"em0\")", "map \"em0\" dynamic 0.0.0.0/0 -> ifaddrs(\"em0\")"],
    ),
    ("match out on em0 from 10.0.0.0/8 to ! 10.0.0.0/8 nat-to 192.0.2.1 port 2000:3000 static-port\n", &[]),
    (
        "match out on em0 from 10.0.0.0/8 to ! 10.0.0.0/8 nat-to 192.0.2.0/28 source-hash",
        &["map \"em0\" dynamic algo ip-hash 10.0.0.0/8 -> 192.0.2.0/28 pass from 10.0.0.0/8 to ! 10.0.0.0/8"],
    ),
    (
        "pass in on em0 inet proto tcp to 192.0.2.1 port 80 rdr-to 10.0.0.2 port 8080",
        &[
            "map \"em0\" dynamic proto tcp 10.0.0.2 port 8080 <- 192.0.2.1 port 80",
            "pass stateful-all in on \"em0\" family inet4 proto tcp flags S/SA to 192.0.2.1 port 80",
        ],
    ),
    (
        "match in on em0 proto { tcp udp } from 198.51.100.0/24 to port { 53 5353 } rdr-to { 10.0.0.2 10.0.0.3 }",
        &[
            "map \"em0\" dynamic algo round-robin { 10.0.0.2, 10.0.0.3 } <- 0.0.0.0/0 port 5353 \
         pass family inet4 proto { tcp, udp } from 198.51.100.0/24 to any port 5353",
            "map \"em0\" dynamic algo round-robin { 10.0.0.2, 10.0.0.3 } <- 0.0.0.0/0 port 53 \
         pass family inet4 proto { tcp, udp } from 198.51.100.0/24 to any port 53",
        ],
    ),
    ("match on em0 from 10.0.0.2 to any binat-to 192.0.2.2", &["map \"em0\" dynamic 10.0.0.2 <-> 192.0.2.2"]),
    // The last rule counts, but for those that are quick; of older files the first.
    (
        "match out on em0 from 10.0.0.1 nat-to 192.0.2.1\nmatch out quick on em0 from 10.0.0.2 nat-to 192.0.2.2\n\
         match out on em0 from 10.0.0.3 nat-to 192.0.2.3\n",
        &[
            "map \"em0\" dynamic 10.0.0.2 -> 192.0.2.2",
            "map \"em0\" dynamic 10.0.0.3 -> 192.0.2.3",
            "map \"em0\" dynamic 10.0.0.1 -> 192.0.2.1",
        ],
    ),
    (
        "nat on em0 from 10.0.0.0/8 to any -> (em0)\nrdr pass on em0 proto tcp from any to any port 80 -> 10.0.0.2 port 8080\n\
         binat on em0 from 10.0.0.3 to any -> 192.0.2.3",
        &[
            "map \"em0\" dynamic 10.0.0.0/8 -> ifaddrs(\"em0\")",
            "map \"em0\" dynamic proto tcp 10.0.0.2 port 8080 <- 0.0.0.0/0 port 80",
            "map \"em0\" dynamic 10.0.0.3 <-> 192.0.2.3",
            "pass stateful-all in final on \"em0\" proto tcp flags S/SA to any port 80",
        ],
    ),
];

#[test]
fn rules_of_pf_become_rules_that_mean_the_same() {
    for (text, expected) in PF {
        let converted = pf(text);
        let lines = lines(&converted);
        let lines: Vec<_> = lines.into_iter().filter(|line| *line != "set ip4.drop_options on").collect();
        let first = lines.iter().position(|line| *line == "pass all").unwrap();
        let rest: Vec<_> = lines.iter().enumerate().filter(|(i, _)| *i != first).map(|(_, line)| *line).collect();
        assert_eq!(rest, *expected, "{text}\n{}", said(&converted));
    }
}

/// What of pf is not carried over, and a part of what is said about it.
pub(super) const NOT_PF: &[(&str, &str)] = &[
    ("pass out proto tcp user root", "\"user\" is not known"),
    ("block in from any os \"Windows\"", "\"os\" is not known"),
    ("block on ! em0", "cannot be negated"),
    ("block from no-route", "\"no-route\" is not known"),
    ("block from www.example.org", "names of hosts"),
    ("block from $nowhere", "$nowhere is not set"),
    ("lan = $if:network", "$if is not set"),
    ("if = em0\nlan = $if:network\nblock from $lan", "not its \":network\""),
    ("block from (em0:network)", "not its \":network\""),
    ("pass proto tcp flags any", "\"flags any\" with state"),
    ("block proto tcp flags /SFRA", "none of some flags"),
    ("match in all scrub (no-df)", "\"scrub\" is not known"),
    ("match in all", "does nothing here but translate"),
    ("anchor \"ftp-proxy/*\"", "anchors are not carried over"),
    ("anchor x {\n pass\n block in\n}", "anchors are not carried over"),
    ("load anchor x from \"/etc/x\"", "anchors are not carried over"),
    ("include \"/etc/other\"", "convert it by itself"),
    ("scrub in all", "normalize"),
    ("altq on em0 cbq bandwidth 10Mb queue { a }", "no queues"),
    ("set limit states 10000", "no counterpart"),
    ("set timeout udp.first 60", "no parameter"),
    ("match out nat-to 192.0.2.1", "a map needs an interface"),
    ("match in on em0 nat-to 192.0.2.1", "on the way out"),
    ("match on em0 from 10.0.0.1 to 10.0.0.2 binat-to 192.0.2.1", "both ways"),
    ("no nat on em0 from 10.0.0.1 to any", "exceptions"),
    ("table <t> { 10.0.0.0/8, ! 10.1.0.0/16 }\nblock from <t>", "excepted"),
    ("pass in route-to 10.0.0.1", "\"route-to\" is not known"),
    ("pass probability 50%", "\"probability\" is not known"),
    ("block proto tcp to port nosuchservice", "is no port that is known"),
    ("block proto nosuchproto", "is no protocol"),
    ("pass in \"", "quotation mark"),
    ("block from { 10.0.0.1", "brace is not closed"),
    ("block from 10.0.0.300", "is no address"),
    ("block from 10.0.0.9 - 10.0.0.1", "backwards"),
    ("antispoof for em0", "on ! em0"),
    ("frobnicate", "not known"),
    ("match out on em0 from 10.0.0.0/8 nat-to 192.0.2.1 port 2000:3000 static-port", "no-ports"),
];

#[test]
fn what_of_pf_cannot_be_carried_over_is_noted_and_stands_as_a_comment() {
    for (text, why) in NOT_PF {
        let converted = pf(text);
        lines(&converted);
        assert!(said(&converted).contains(why), "{text}: {}", said(&converted));
        let comment = converted.text.lines().find(|line| line.trim().starts_with("# not carried over: "));
        assert!(comment.is_some_and(|line| line.contains(why)), "{text}:\n{}", converted.text);
    }
}

/// What is carried over, and means something else.
#[test]
fn what_means_something_else_is_noted() {
    for (text, why) in [
        ("pass keep state (max-src-nodes 3)", "max-src-nodes 3"),
        ("pass queue q", "queue q"),
        ("pass set prio 5", "set prio 5"),
        ("pass synproxy state", "synproxy state"),
        ("pass tag X", "a tag is given by the rule that decides"),
        ("pass on egress", "a group of interfaces"),
        ("table <t> persist file \"/etc/t\"", "its file may hold"),
        ("match out on em0 nat-to 192.0.2.1", "before translation"),
        ("pass allow-opts", "IP options"),
        ("block return", "administratively prohibited"),
    ] {
        let converted = pf(text);
        assert!(said(&converted).contains(why), "{text}: {}", said(&converted));
    }
    assert_eq!(pf("\n\nblock on egress").notes[0].at, Origin::Line(3));
    assert!(pf("block in\npass in proto tcp to port 22").notes.is_empty());
    assert!(!pf("pass allow-opts").text.contains("drop_options"));
}

#[test]
fn macros_that_grow_without_end_are_given_up() {
    let mut text = "a0 = \"10.0.0.1\"\n".to_owned();
    for i in 1..40 {
        text += &format!("a{i} = \"$a{} $a{}\"\n", i - 1, i - 1);
    }
    text += "block from { $a39 }\nblock from $a2\nb = \"$b\"\nblock from $b\n";
    let converted = pf(&text);
    lines(&converted);
    assert!(said(&converted).contains("too deep"), "{}", said(&converted));
}
