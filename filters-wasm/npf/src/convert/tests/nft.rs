//! What rules of nftables become.

use super::*;
use crate::convert::nft;
use serde_json::{Value, json};

pub(super) fn meta(key: &str, right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}})
}

pub(super) fn payload(protocol: &str, field: &str, right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}})
}

pub(super) fn not(mut matched: Value) -> Value {
    matched["match"]["op"] = json!("!=");
    matched
}

pub(super) fn state(states: &[&str]) -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": states}})
}

pub(super) fn verdict(word: &str) -> Value {
    let mut value = json!({});
    value[word] = Value::Null;
    value
}

/// A ruleset: chains with their hooks and policies, rules with the chain that they are in.
pub(super) fn ruleset(chains: &[(&str, &str, &str)], rules: &[(&str, Vec<Value>)]) -> String {
    let mut list =
        vec![json!({"metainfo": {"json_schema_version": 1}}), json!({"table": {"family": "inet", "name": "t"}})];
    for (name, hook, policy) in chains {
        let kind = if hook.ends_with("routing") { "nat" } else { "filter" };
        let mut chain = json!({"family": "inet", "table": "t", "name": name});
        if !hook.is_empty() {
            chain["type"] = json!(kind);
            chain["hook"] = json!(hook);
            chain["prio"] = json!(0);
            chain["policy"] = json!(policy);
        }
        list.push(json!({"chain": chain}));
    }
    list.push(
        json!({"set": {"family": "inet", "table": "t", "name": "nets", "type": "ipv4_addr", "flags": ["interval"],
        "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["192.0.2.4", "192.0.2.7"]}]}}),
    );
    list.push(json!({"set": {"family": "inet", "table": "t", "name": "bad", "type": "ipv4_addr", "flags": ["dynamic", "timeout"],
        "timeout": 60}}));
    list.push(
        json!({"set": {"family": "inet", "table": "t", "name": "web", "type": "inet_service", "elem": [80, 443]}}),
    );
    for (i, (chain, expr)) in rules.iter().enumerate() {
        list.push(json!({"rule": {"family": "inet", "table": "t", "chain": chain, "handle": i, "expr": expr}}));
    }
    json!({ "nftables": list }).to_string()
}

/// The rules for `in` that rules of an input chain become, and all that is said.
fn input(rules: Vec<Vec<Value>>) -> (Vec<String>, String) {
    let rules: Vec<_> = rules.into_iter().map(|expr| ("input", expr)).collect();
    let converted = nft(&ruleset(&[("input", "input", "drop"), ("sub", "", "")], &rules)).unwrap();
    let lines = lines(&converted).into_iter().filter(|line| line.contains(" in ")).map(str::to_owned).collect();
    (lines, said(&converted))
}

#[test]
fn rules_of_nft_become_rules_in_their_order() {
    let accept = || verdict("accept");
    let tcp_flags = json!({"match": {"op": "==", "right": "syn",
        "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}}});
    let cases: Vec<(Vec<Value>, &[&str])> = vec![
        (vec![accept()], &["pass in final all"]),
        (vec![json!({"counter": {"packets": 1, "bytes": 2}}), verdict("drop")], &["block in final all"]),
        (vec![json!({"reject": {"type": "tcp reset"}})], &["block return-rst in final all"]),
        (vec![verdict("reject")], &["block return-icmp in final all"]),
        (vec![json!({"log": {"prefix": "odd: "}}), verdict("drop")], &["block in final all name \"odd:\" log"]),
        (vec![meta("iif", json!("lo")), accept()], &["pass in final on \"lo\" all"]),
        (
            vec![meta("iifname", json!({"set": ["a", "b"]})), accept()],
            &["pass in final on \"a\" all", "pass in final on \"b\" all"],
        ),
        (
            vec![meta("l4proto", json!({"set": ["tcp", "udp"]})), payload("th", "dport", json!(53)), accept()],
            &["pass in final proto { tcp, udp } to any port 53"],
        ),
        (vec![payload("tcp", "dport", json!("ssh")), accept()], &["pass in final proto tcp to any port 22"]),
        (
            vec![payload("tcp", "dport", json!({"set": [22, {"range": [80, 90]}]})), accept()],
            &["pass in final proto tcp to any port { 22, 80-90 }"],
        ),
        (vec![payload("tcp", "dport", json!("@web")), accept()], &["pass in final proto tcp to any port { 80, 443 }"]),
        (
            vec![not(payload("udp", "sport", json!({"range": [10, 20]}))), accept()],
            &["pass in final proto udp from any port { 0-9, 21-65535 }"],
        ),
        (
            vec![payload("ip", "saddr", json!({"prefix": {"addr": "10.0.0.0", "len": 8}})), accept()],
            &["pass in final family inet4 from 10.0.0.0/8"],
        ),
        (
            vec![not(payload("ip6", "daddr", json!("2001:db8::1"))), accept()],
            &["pass in final family inet6 to ! 2001:db8::1"],
        ),
        (
            vec![payload("ip", "saddr", json!("@nets")), accept()],
            &["pass in final family inet4 from { 10.0.0.0/8, 192.0.2.4/30 }"],
        ),
        (
            vec![payload("ip", "saddr", json!("@bad")), verdict("drop")],
            &["block in final family inet4 from <inet-t-bad>"],
        ),
        (vec![payload("icmp", "type", json!("echo-request")), accept()], &["pass in final proto icmp icmp-type 8 all"]),
        (
            vec![payload("icmpv6", "type", json!({"set": ["nd-redirect", 1]})), accept()],
            &["pass in final proto { ipv6-icmp icmp-type 137, ipv6-icmp icmp-type 1 } all"],
        ),
        (vec![tcp_flags, accept()], &["pass in final proto tcp flags S/FSRA all"]),
        (
            vec![state(&["new"]), payload("tcp", "dport", json!(22)), accept()],
            &["pass stateful-all in final proto tcp to any port 22"],
        ),
        (vec![state(&["new"]), verdict("drop")], &["block in final all"]),
        (
            vec![json!({"limit": {"rate": 10, "per": "minute", "burst": 20}}), accept()],
            &["pass in final all limit rate 10/1m burst 20"],
        ),
        (
            vec![json!({"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
            "data": {"set": [[22, {"accept": null}], [23, {"drop": null}]]}}})],
            &["pass in final proto tcp to any port 22", "block in final proto tcp to any port 23"],
        ),
        (vec![verdict("return")], &["block in final all"]),
        (vec![json!({"counter": null})], &[]),
    ];
    for (rule, expected) in cases {
        let text = json!(rule).to_string();
        let (lines, said) = input(vec![rule]);
        let (policy, rest) = lines.split_last().unwrap();
        assert_eq!(
            (policy.as_str(), rest),
            ("block in final all", &*expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()),
            "{text}\n{said}"
        );
    }
}

#[test]
fn what_of_nft_cannot_be_carried_over_is_noted_and_stands_as_a_comment() {
    let accept = || verdict("accept");
    for (rule, why) in [
        (vec![meta("skuid", json!(0)), accept()], "\"meta skuid\" is not known"),
        (vec![not(meta("iifname", json!("a"))), accept()], "\"!=\" is not known"),
        (vec![meta("iifname", json!("eth*")), accept()], "not all of \"eth*\""),
        (vec![meta("oifname", json!("a")), accept()], "no such interface"),
        (vec![payload("ip", "ttl", json!(1)), verdict("drop")], "\"ip ttl\" is not known"),
        (vec![payload("ip", "saddr", json!("@none")), accept()], "there is no set none"),
        (vec![state(&["invalid"]), verdict("drop")], "does not fit its connection"),
        (vec![state(&["untracked"]), accept()], "only the states"),
        (
            vec![payload("ip", "saddr", json!("10.0.0.1")), payload("ip6", "daddr", json!("::1")), accept()],
            "asked for twice",
        ),
        (vec![payload("tcp", "dport", json!(1)), payload("udp", "dport", json!(1)), accept()], "no protocol is left"),
        (vec![json!({"limit": {"rate": 1, "per": "second", "inv": true}}), verdict("drop")], "exceeds a limit"),
        (vec![json!({"jump": {"target": "nowhere"}})], "there is no chain \"nowhere\""),
        (vec![json!({"log": null})], "only logs"),
        (vec![json!({"queue": {"num": 1}})], "\"queue\" is not known"),
        (vec![json!({"masquerade": null})], "chains of type nat only"),
        (vec![json!(7)], "not understood"),
    ] {
        let rules = [("input", rule.clone())];
        let converted = nft(&ruleset(&[("input", "input", "drop")], &rules)).unwrap();
        lines(&converted);
        assert!(said(&converted).contains(why), "{rule:?}: {}", said(&converted));
        let comment = converted.text.lines().find(|line| line.trim().starts_with("# not carried over: "));
        assert!(comment.is_some_and(|line| line.contains(why)), "{rule:?}:\n{}", converted.text);
        let note = converted.notes.iter().find(|note| note.why.contains(why)).unwrap();
        assert_eq!(note.at, Origin::Path("inet t input handle 0".to_owned()));
    }
}

/// What is established passes without a rule, and therefore what is accepted opens connections, outgoing ones too.
#[test]
fn where_nft_accepts_what_is_established_connections_are_opened() {
    let rules = [
        ("input", vec![state(&["established", "related"]), verdict("accept")]),
        ("input", vec![payload("tcp", "dport", json!(22)), verdict("accept")]),
    ];
    let converted = nft(&ruleset(&[("input", "input", "drop")], &rules)).unwrap();
    assert_eq!(
        lines(&converted)[1..],
        [
            "pass stateful-all forw final all",
            "pass forw final all",
            "pass stateful-all out final all",
            "pass out final all",
            "pass stateful-all in final proto tcp to any port 22",
            "block in final all",
        ]
    );
    assert!(said(&converted).contains("pass without a rule"));
}

#[test]
fn jumps_put_the_other_chain_in_with_what_both_ask() {
    let rules = [
        ("input", vec![meta("iifname", json!("lan")), json!({"jump": {"target": "sub"}})]),
        ("sub", vec![payload("tcp", "dport", json!(22)), verdict("accept")]),
        ("sub", vec![payload("ip", "saddr", json!("10.0.0.1")), json!({"jump": {"target": "sub2"}})]),
        ("sub2", vec![verdict("drop")]),
        ("sub2", vec![json!({"jump": {"target": "sub2"}})]),
        ("input", vec![json!({"goto": {"target": "sub2"}})]),
        ("input", vec![verdict("accept")]),
    ];
    let converted = nft(&ruleset(&[("input", "input", "drop"), ("sub", "", ""), ("sub2", "", "")], &rules)).unwrap();
    let lines: Vec<_> = lines(&converted).into_iter().filter(|line| line.contains(" in ")).collect();
    assert_eq!(
        lines[..2],
        ["pass in final on \"lan\" proto tcp to any port 22", "block in final on \"lan\" family inet4 from 10.0.0.1",]
    );
    assert!(said(&converted).contains("deep"));
}

/// What `return` would have kept from what follows is not known here.
#[test]
fn behind_a_return_that_is_not_carried_over_nothing_is_accepted() {
    let rules = [
        ("input", vec![json!({"jump": {"target": "sub"}})]),
        ("sub", vec![payload("ip", "saddr", json!("10.0.0.1")), verdict("return")]),
        ("sub", vec![verdict("accept")]),
        ("sub", vec![payload("tcp", "dport", json!(22)), verdict("drop")]),
    ];
    let converted = nft(&ruleset(&[("input", "input", "drop"), ("sub", "", "")], &rules)).unwrap();
    let lines: Vec<_> = lines(&converted).into_iter().filter(|line| line.contains(" in ")).collect();
    assert_eq!(lines, ["block in final proto tcp to any port 22", "block in final all"]);
}

#[test]
fn a_router_decides_on_what_it_forwards_when_it_leaves() {
    let established = || vec![state(&["established", "related"]), verdict("accept")];
    let rules = [
        ("input", established()),
        ("forward", established()),
        ("forward", vec![meta("iifname", json!("lan")), meta("oifname", json!("wan")), verdict("accept")]),
        (
            "forward",
            vec![payload("ip", "daddr", json!("10.0.0.2")), payload("tcp", "dport", json!(80)), verdict("accept")],
        ),
        (
            "post",
            vec![
                meta("oifname", json!("wan")),
                payload("ip", "saddr", json!({"prefix": {"addr": "10.0.0.0", "len": 8}})),
                verdict("masquerade"),
            ],
        ),
        ("post", vec![meta("oifname", json!("wan")), json!({"snat": {"addr": "2001:db8::1", "family": "ip6"}})]),
        (
            "pre",
            vec![
                meta("iifname", json!("wan")),
                payload("tcp", "dport", json!(8080)),
                json!({"dnat": {"addr": "10.0.0.2", "port": 80, "family": "ip"}}),
            ],
        ),
        ("pre", vec![verdict("accept")]),
        ("pre", vec![payload("tcp", "dport", json!(1)), json!({"dnat": {"addr": "10.0.0.2"}})]),
    ];
    let chains = [
        ("input", "input", "drop"),
        ("forward", "forward", "drop"),
        ("post", "postrouting", "accept"),
        ("pre", "prerouting", "accept"),
    ];
    let converted = nft(&ruleset(&chains, &rules)).unwrap();
    assert_eq!(
        lines(&converted),
        [
            "$local = { ifaddrs(\"lo\"), ifaddrs(\"lan\"), ifaddrs(\"wan\"), 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255, ff00::/8 }",
            "table <inet-t-bad> type lpm timeout 60s",
            "map \"wan\" dynamic 10.0.0.0/8 -> ifaddrs(\"wan\")",
            "map \"wan\" dynamic ::/0 -> 2001:db8::1",
            "map \"wan\" dynamic proto tcp 10.0.0.2 port 80 <- 0.0.0.0/0 port 8080",
            "pass stateful-all forw final on \"wan\" all tagged \"from lan\"",
            "pass stateful-all forw final family inet4 proto tcp to 10.0.0.2 port 80",
            "block forw final all",
            "pass stateful-all out final all",
            "pass out final all",
            "pass stateful-all in final on \"wan\" proto tcp to any port 8080 tag \"from wan\"",
            "pass stateful-all in final on \"lan\" to ! $local tag \"from lan\"",
            "pass stateful-all in final to ! $local",
            "pass in final on \"lan\" to ! $local tag \"from lan\"",
            "pass in final to ! $local",
            "block in final all",
        ]
    );
    let said = said(&converted);
    for part in ["\"accept\" is not known in this chain", "a map needs an interface", "before translation"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What a chain accepts the next one of its hook decides on.
#[test]
fn of_several_chains_only_the_last_accepts() {
    let chains = [("one", "input", "accept"), ("two", "input", "drop")];
    let rules = [
        ("one", vec![payload("tcp", "dport", json!(1)), verdict("drop")]),
        ("one", vec![payload("tcp", "dport", json!(2)), verdict("accept")]),
        ("two", vec![payload("tcp", "dport", json!(3)), verdict("accept")]),
    ];
    let converted = nft(&ruleset(&chains, &rules)).unwrap();
    let lines: Vec<_> = lines(&converted).into_iter().filter(|line| line.contains(" in ")).collect();
    assert_eq!(
        lines,
        ["block in final proto tcp to any port 1", "pass in final proto tcp to any port 3", "block in final all",]
    );
    assert!(said(&converted).contains("another chain of this hook decides"));
}

#[test]
fn what_is_no_ruleset_is_refused() {
    assert!(matches!(nft("{"), Err(ConvertError::Json(_))));
    assert!(matches!(nft("{}"), Err(ConvertError::NoRuleset)));
    let nothing = nft("{\"nftables\": []}").unwrap();
    assert_eq!(lines(&nothing), ["pass forw final all", "pass out final all", "pass in final all"]);
    let other = nft(
        "{\"nftables\": [{\"chain\": {\"family\": \"bridge\", \"table\": \"t\", \"name\": \"c\"}}, {\"flowtable\": {}}]}",
    );
    assert_eq!(other.unwrap().notes.len(), 2);
}
