//! A plan against the literal evaluator, and what it costs.

mod cost;

use super::*;
use crate::{
    config::{Group, Item, Limit, LimitOf, Match, Place, Ruleset},
    evaluate::{Asked, Evaluator, NoInterfaces, Where},
    packet::Packet,
    tables::Tables,
    testing::{
        random::{self, Dice, Limits, Setting, rule},
        tcp, udp,
    },
};
use std::{cell::RefCell, ptr};

/// Random settings, each with packets. Returns how many decisions were compared, and how many found a rule.
fn compare(seeds: std::ops::Range<u64>, packets: usize) -> (usize, usize) {
    let programs = random::programs();
    let (mut cases, mut decided, mut always) = (0, 0, 0);
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let setting = Setting::random(&mut dice);
        let Setting { config, dynamic, interfaces, .. } = &setting;
        // Of an expression that is not there, no rule matches.
        let programs = &programs[usize::from(dice.in_100(10))];
        let mut tables = Tables::new(config);
        let plan = Plan::new(config, programs, interfaces, dynamic);
        let rules = rules(config, dynamic);
        assert_eq!(plan.len(), rules.len());
        for n in 0..packets {
            if n == packets / 2 {
                // The plan knows nothing of what is in tables.
                setting.change(&mut tables, &mut dice);
            }
            let bytes = random::packet(&mut dice);
            let packet = Packet::read(&bytes).unwrap();
            let way = dice.pick(&[Where::In, Where::Out, Where::Forward]);
            let (interface, tag) = (dice.pick(&random::INTERFACES), dice.pick(&random::TAGS));
            let asked = Asked { packet: &packet, bytes: &bytes, interface, way, tag };
            let (theirs, ours) = (Limits::default(), Limits::default());
            let within = |rule: &Rule| theirs.within(rule);
            let right = Evaluator::new(programs, &tables, interfaces, dynamic, &within).decide(config, &asked);
            let mine = plan.decide(&asked, &tables, &|rule| ours.within(rules[rule.0 as usize]));
            if let Some(rule) = plan.always(plan.interface(interface), way).filter(|_| packet.family == Family::V4) {
                assert_eq!(Some(rule), mine, "seed {seed}, packet {n}: {interface} {way:?} {packet:?}\n{config:#?}");
                always += 1;
            }
            let mine = mine.map(|rule| rules[rule.0 as usize]);
            let same = match (right, mine) {
                (Some(a), Some(b)) => ptr::eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            let id = |rule: Option<&Rule>| rule.map(|r| r.id);
            assert!(
                same && theirs.asked() == ours.asked(),
                "seed {seed}, packet {n}: the evaluator says {:?}, limits {:?}; the plan {:?}, limits {:?}\n\
                 {interface} {way:?} {tag:?} {packet:?}\n{config:#?}\n{dynamic:#?}",
                id(right),
                theirs.asked(),
                id(mine),
                ours.asked(),
            );
            cases += 1;
            decided += usize::from(right.is_some());
        }
    }
    assert!(always * 50 > cases, "{always} of {cases} packets were where the same rule always decides");
    (cases, decided)
}

#[test]
fn a_plan_decides_as_the_evaluator_does() {
    let long = std::env::var("SMPNET_LONG").is_ok_and(|v| v == "1");
    let (cases, decided) = compare(0..if long { 50_000 } else { 2_000 }, 20);
    assert!(decided * 10 > cases * 4, "only {decided} of {cases} packets met a rule");
    assert!(cases - decided > cases / 20, "{decided} of {cases} packets met a rule");
}

fn group(items: Vec<Item>) -> Group {
    let at = Place::default();
    Group { name: None, directions: Default::default(), interface: None, layer2: false, items, at }
}

fn decides(groups: Vec<Group>, dynamic: &Dynamic, within: impl Fn(RuleIndex) -> bool) -> Option<u64> {
    let config = Config { groups, ..Config::default() };
    let plan = Plan::new(&config, &Programs::default(), &NoInterfaces, dynamic);
    let bytes = udp(("10.0.0.1", 1), ("10.0.0.2", 53), b"");
    let packet = Packet::read(&bytes).unwrap();
    let asked = Asked { packet: &packet, bytes: &bytes, interface: "eth0", way: Where::In, tag: None };
    let rule = plan.decide(&asked, &Tables::new(&config), &within)?;
    rules(&config, dynamic).get(rule.0 as usize).map(|r| r.id.0)
}

#[test]
fn the_last_decides_or_the_first_that_is_final_and_nothing_behind_a_barrier() {
    let all = |id| Item::Rule(rule(id, Match::default()));
    let ends = |id| Item::Rule(Rule { is_final: true, ..rule(id, Match::default()) });
    let set = || {
        Item::Ruleset(Ruleset {
            name: "set".into(),
            directions: Default::default(),
            interface: None,
            at: Place::default(),
        })
    };
    let dynamic: Dynamic = [("set".into(), vec![rule(50, Match::default()), rule(51, Match::default())])].into();
    let none = Dynamic::new();
    let yes = |_| true;
    assert_eq!(decides(vec![], &none, yes), None);
    assert_eq!(decides(vec![group(vec![all(1), all(2)])], &none, yes), Some(2));
    assert_eq!(decides(vec![group(vec![all(1), ends(2), all(3)])], &none, yes), Some(2));
    assert_eq!(decides(vec![group(vec![all(1)]), group(vec![all(2)])], &none, yes), Some(1));
    assert_eq!(decides(vec![group(vec![all(1), Item::Group(group(vec![all(2)])), all(3)])], &none, yes), Some(1));
    assert_eq!(decides(vec![group(vec![Item::Group(group(vec![all(2)])), all(3)])], &none, yes), Some(3));
    assert_eq!(decides(vec![group(vec![all(1), set(), all(3)])], &none, yes), Some(3));
    assert_eq!(decides(vec![group(vec![all(1), set(), all(3)])], &dynamic, yes), Some(51));
    let limited = |id| {
        let limits = vec![Limit { of: LimitOf::States(1), per_source: None, overload: None }];
        Item::Rule(Rule { limits, ..rule(id, Match::default()) })
    };
    let asked = RefCell::new(Vec::new());
    let no = |rule: RuleIndex| {
        asked.borrow_mut().push(rule.0);
        false
    };
    let items = vec![limited(1), all(2), limited(3), set(), limited(4)];
    assert_eq!(decides(vec![group(items)], &dynamic, no), Some(51));
    assert_eq!(*asked.borrow(), [0, 2], "the walk does not get to the last one");
}

#[test]
fn names_that_no_rule_knows_have_numbers_of_their_own() {
    let config = Config {
        groups: vec![Group { interface: Some("eth7".into()), ..group(vec![Item::Rule(rule(1, Match::default()))]) }],
        ..Config::default()
    };
    let plan = Plan::new(&config, &Programs::default(), &NoInterfaces, &Dynamic::new());
    assert_eq!(["eth7", "eth8", ""].map(|name| plan.interface(name).0), [1, 0, 0]);
    assert_eq!([None, Some("x")].map(|tag| plan.tag(tag)), [TagNumber(0), TagNumber::OTHER]);
    let bytes = tcp(("10.0.0.1", 1), ("10.0.0.2", 53), 2, b"", b"");
    let packet = Packet::read(&bytes).unwrap();
    let at = |interface| Numbered { packet: &packet, bytes: &bytes, interface, way: Where::In, tag: TagNumber(0) };
    let decide = |n| plan.decide_numbered(&at(InterfaceNumber(n)), &Tables::default(), &|_| true, &mut ());
    // Numbers that the plan did not give are of interfaces that it does not know.
    assert_eq!([0, 1, 2, u32::MAX].map(decide), [None, Some(RuleIndex(0)), None, None]);
}

#[test]
fn many_rules_that_leave_everything_open_are_no_more_than_they_are() {
    // Where no dimension tells anything, the bits behind the last rule must not count.
    let tagged = Some(crate::config::Tagged { not: false, name: "red".into() });
    for count in [64, 65, 100, 700] {
        let rules = |tagged: &Option<_>| {
            (0..count).map(|id| Item::Rule(Rule { tagged: tagged.clone(), ..rule(id, Match::default()) })).collect()
        };
        assert_eq!(decides(vec![group(rules(&tagged))], &Dynamic::new(), |_| true), None, "{count} rules");
        assert_eq!(decides(vec![group(rules(&None))], &Dynamic::new(), |_| true), Some(count - 1));
    }
}
