use super::*;
use smpnet_plugin::{PacketData, serde_json::json, testing};
use std::net::Ipv4Addr;

fn open(options: serde_json::Value, queues: usize) -> Result<Opened<Null>, Error> {
    let req = PortRequest {
        name: "null0",
        ifindex: 3,
        options,
        rx_queues: queues,
        tx_queues: queues,
        workers: queues,
        mtu: 0,
    };
    Null::open(testing::host(), &req)
}

fn receive(rx: &mut Rx, max: usize) -> Burst {
    let mut burst = Burst::new();
    rx.rx_burst(&mut testing::worker(0), &mut burst, max);
    burst
}

fn dst(p: &PacketData) -> Ipv4Addr {
    Ipv4Addr::new(p.data()[30], p.data()[31], p.data()[32], p.data()[33])
}

#[test]
fn nothing_is_received_before_the_port_is_up() {
    let mut port = open(json!({}), 1).unwrap();
    assert!(receive(&mut port.rx[0], 64).is_empty());
    assert!(!port.rx[0].arm());
    port.port.set_up(true).unwrap();
    assert_eq!(receive(&mut port.rx[0], 64).len(), 64);
    assert!(port.rx[0].arm());
}

#[test]
fn a_count_is_shared_by_the_queues_and_kept() {
    let mut port = open(json!({ "count": 101, "flows": 7 }), 2).unwrap();
    port.port.set_up(true).unwrap();
    let mut all = 0;
    for rx in &mut port.rx {
        for _ in 0..4 {
            all += receive(rx, 64).len();
        }
        assert!(!rx.arm(), "the end of the source lets the worker sleep");
    }
    assert_eq!(all, 101);
    let stats = port.port.stats();
    assert_eq!((stats.rx_packets, stats.rx_bytes, stats.rx_missed), (101, 6060, 0));
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn flows_go_through_the_destinations_with_valid_headers() {
    let mut port = open(json!({ "flows": 5, "dst": ["10.0.0.0/31", "10.9.0.1"], "size": 60 }), 1).unwrap();
    port.port.set_up(true).unwrap();
    let burst = receive(&mut port.rx[0], 6);
    let to: Vec<_> = burst.iter().map(|p| dst(p).to_string()).collect();
    assert_eq!(to, ["10.0.0.0", "10.0.0.1", "10.9.0.1", "10.0.0.0", "10.0.0.1", "10.0.0.0"]);
    for p in &burst {
        let sum: u32 = p.data()[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the IPv4 header checksum holds");
        assert_eq!(p.len(), 60);
        assert_eq!(&p.data()[..6], [2, 0, 0, 0, 0, 3], "addressed to the port");
    }
    let ports: Vec<_> = burst.iter().map(|p| u16::from_be_bytes([p.data()[34], p.data()[35]])).collect();
    assert_eq!(ports, [1024, 1024, 1024, 1025, 1025, 1024], "a flow is a 5-tuple of its own");
}

#[test]
fn a_shuffle_has_every_flow_once() {
    let mut port = open(json!({ "flows": 60, "dst": "10.0.0.0/24", "pattern": "random" }), 1).unwrap();
    port.port.set_up(true).unwrap();
    let burst = receive(&mut port.rx[0], 60);
    let mut last: Vec<_> = burst.iter().map(|p| p.data()[33]).collect();
    assert!(!last.is_sorted());
    last.sort_unstable();
    assert_eq!(last, (0..60).collect::<Vec<u8>>());
}

#[test]
fn frames_are_received_as_they_were_given() {
    let mut port = open(json!({ "frame_hex": ["ffffffffffff 020000000001 0806", "01"], "count": 3 }), 1).unwrap();
    port.port.set_up(true).unwrap();
    let burst = receive(&mut port.rx[0], 64);
    let lens: Vec<_> = burst.iter().map(|p| p.len()).collect();
    assert_eq!(lens, [14, 1, 14]);
    assert_eq!(burst.iter().next().unwrap().data()[12..], [0x08, 0x06]);
}

#[test]
fn a_rate_holds_packets_back() {
    let mut port = open(json!({ "rate": 1000 }), 1).unwrap();
    port.port.set_up(true).unwrap();
    assert_eq!(receive(&mut port.rx[0], 64).len(), 0, "the first packet comes after a millisecond");
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!((5..64).contains(&receive(&mut port.rx[0], 64).len()));
}

#[test]
fn what_is_sent_is_counted_and_given_back() {
    let mut port = open(json!({ "sink_only": true }), 1).unwrap();
    let mut burst = Burst::new();
    for _ in 0..3 {
        burst.push(testing::packet(&[0; 100])).unwrap();
    }
    port.tx[0].tx_burst(&mut testing::worker(0), &mut burst);
    assert!(burst.is_empty());
    assert_eq!((port.port.stats().tx_packets, port.port.stats().tx_bytes), (3, 300));
    assert_eq!(testing::outstanding(), 0);
}

#[test]
fn wrong_options_are_named() {
    let says = |options| open(options, 1).err().unwrap().to_string();
    assert!(says(json!({ "sise": 60 })).contains("sise"));
    assert!(says(json!({ "size": 20 })).contains("42 to 1514"));
    assert!(says(json!({ "flows": 0 })).contains("flows 0"));
    assert!(says(json!({ "dst": "10.0.0.0/33" })).contains("10.0.0.0/33"));
    assert!(says(json!({ "mac": "02:00" })).contains("02:00"));
    assert!(says(json!({ "frame_hex": "0" })).contains("whole bytes"));
}
