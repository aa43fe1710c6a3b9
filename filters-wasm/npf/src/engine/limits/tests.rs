//! Limits that several workers have together.

use super::*;
use crate::{
    config::Config,
    language::{NoFiles, parse},
    state::{Binding, Crossing, Direction},
    testing::udp,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

fn rule(limits: &str) -> Rule {
    let text = format!("group default {{ pass stateful in final proto udp all {limits}\n block all }}");
    let config: Config = parse("l.conf", &text, &NoFiles).unwrap_or_else(|e| panic!("{e}")).config;
    config.rules().next().unwrap().clone()
}

fn packet(from: u8) -> (Vec<u8>, Packet) {
    let bytes = udp((&format!("10.0.0.{from}"), 1), ("192.0.2.1", 53), b"");
    let packet = Packet::read(&bytes).unwrap();
    (bytes, packet)
}

fn limits(rule: &Rule) -> Arc<Limits> {
    let limits = Limits::default();
    limits.prepare([rule].into_iter());
    Arc::new(limits)
}

#[test]
fn threads_that_hammer_one_limit_get_exactly_the_limit() {
    for text in ["limit states 1000", "limit states 1000 per source", "limit rate 1000/1h burst 1000 per source"] {
        let rule = Arc::new(rule(text));
        let limits = limits(&rule);
        let taken = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (rule, limits, taken) = (rule.clone(), limits.clone(), taken.clone());
                thread::spawn(move || {
                    let (_, packet) = packet(1);
                    for _ in 0..5_000 {
                        taken.fetch_add(u64::from(limits.take(&rule, &packet, Millis(7)).is_ok()), Relaxed);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(taken.load(Relaxed), 1000, "{text}");
        let (_, other) = packet(2);
        assert_eq!(limits.take(&rule, &other, Millis(7)).is_ok(), text.contains("source"), "{text}");
    }
}

#[test]
fn what_one_limit_refuses_is_not_counted_by_the_others() {
    let rule = rule("limit states 2 limit states 1 per source");
    let limits = limits(&rule);
    let (_, one) = packet(1);
    assert!(limits.take(&rule, &one, Millis(0)).is_ok());
    assert!(limits.take(&rule, &one, Millis(0)).is_err(), "the second limit");
    assert!(limits.take(&rule, &packet(2).1, Millis(0)).is_ok(), "the first one has room for one more");
    assert!(limits.exceeded(&rule, &packet(3).1, Millis(0)).is_some());
    limits.give_back(&rule, &one);
    assert!(limits.exceeded(&rule, &packet(3).1, Millis(0)).is_none());
}

#[test]
fn when_there_is_no_room_for_more_sources_new_ones_are_refused_and_known_ones_are_not() {
    let rule = rule("limit rate 2/10s per source");
    let limits = limits(&rule);
    let source = |n: u32| Packet { src: v4(n), ..packet(1).1 };
    let refused = (0..4 * SOURCES_MAX as u32).filter(|n| limits.take(&rule, &source(*n), Millis(0)).is_err()).count();
    let room = BUCKETS * 15;
    assert!((4 * SOURCES_MAX - room..4 * SOURCES_MAX - SOURCES_MAX).contains(&refused), "{refused}");
    let known = (0..).map(source).find(|p| limits.exceeded(&rule, p, Millis(0)).is_none()).unwrap();
    assert!(limits.take(&rule, &known, Millis(0)).is_ok());
    // Five seconds later all but that one are due.
    assert!((0..1000).all(|n| limits.take(&rule, &source(n + 10_000_000), Millis(10_000)).is_ok()));
    let few = (0..SOURCES_MAX as u32 / 2)
        .filter(|n| limits.take(&rule, &source(n + 20_000_000), Millis(30_000)).is_err())
        .count();
    assert!(few <= 8, "of half as many hardly any is: {few}");
}

#[test]
fn a_connection_that_ends_makes_room_though_its_rule_is_gone() {
    let rule = rule("limit states 1 per source");
    let limits = limits(&rule);
    let mut limited = Limited::default();
    limited.add([&rule].into_iter());
    let (bytes, packet) = packet(1);
    let at = Crossing { interface: Some(0), direction: Direction::In };
    let binding = Binding { interface: true, direction: true };
    let mut connection = Connection::open(&bytes, &packet, at, binding, Millis(0)).unwrap();
    connection.facts.rule = Some(rule.id);
    assert!(limits.take(&rule, &packet, Millis(0)).is_ok());
    limited.add([].into_iter());
    assert!(limits.exceeded(&rule, &packet, Millis(0)).is_some());
    limited.ended(&limits, &connection);
    assert!(limits.exceeded(&rule, &packet, Millis(0)).is_none());
    assert!(limited.begun(&limits, &connection), "one that is loaded counts");
    assert!(limits.take(&rule, &packet, Millis(0)).is_err());
    limited.keep(|_| false);
    limited.ended(&limits, &connection);
    assert!(limits.take(&rule, &packet, Millis(0)).is_err(), "of rules that no connection has nothing is known");
}
