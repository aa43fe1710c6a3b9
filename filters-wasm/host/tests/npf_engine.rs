//! An engine of npf whose rules run as a module says of bursts what one that asks the plan packet by packet says.

#![allow(clippy::unwrap_used, reason = "a test")]

use smpnet_npf::{
    checksum,
    config::Config,
    engine::{Elsewhere, Engine, Outcome, Packets, Place, Share},
    evaluate::{NoInterfaces, Where},
    language::{NoFiles, parse},
    packet::Packet,
    state::{Limits, Millis},
    wasm::RulesetCompiler,
};
use smpnet_wasm::ruleset::RulesetEngine;
use std::sync::Arc;

const PLAIN: &str = "\
    table <bad> type ipset\n\
    map wan dynamic 10.0.0.0/8 -> 192.0.2.1\n\
    map wan dynamic 10.0.0.3 port 8000 <- 192.0.2.1 port 80\n\
    map wan static algo netmap 172.16.0.0/24 <-> 198.51.100.0/24\n\
    group \"wan\" on wan {\n\
      block in final from <bad>\n\
      pass stateful out final proto tcp all\n\
      pass stateful out final proto udp to any port 1-3 tag \"low\"\n\
      pass out proto udp to any port 4\n\
      block return out proto icmp all\n\
      pass stateful in final to 192.0.2.1 port 80\n\
      pass in pcap-filter \"udp and greater 60\"\n\
      block in all log\n\
    }\n\
    group default { pass stateful all\n block from 10.0.0.9 }";

/// Most packets go the straight way: connections bound to an interface and to none, tags, an interface at which one rule
/// always decides, and one at which the rules of a module do.
const STRAIGHT: &str = "\
    table <bad> type ipset\n\
    map wan dynamic 10.0.0.0/9 -> 192.0.2.1\n\
    group \"wan\" on wan {\n\
      block in final from <bad>\n\
      pass stateful out final all\n\
      pass stateful in final proto tcp to any port 80 tag \"web\"\n\
      block in all\n\
    }\n\
    group \"dmz\" on dmz { block from 10.0.0.9\n pass all }\n\
    group default {\n\
      pass final proto udp from any to any port 1-2\n\
      pass stateful-all final proto tcp flags S/SA all\n\
      block final from <bad>\n\
      block final proto tcp all tagged \"web\"\n\
      pass in final pcap-filter \"udp and greater 50\"\n\
      pass stateful proto udp all\n\
      pass final proto tcp to any port 3\n\
    }";

const LIMITED: &str = "\
    table <loud> type ipset timeout 10s\n\
    group default {\n\
      block final from <loud>\n\
      pass stateful final proto udp to any port 1-2 limit states 3 per source overload <loud>\n\
      pass final proto udp to any port 3 limit rate 2/1s burst 2\n\
      pass stateful all\n\
    }";

fn config(text: &str) -> Arc<Config> {
    Arc::new(parse("engine.conf", text, &NoFiles).unwrap_or_else(|e| panic!("{e}")).config)
}

/// xorshift64*: the same packets in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// A packet out of few, so that many belong together.
fn packet(r: &mut Random) -> Vec<u8> {
    let inside = [10, 0, 0, r.below(10) as u8];
    let outside = [203, 0, 113, r.below(3) as u8];
    let (src, dst) = match r.below(5) {
        0 => (outside, [192, 0, 2, 1]),
        1 => (outside, inside),
        2 => ([172, 16, 0, 7], outside),
        _ => (inside, outside),
    };
    let [sport, dport] = [r.below(5) as u16, if r.below(4) == 0 { 80 } else { r.below(5) as u16 }];
    let (proto, mut body): (u8, Vec<u8>) = match r.below(6) {
        0 => (1, vec![if r.below(2) == 0 { 8 } else { 0 }, 0, 0, 0, 0, sport as u8, 0, 1]),
        1 | 2 => {
            let flags = [2, 0x12, 0x10, 0x11, 4][r.below(5) as usize];
            let mut tcp = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
            let (seq, ack) = (100 + r.below(3) as u8, 100 + r.below(3) as u8);
            tcp.extend([0, 0, 0, seq, 0, 0, 0, ack, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
            (6, tcp)
        }
        _ => (17, [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0, 8, 0, 0]].concat()),
    };
    if proto == 17 {
        let more = r.below(40) as usize;
        body[5] += more as u8;
        body.resize(8 + more, 7);
    }
    let mut bytes = vec![0x45, 0, 0, (20 + body.len()) as u8, 0, 0, 0, 0, 64, proto, 0, 0];
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(body);
    if let Ok(read) = Packet::read(&bytes) {
        checksum::fill(&mut bytes, &read);
    }
    if r.below(50) == 0 {
        bytes.truncate(9);
    }
    bytes
}

fn engine(config: &Arc<Config>) -> Engine {
    // Where the table is full, the oldest half-open connection makes room: which one that is depends on what came before it
    // in the burst. So there is room.
    let limits = Limits { capacity: 1 << 14, half_open_percent: 100 };
    Engine::alone(config.clone(), Arc::new(NoInterfaces), limits, 9, Millis(0)).unwrap()
}

fn run(text: &str, bursts: u64) -> (Vec<Outcome>, Engine) {
    let config = config(text);
    let (mut by_plan, mut by_module) = (engine(&config), engine(&config));
    let compiler = RulesetEngine::new().unwrap();
    let module = compiler.run(by_module.ruleset().unwrap().plan(), 1).unwrap().pop();
    assert!(by_module.set_module(module).is_none());
    let mut r = Random(0x5eed);
    let mut all = Vec::new();
    for n in 0..bursts {
        let n_packets = 1 + r.below(64) as usize;
        let mut one: Vec<Vec<u8>> = (0..n_packets).map(|_| packet(&mut r)).collect();
        let mut two = one.clone();
        let way = [Where::In, Where::Out, Where::Forward][r.below(3) as usize];
        let place = Place { interface: ["wan", "lan", "dmz"][r.below(3) as usize], way, now: Millis(n * 70) };
        let singly: Vec<Outcome> = one.iter_mut().map(|bytes| by_plan.handle(bytes, &place, 0)).collect();
        let mut together: Vec<Option<Outcome>> = vec![None; n_packets];
        by_module.handle_burst(&mut Packets(&mut two, |i, outcome| together[i] = Some(outcome)), &place);
        for (i, (singly, together)) in singly.iter().zip(together).enumerate() {
            assert_eq!(Some(singly), together.as_ref(), "burst {n}, packet {i} of {n_packets}");
            assert_eq!(one[i], two[i], "burst {n}, packet {i}");
        }
        all.extend(singly);
    }
    assert_eq!(by_plan.stats(), by_module.stats());
    assert_eq!(by_plan.tallies(), by_module.tallies());
    assert_eq!(by_module.stats().module_faults, 0);
    (all, by_module)
}

#[test]
fn bursts_are_judged_as_packets_one_by_one() {
    let (all, engine) = run(PLAIN, 400);
    let stats = engine.stats();
    let count = |is: fn(&Outcome) -> bool| all.iter().filter(|o| is(o)).count();
    assert!(stats.passed_connections > 500 && stats.passed_rules > 500 && stats.blocked_rules > 500, "{stats:?}");
    assert!(count(|o| o.reply.is_some()) > 50 && count(|o| o.logs != 0) > 50 && count(|o| o.tag != 0) > 50);
    assert!(stats.malformed > 10 && stats.invalid_state > 10, "{stats:?}");
}

#[test]
fn the_straight_way_of_bursts_says_what_the_long_one_does() {
    let (all, engine) = run(STRAIGHT, if std::env::var_os("SMPNET_LONG").is_some() { 100_000 } else { 2000 });
    let stats = engine.stats();
    let share = |n: u64| n * 100 / all.len() as u64;
    assert!(share(stats.passed_connections) > 10 && share(stats.passed_rules) > 10, "{stats:?}");
    assert!(share(stats.blocked_rules) > 5 && share(stats.invalid_state) > 0, "{stats:?}");
    assert!(all.iter().any(|o| o.tag != 0) && all.iter().any(|o| o.connection == Some("ESTABLISHED")));
}

#[test]
fn limits_count_what_packets_of_the_same_burst_bring_about() {
    let (all, engine) = run(LIMITED, 300);
    assert!(engine.stats().overloads > 10, "{:?}", engine.stats());
    assert!(all.iter().any(|o| o.overload.is_some()));
}

#[test]
fn a_worker_among_several_hands_over_what_is_not_its_own_in_bursts_too() {
    let config = config("group default { pass stateful all }");
    let elsewhere = Arc::new(Elsewhere::new(64));
    let mut engine = engine(&config);
    engine.share(Share::new(1, 3, &elsewhere));
    let module = RulesetEngine::new().unwrap().run(engine.ruleset().unwrap().plan(), 1).unwrap().pop();
    engine.set_module(module);
    let mut r = Random(3);
    let mut burst: Vec<Vec<u8>> = (0..64).map(|_| packet(&mut r)).collect();
    let mut to = [0; 3];
    let place = Place { interface: "lan", way: Where::Forward, now: Millis(1) };
    engine.handle_burst(
        &mut Packets(&mut burst, |_, o: Outcome| {
            if let Some(worker) = o.steer {
                assert!(!o.pass);
                to[usize::from(worker)] += 1;
            }
        }),
        &place,
    );
    assert!(to[0] > 0 && to[1] == 0 && to[2] > 0, "{to:?}");
    assert_eq!(engine.stats().steered as usize, to.iter().sum::<usize>());
}
