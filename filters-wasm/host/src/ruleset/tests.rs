//! Modules against the plans that they are made from, and against the literal evaluator.

mod broken;
mod cost;
mod swap;

use super::*;
use smpnet_npf::{
    config::{Config, Rule, TableId},
    evaluate::{Asked, Dynamic, Evaluator, Interfaces, NoInterfaces, Programs, Where},
    language::{NoFiles, parse},
    packet::Packet,
    plan::{Numbered, Plan, RuleIndex, TagNumber, rules},
    state::Millis,
    tables::Tables,
    testing::{
        icmp, ip,
        random::{self, Dice, Limits, Setting},
        tcp, udp,
    },
    wasm::{Facts, NONE, Side},
};
use std::ptr;

/// What a packet is asked about with.
struct Question {
    bytes: Vec<u8>,
    packet: Packet,
    interface: &'static str,
    way: Where,
    tag: Option<&'static str>,
}

impl Question {
    fn new(bytes: Vec<u8>) -> Question {
        let packet = Packet::read(&bytes).unwrap();
        Question { bytes, packet, interface: "eth0", way: Where::In, tag: None }
    }

    fn random(dice: &mut Dice) -> Question {
        let way = dice.pick(&[Where::In, Where::Out, Where::Forward]);
        let (interface, tag) = (dice.pick(&random::INTERFACES), dice.pick(&random::TAGS));
        Question { interface, way, tag, ..Question::new(random::packet(dice)) }
    }

    fn asked(&self) -> Asked<'_> {
        let Question { ref bytes, ref packet, interface, way, tag } = *self;
        Asked { packet, bytes, interface, way, tag }
    }
}

/// The host of a test: tables, the packets of a burst, and what was asked of limits for each.
struct World<'a> {
    tables: &'a Tables,
    rules: &'a [&'a Rule],
    burst: &'a [Question],
    limits: Vec<Limits>,
}

impl RulesetHost for World<'_> {
    fn is_in_table(&mut self, packet: usize, facts: &Facts, table: TableId, side: Side) -> bool {
        let asked = &self.burst[packet].packet;
        let address = if side == Side::Source { asked.src } else { asked.dst };
        let port = asked.ports().map(|p| if side == Side::Source { p.src } else { p.dst });
        let told = (facts.family(), facts.address(side), facts.service(side));
        assert_eq!(told, (asked.family, address, port.map(|port| (asked.proto, port))));
        self.tables.contains(table, told.0, told.1, told.2)
    }

    fn within(&mut self, packet: usize, rule: RuleIndex) -> bool {
        self.limits[packet].within(self.rules[rule.0 as usize])
    }

    fn bytes(&mut self, packet: usize) -> &[u8] {
        let Question { bytes, packet, .. } = &self.burst[packet];
        &bytes[..packet.len]
    }
}

/// Rules, and all that belongs to them.
struct Case<'a> {
    config: &'a Config,
    programs: &'a Programs,
    interfaces: &'a dyn Interfaces,
    dynamic: &'a Dynamic,
    plan: Plan,
    instance: RulesetInstance,
}

impl<'a> Case<'a> {
    fn new(
        engine: &RulesetEngine,
        config: &'a Config,
        programs: &'a Programs,
        interfaces: &'a dyn Interfaces,
        dynamic: &'a Dynamic,
    ) -> Case<'a> {
        let plan = Plan::new(config, programs, interfaces, dynamic);
        let instance = engine.compile(&plan).unwrap().instantiate().unwrap();
        Case { config, programs, interfaces, dynamic, plan, instance }
    }

    /// Asks module, plan and evaluator about a burst; returns the rules that decided.
    fn agree(&mut self, burst: &[Question], tables: &Tables, why: &str) -> Vec<Option<u32>> {
        let rules = rules(self.config, self.dynamic);
        let limits = burst.iter().map(|_| Limits::default()).collect();
        let mut world = World { tables, rules: &rules, burst, limits };
        for (facts, question) in self.instance.facts().iter_mut().zip(burst) {
            *facts = Facts::of(&self.plan.numbered(&question.asked()));
        }
        let decided = self.instance.decide(burst.len(), &mut world).unwrap().to_vec();
        assert_eq!(decided.len(), burst.len());
        for ((n, question), decided) in burst.iter().enumerate().zip(&decided) {
            let (asked, [theirs, ours]) = (question.asked(), [Limits::default(), Limits::default()]);
            let within = |rule: &Rule| theirs.within(rule);
            let evaluator = Evaluator::new(self.programs, tables, self.interfaces, self.dynamic, &within);
            let right = evaluator.decide(self.config, &asked);
            let planned = self.plan.decide(&asked, tables, &|rule| ours.within(rules[rule.0 as usize]));
            let is_right = match right {
                None => *decided == NONE,
                Some(rule) => rules.get(*decided as usize).is_some_and(|mine| ptr::eq(rule, *mine)),
            };
            assert!(
                is_right && planned.map_or(NONE, |p| p.0) == *decided && theirs.asked() == world.limits[n].asked(),
                "{why}, packet {n}: the module says {decided}, limits {:?}; the plan {planned:?}, limits {:?}; the evaluator {:?}, \
                 limits {:?}\n{asked:?}\n{:#?}\n{:#?}",
                world.limits[n].asked(),
                ours.asked(),
                right.map(|r| r.id),
                theirs.asked(),
                self.config,
                self.dynamic,
            );
        }
        decided.iter().map(|rule| Some(*rule).filter(|rule| *rule != NONE)).collect()
    }
}

/// Random settings with 20 packets each. Returns how many decisions were compared, and how many found a rule.
fn compare(seeds: std::ops::Range<u64>) -> (usize, usize) {
    let engine = RulesetEngine::new().unwrap();
    let programs = random::programs();
    let (mut cases, mut decided) = (0, 0);
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let setting = Setting::random(&mut dice);
        let Setting { config, dynamic, interfaces, .. } = &setting;
        let programs = &programs[usize::from(dice.in_100(10))];
        let mut tables = Tables::new(config);
        let mut case = Case::new(&engine, config, programs, interfaces, dynamic);
        for burst in [1, 9, 10] {
            let questions: Vec<Question> = (0..burst).map(|_| Question::random(&mut dice)).collect();
            let found = case.agree(&questions, &tables, &format!("seed {seed}"));
            cases += burst;
            decided += found.iter().flatten().count();
            // The module knows nothing of what is in tables.
            setting.change(&mut tables, &mut dice);
        }
    }
    (cases, decided)
}

#[test]
fn a_module_decides_as_its_plan_and_the_evaluator_do() {
    let long = std::env::var("SMPNET_LONG").is_ok_and(|v| v == "1");
    let (cases, decided) = compare(0..if long { 50_000 } else { 500 });
    assert!(cases >= if long { 1_000_000 } else { 10_000 });
    assert!(decided * 10 > cases * 4, "only {decided} of {cases} packets met a rule");
    assert!(cases - decided > cases / 20, "{decided} of {cases} packets met a rule");
}

/// A configuration as text, and what its module says of bursts.
fn with(text: &str, dynamic: &Dynamic, test: impl FnOnce(&mut Case<'_>, &mut Tables)) {
    let config = parse("test.conf", text, &NoFiles).unwrap().config;
    let mut programs = Programs::new(&config).unwrap();
    dynamic.values().flatten().for_each(|rule| programs.add(rule).unwrap());
    let engine = RulesetEngine::new().unwrap();
    let mut case = Case::new(&engine, &config, &programs, &NoInterfaces, dynamic);
    test(&mut case, &mut Tables::new(&config));
}

fn tcp_to(src: &str, dst: &str, port: u16) -> Question {
    Question::new(tcp((src, 1000), (dst, port), 0x02, b"", b""))
}

/// Rules for random networks and ports, in both families; the last one is for what is left. Where they are `crowded`, two at
/// the ends of all addresses leave those of the others in few slots.
fn many(rules: u64, crowded: bool) -> String {
    let mut dice = Dice::new(rules);
    let mut text = String::from("group default {\n");
    for n in 1..rules {
        let (proto, port) = (dice.pick(&["tcp", "udp"]), dice.below(40));
        let is_final = dice.pick(&["final ", "final ", ""]);
        let (net, host) = (dice.below(4), dice.below(250));
        text += &match dice.below(3) {
            _ if crowded && n == 1 => "pass in from { 1.0.0.0/8, 1::/16 } to { 1.0.0.1, 1::1 }\n".to_owned(),
            _ if crowded && n == 2 => "pass in from { 250.0.0.0/8, fff::/16 } to { 250.0.0.1, fff::1 }\n".to_owned(),
            0 => format!(
                "pass in {is_final}family inet6 proto {proto} from 2001:db8:{net}::/48 to 2001:db8:9::{host:x}\n"
            ),
            _ => format!("pass in {is_final}proto {proto} from 10.{net}.{host}.0/24 to 10.9.0.0/16 port {port}\n"),
        };
    }
    text + "block all\n}\n"
}

fn many_packet(dice: &mut Dice) -> Question {
    let (net, host, other, port) = (dice.below(5), dice.below(260) % 256, dice.below(260), dice.below(42) as u16);
    let ends = match dice.below(3) {
        0 => (format!("2001:db8:{net}::{other:x}"), format!("2001:db8:9::{host:x}")),
        _ => (format!("10.{net}.{host}.7"), format!("10.9.{host}.1")),
    };
    let (src, dst) = ((ends.0.as_str(), 1000), (ends.1.as_str(), port));
    Question::new(if dice.in_100(50) { tcp(src, dst, 0x10, b"", b"") } else { udp(src, dst, b"") })
}

#[test]
fn many_rules_and_full_bursts() {
    for (rules, crowded) in [1, 2, 63, 64, 65, 513, 4097, 10_000].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        with(&many(rules, crowded), &Dynamic::new(), |case, tables| {
            let mut dice = Dice::new(rules);
            let mut decided = 0;
            for _ in 0..8 {
                let burst: Vec<Question> = (0..64).map(|_| many_packet(&mut dice)).collect();
                let found = case.agree(&burst, tables, &format!("{rules} rules, crowded: {crowded}"));
                assert!(found.iter().all(Option::is_some), "the last rule takes all");
                decided += found.iter().flatten().filter(|rule| u64::from(**rule) != rules - 1).count();
            }
            assert!(rules < 1000 || decided > 20, "{decided} packets met another rule than the last of {rules}");
        });
    }
}

#[test]
fn no_rules_decide_nothing() {
    with("group default {}", &Dynamic::new(), |case, tables| {
        let burst = [tcp_to("10.0.0.1", "10.0.0.2", 80), tcp_to("2001:db8::1", "2001:db8::2", 80)];
        assert_eq!(case.agree(&burst, tables, ""), [None, None]);
    });
    with("group default { pass family inet6 all }", &Dynamic::new(), |case, tables| {
        let burst = [tcp_to("10.0.0.1", "10.0.0.2", 80), tcp_to("2001:db8::1", "2001:db8::2", 80)];
        assert_eq!(case.agree(&burst, tables, ""), [None, Some(0)]);
    });
}

#[test]
fn packets_without_ports_match_rules_without_ports_only() {
    let text = "group default {\npass proto gre all\npass proto icmp icmp-type echo all\npass from any port 0 to any\n\
                block final from any to 10.0.0.9\n}";
    with(text, &Dynamic::new(), |case, tables| {
        let burst = [
            Question::new(ip("10.0.0.1", "10.0.0.2", 47, &[0; 16])),
            Question::new(icmp("10.0.0.1", "10.0.0.2", 8, 0, &[0; 4])),
            Question::new(icmp("10.0.0.1", "10.0.0.2", 3, 1, &[0; 32])),
            Question::new(udp(("10.0.0.1", 0), ("10.0.0.2", 5), b"")),
            Question::new(ip("10.0.0.1", "10.0.0.9", 50, &[0; 16])),
        ];
        assert_eq!(case.agree(&burst, tables, ""), [Some(0), Some(1), None, Some(2), Some(3)]);
    });
}

#[test]
fn tables_are_asked_when_the_packet_is_there() {
    let text = "table <good> type ipset\ntable <nets> type lpm\ngroup default {\nblock all\npass from <good>\n\
                pass from any to { <nets>, 10.7.0.0/16 }\npass family inet6 from ! <nets> to ! <good>\n}";
    with(text, &Dynamic::new(), |case, tables| {
        let burst = [
            tcp_to("10.0.0.1", "10.0.0.2", 80),
            tcp_to("10.0.0.1", "10.7.9.2", 80),
            tcp_to("2001:db8::1", "2001:db8::2", 80),
        ];
        assert_eq!(case.agree(&burst, tables, ""), [Some(0), Some(2), Some(3)]);
        let entry = |text: &str, len| smpnet_npf::config::TableEntry {
            prefix: smpnet_npf::config::Prefix::new(text.parse().unwrap(), len).unwrap(),
            service: None,
        };
        tables.add(TableId(0), entry("10.0.0.1", 32), Millis(0), None).unwrap();
        assert_eq!(case.agree(&burst, tables, ""), [Some(1), Some(2), Some(3)]);
        tables.add(TableId(1), entry("2001:db8::", 64), Millis(0), None).unwrap();
        tables.add(TableId(1), entry("10.0.0.0", 24), Millis(0), None).unwrap();
        assert_eq!(case.agree(&burst, tables, ""), [Some(2), Some(2), Some(2)]);
    });
}

#[test]
fn expressions_tags_limits_and_dynamic_rulesets() {
    let text = "group default {\nblock all\npass pcap-filter \"tcp port 81\"\npass tagged \"red\" to 10.0.0.2\n\
                pass stateful final from any to 10.0.0.3 limit states 5\nruleset \"set\" in\npass final to 10.0.0.5\n}";
    let set = "group default {\npass from 10.0.0.1 to 10.0.0.4\nblock final to 10.0.0.4 port 90\npass to 10.0.0.4\n\
               pass pcap-filter \"udp\"\n}";
    let inside: Vec<Rule> = parse("set.conf", set, &NoFiles).unwrap().config.rules().cloned().collect();
    let dynamic: Dynamic = [("set".to_owned(), inside)].into();
    with(text, &dynamic, |case, tables| {
        let red = Question { tag: Some("red"), ..tcp_to("10.0.0.1", "10.0.0.2", 80) };
        let mut burst = vec![
            tcp_to("10.0.0.1", "10.0.0.2", 81),
            tcp_to("10.0.0.1", "10.0.0.2", 80),
            red,
            tcp_to("10.0.0.1", "10.0.0.4", 80),
            tcp_to("10.0.0.1", "10.0.0.4", 90),
            Question::new(udp(("10.0.0.1", 1), ("10.0.0.9", 2), b"")),
            Question { way: Where::Forward, ..tcp_to("10.0.0.1", "10.0.0.4", 80) },
            tcp_to("10.0.0.1", "10.0.0.5", 80),
        ];
        let decided = case.agree(&burst, tables, "");
        assert_eq!(decided, [1, 0, 2, 6, 5, 7, 0, 8].map(Some));
        burst.iter_mut().for_each(|q| *q = tcp_to("10.0.0.1", "10.0.0.3", 80));
        case.agree(&burst, tables, "limits");
    });
}

#[test]
fn what_a_plan_does_not_know_is_no_interface_and_no_tag() {
    with(
        "group default { block all\npass on eth7 all\npass tagged \"red\" to 10.0.0.2 }",
        &Dynamic::new(),
        |case, _| {
            let question = tcp_to("10.0.0.1", "10.0.0.2", 80);
            let numbered = case.plan.numbered(&question.asked());
            let numbers = [0, 1, 2, u32::MAX].map(smpnet_npf::plan::InterfaceNumber);
            for (facts, interface) in case.instance.facts().iter_mut().zip(numbers) {
                *facts = Facts::of(&Numbered { interface, tag: TagNumber::OTHER, ..numbered });
            }
            assert_eq!(case.instance.decide(4, &mut NoHost).unwrap(), [0, 1, 0, 0]);
        },
    );
}

#[test]
fn no_more_than_a_burst_is_decided() {
    with("group default { pass all }", &Dynamic::new(), |case, _| {
        assert!(case.instance.decide(0, &mut NoHost).unwrap().is_empty());
        assert_eq!(case.instance.decide(1000, &mut NoHost).unwrap(), [0; 64]);
    });
}

/// Panics when it is asked.
struct Panics;

impl RulesetHost for Panics {
    fn is_in_table(&mut self, _: usize, _: &Facts, _: TableId, _: Side) -> bool {
        panic!("asked")
    }

    fn within(&mut self, _: usize, _: RuleIndex) -> bool {
        panic!("asked")
    }

    fn bytes(&mut self, _: usize) -> &[u8] {
        panic!("asked")
    }
}

#[test]
fn a_panic_of_the_host_passes_through_and_the_instance_goes_on() {
    with("table <t> type ipset\ngroup default { pass from <t> }", &Dynamic::new(), |case, tables| {
        let instance = &mut case.instance;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = instance.decide(1, &mut Panics);
        }));
        assert!(caught.is_err());
        case.agree(&[tcp_to("10.0.0.1", "10.0.0.2", 80)], tables, "");
    });
}
