//! NPF: configurations, packets, and lines of packets.

use smpnet_npf::{
    engine::{Engine, Place},
    evaluate::{NoInterfaces, Where},
    language::{NoFiles, parse, print},
    replay::Replay,
    state::{Limits, Millis},
};
use std::sync::Arc;

/// A configuration in which each packet has something to meet.
pub const CONFIG: &str = "\
set portmap.min_port 2000
set portmap.max_port 2003
table <t> type lpm
map eth0 dynamic 10.0.0.0/8 -> 192.0.2.1
map eth0 dynamic 10.0.0.2 port 80 <- 192.0.2.1 port 8080
map eth1 static algo netmap 10.1.0.0/16 <-> 10.2.0.0/16
map eth1 static algo npt66 fd01:203:405::/48 <-> 2001:db8:1::/48
procedure \"p\" { normalize: \"random-id\", \"min-ttl\" 64, \"max-mss\" 1400, \"no-df\"
 ratelimit: \"bitrate\" 8k }
group \"g\" on eth0 {
 pass stateful out final all apply \"p\"
 pass stateful in final proto { tcp, udp } to 192.0.2.1 limit states 4 per source limit rate 9/1s overload <t>
 block return in all log
}
group default { pass stateful-all all }
";

/// A text from a stranger: what parses, prints as what parses to the same.
pub fn npf_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Those are libpcap's to compile, names of hosts included, which it looks up.
    if text.contains("pcap-filter") {
        return;
    }
    match parse("fuzz.conf", &text, &NoFiles) {
        Ok(parsed) => {
            let printed = print(&parsed.config);
            match parse("printed.conf", &printed, &NoFiles) {
                Ok(again) => assert!(again.config.same(&parsed.config), "{printed}"),
                Err(found) => panic!("{printed}\n{found}"),
            }
        }
        Err(found) => assert!(!found.to_string().is_empty()),
    }
}

/// Packets from strangers, each with an interface and a direction, one after the other: `[length, place, bytes ...]`.
pub fn npf_packets(data: &[u8]) {
    let Ok(parsed) = parse("npf.conf", CONFIG, &NoFiles) else { panic!("the configuration of this target") };
    let limits = Limits { capacity: 8, half_open_percent: 50 };
    let Ok(mut engine) = Engine::alone(Arc::new(parsed.config), Arc::new(NoInterfaces), limits, 1, Millis(0)) else {
        panic!("its engine")
    };
    let (mut rest, mut now) = (data, 0);
    while let [len, place, more @ ..] = rest {
        let (bytes, left) = more.split_at(more.len().min(usize::from(*len)));
        rest = left;
        now += u64::from(place >> 4) * 1000;
        let way = [Where::In, Where::Out, Where::Forward][usize::from(place >> 1) % 3];
        let mut bytes = bytes.to_vec();
        let interface = if place & 1 == 0 { "eth0" } else { "eth1" };
        engine.handle(&mut bytes, &Place { interface, way, now: Millis(now) }, 0);
    }
    assert!(engine.connections().len() <= 8);
}

/// Lines of a file of packets.
pub fn npf_lines(data: &[u8]) {
    let Ok(parsed) = parse("npf.conf", CONFIG, &NoFiles) else { panic!("the configuration of this target") };
    let Ok(engine) = Engine::alone(Arc::new(parsed.config), Arc::new(NoInterfaces), Limits::default(), 1, Millis(0))
    else {
        panic!("its engine")
    };
    let mut replay = Replay::new(engine);
    for line in String::from_utf8_lossy(data).lines() {
        // What it says of a line does not matter here, only that it says something.
        let _ = replay.line(line);
    }
}
