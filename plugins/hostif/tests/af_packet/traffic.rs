//! Whole connections across two ports that are joined at the link layer.

use super::*;

/// Hosts A and B in one subnet, each joined to a device of R.
struct Two {
    a: Host,
    b: Host,
    r: Host,
}

fn two(lab: Lab, offloads: Offloads) -> Result<Two> {
    let One { a, r } = one(lab)?;
    let b = Host::new(lab, "B")?;
    veth(&VethEnd { host: &b, name: "eth0", mac: MAC_B }, &VethEnd { host: &r, name: "right", mac: MAC_R }, 1500)?;
    b.add_addr("eth0", B, 24)?;
    a.set_offloads("eth0", offloads)?;
    b.set_offloads("eth0", offloads)?;
    Ok(Two { a, b, r })
}

impl Two {
    fn bridge(&self, options: Value) -> Result<Bridge> {
        Bridge::start(&self.r, move || {
            let with = |device: &str| {
                let mut options = options.clone();
                options["device"] = device.into();
                open::<AfPacket>(device, 1, options)
            };
            Ok((with("left")?, with("right")?))
        })
    }
}

fn tcp(net: &Two, options: Value, want_gso: bool) -> Result<()> {
    let bridge = net.bridge(options)?;
    let forth = transfer(&net.a, &net.b, B, 5001, Amount::Bytes(64 << 20))?;
    let back = transfer(&net.b, &net.a, A, 5002, Amount::Bytes(16 << 20))?;
    let (left, right) = bridge.finish()?;
    println!("{:.2} Gbit/s; {:?}; {:?}", forth.bits_per_second() / 1e9, left, right);
    check(forth.clean() && back.clean(), || format!("{forth:?} {back:?}"))?;
    let gso = left.counters["rx_gso"].min(right.counters["tx_gso"]);
    check((gso > 0) == want_gso, || format!("{gso} large packets: {left:?} {right:?}"))?;
    for side in [&left, &right] {
        check(side.stats.rx_errors + side.stats.tx_errors == 0, || format!("{side:?}"))?;
    }
    check(left.stats.rx_packets == right.stats.tx_packets, || format!("{left:?} {right:?}"))
}

pub(crate) fn tcp_crosses_two_ports_whole_with_segmentation_offload(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::ALL)?, json!({}), true)
}

pub(crate) fn tcp_crosses_a_transmit_ring_whole(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::ALL)?, json!({"tx": {"mode": "ring"}}), true)?;
    tcp(&two(lab, Offloads::NONE)?, json!({"tx": {"mode": "ring", "frames": 64}}), false)
}

pub(crate) fn tcp_crosses_whole_without_offloads(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::NONE)?, json!({}), false)
}

pub(crate) fn open_checksums_are_completed_without_a_vnet_header(lab: Lab) -> Result<()> {
    let net = two(lab, Offloads { tx_checksum: true, tso: false, gso: false, gro: false })?;
    let bridge = net.bridge(json!({"offload": false}))?;
    let report = transfer(&net.a, &net.b, B, 5001, Amount::Bytes(8 << 20))?;
    let ping = Ping::to(B).count(5).run(&net.a)?;
    let (left, right) = bridge.finish()?;
    check(report.clean() && ping.clean(), || format!("{report:?} {ping:?} {left:?} {right:?}"))?;
    check(left.counters["rx_csum_completed"] > 1000, || format!("{left:?}"))
}

pub(crate) fn udp_crosses_and_every_packet_is_counted(lab: Lab) -> Result<()> {
    const COUNT: u64 = 200_000;
    let net = two(lab, Offloads::NONE)?;
    let bridge = net.bridge(json!({}))?;
    // Also resolves the neighbours: what waits for that in A's kernel is limited, and the rest is lost there.
    let ping = Ping::to(B).count(20).run(&net.a)?;
    let receiver = UdpReceiver::start(&net.b, B, 9000, 4)?;
    let sent = UdpSender::new(B, 9000).flows(4).window(receiver.window()).send(&net.a, COUNT)?;
    receiver.wait_for(COUNT, SECOND);
    let got = receiver.finish()?.total();
    let (left, right) = bridge.finish()?;
    println!(
        "{:.0} packets a second, {} missed, ping {:.0} us",
        sent.sent as f64 / sent.seconds,
        left.stats.rx_missed,
        ping.median_us()
    );
    // What a veth loses when a CPU's backlog is full, it counts at the sending end. A ring is full when this thread did
    // not run for longer than its blocks last.
    let lost = net.a.link("eth0")?.stats.tx_dropped + net.r.link("right")?.stats.tx_dropped + left.stats.rx_missed;
    check(sent.sent == COUNT && got.received + lost == COUNT && got.corrupt + got.duplicates == 0, || {
        format!("{lost} lost and counted; {sent:?} {got:?} {left:?} {right:?}")
    })?;
    let wire = net.r.link("left")?.stats;
    let counted = left.stats.rx_packets + left.stats.rx_missed + left.stats.rx_errors + left.counters["rx_while_down"];
    check(wire.rx_packets == counted, || format!("{wire:?} {left:?}"))?;
    check(left.stats.rx_packets == right.stats.tx_packets, || format!("{left:?} {right:?}"))
}
