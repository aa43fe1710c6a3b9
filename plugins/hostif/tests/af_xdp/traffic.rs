//! Queues and whole connections: two ports that are joined at the link layer, and devices of other kinds.

use super::*;

/// Sets how many queues of each sort a veth has in use (`ethtool -L`), of at most one for each processor.
fn set_queues(host: &Host, device: &str, n: u32) -> Result<()> {
    const SIOCETHTOOL: u64 = 0x8946;
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    const ETHTOOL_SCHANNELS: u32 = 0x3d;
    host.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // struct ethtool_channels: command; at most of rx, tx, other, combined; in use of the same.
        let mut channels = [0u32; 9];
        channels[0] = ETHTOOL_GCHANNELS;
        let request = |channels: &mut [u32; 9]| {
            // SAFETY: ifreq is plain data for which zero is valid.
            let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in req.ifr_name.iter_mut().zip(device.bytes()) {
                *to = from as libc::c_char;
            }
            req.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
            // SAFETY: the command reads and writes the nine words.
            let rc = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), SIOCETHTOOL as _, &raw mut req) };
            if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        request(&mut channels).map_err(|e| LabError::Failed(format!("{device}: {e}")))?;
        if channels[1] < n || channels[2] < n {
            return Err(skip(format!("a veth has at most {} queues on this machine", channels[1].min(channels[2]))));
        }
        channels[0] = ETHTOOL_SCHANNELS;
        (channels[5], channels[6]) = (n, n);
        request(&mut channels).map_err(|e| LabError::Failed(format!("{device}: {n} queues: {e}")))
    })?
}

/// A UDP datagram without payload or checksum.
fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut f = [&MAC_R[..], &MAC_A, &[8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
    f.extend([from.0.octets(), to.0.octets()].concat());
    f.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), [0, 8], [0, 0]].concat());
    f.resize(60, 0);
    f
}

pub(crate) fn flows_are_spread_over_several_queues(lab: Lab) -> Result<()> {
    for mode in ["native", "generic"] {
        let net = one(lab)?;
        set_queues(&net.a, "eth0", 2)?;
        set_queues(&net.r, "left", 2)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            // One queue is wished for, and the device decides.
            let mut port = xdp(mode, 1, json!({}))?;
            check(port.rx.len() == 2 && port.tx.len() == 2, || format!("{} queues", port.rx.len()))?;
            let mut queues_of = HashMap::<u16, HashSet<usize>>::new();
            for flow in 0..60u16 {
                for _ in 0..2 {
                    wire.send(&udp((A, 1000 + flow), (B, 53)))?;
                }
            }
            let got = receive(&mut port, 120, 2 * SECOND);
            check(got.len() == 120, || format!("{mode}: {} of 120 frames", got.len()))?;
            for (queue, packet) in got {
                check(usize::from(packet.hdr().rx_queue) == queue, || "rx_queue is not the queue".into())?;
                let b = bytes(&packet);
                queues_of.entry(u16::from_be_bytes([b[34], b[35]])).or_default().insert(queue);
            }
            check(queues_of.len() == 60 && queues_of.values().all(|q| q.len() == 1), || format!("{queues_of:?}"))?;
            let used: HashSet<usize> = queues_of.values().flatten().copied().collect();
            // Behind its driver a veth's frames have lost their queue.
            check(used.len() == if mode == "native" { 2 } else { 1 }, || format!("{mode}: queues used: {used:?}"))?;
            // Each transmit queue sends.
            let mut cx = testing::worker(0);
            for (n, tx) in port.tx.iter_mut().enumerate() {
                use smpnet_plugin::TxQueue;
                let mut burst = smpnet_plugin::Burst::new();
                burst.push(testing::packet(&frame(n, 100))).expect("room");
                tx.tx_burst(&mut cx, &mut burst);
                wire.wait("frame", SECOND, |f| !f.outgoing && f.bytes == frame(n, 100))?;
            }
            close(port);
            check(testing::outstanding() == 0, || "packets were not given back".into())
        })??;
    }
    Ok(())
}

pub(crate) fn frames_of_a_queue_without_a_socket_are_counted(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    set_queues(&net.a, "eth0", 2)?;
    set_queues(&net.r, "left", 2)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 2, json!({"queues": 1}))?;
        check(port.rx.len() == 1, || format!("{} queues", port.rx.len()))?;
        for flow in 0..60u16 {
            wire.send(&udp((A, 1000 + flow), (B, 53)))?;
        }
        let mut got = receive(&mut port, 60, SECOND / 5).len() as u64;
        let end = Instant::now() + SOON;
        while got + port.port.stats().rx_missed < 60 && Instant::now() < end {
            got += receive(&mut port, 1, SECOND / 100).len() as u64;
        }
        let (stats, named) = (port.port.stats(), counters(&port.port));
        check(got > 0 && named["rx_no_socket"] > 0, || format!("{stats:?} {named:?}"))?;
        check(got + named["rx_no_socket"] == 60 && stats.rx_missed == named["rx_no_socket"], || {
            format!("{got} received, {stats:?} {named:?}")
        })
    })?
}

pub(crate) fn frames_come_with_busy_polling(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({"busy_poll": {"usecs": 50, "budget": 32}}))?;
        check(port.port.status()["queues"][0]["busy_poll"] == true, || format!("{}", port.port.status()))?;
        for round in 0..5 {
            for n in 0..20 {
                wire.send(&frame(round * 20 + n, 100))?;
            }
            let got = receive(&mut port, 20, SECOND);
            check(got.len() == 20, || format!("{} of 20 frames", got.len()))?;
            check(got.iter().zip(round * 20..).all(|((_, p), n)| bytes(p) == frame(n, 100)), || {
                "frames differ".into()
            })?;
            send(&mut port, got.into_iter().map(|(_, p)| p));
        }
        wire.wait("the last frame back", SECOND, |f| !f.outgoing && f.bytes == frame(99, 100)).map(drop)
    })?
}

pub(crate) fn a_tap_device_of_somebodys_is_a_port(lab: Lab) -> Result<()> {
    root_or_skip(lab)?;
    for mode in ["native", "generic"] {
        let r = Host::new(lab, "R")?;
        r.run(|| -> Result<()> {
            // What a virtual machine's monitor has of the device: its descriptor.
            let mut tap = open::<Tap>("vm0", 1, json!({"offload": false}))?;
            let mut port = open::<AfXdp>("vm0", 1, json!({"mode": mode}))?;
            check(port.port.status()["mode"] == mode, || format!("{}", port.port.status()))?;
            for len in [60, 590, 1514] {
                send(&mut tap, [testing::packet(&frame(len, len))]);
                let (_, packet) = receive(&mut port, 1, SECOND).pop().expect("a frame of the virtual machine's");
                check(bytes(&packet) == frame(len, len), || format!("{mode}: {len} bytes differ"))?;
                send(&mut port, [packet]);
                let (_, packet) = receive(&mut tap, 1, SECOND).pop().expect("a frame for the virtual machine");
                check(bytes(&packet) == frame(len, len), || format!("{mode}: {len} bytes differ"))?;
            }
            close(port);
            close(tap);
            check(testing::outstanding() == 0, || "packets were not given back".into())
        })??;
    }
    Ok(())
}

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
    fn bridge<L: Driver, R: Driver>(&self, left: Value, right: Value) -> Result<Bridge> {
        Bridge::start(&self.r, move || Ok((open::<L>("left", 1, left)?, open::<R>("right", 1, right)?)))
    }
}

pub(crate) fn tcp_with_open_checksums_crosses_two_ports_whole(lab: Lab) -> Result<()> {
    for (mode, offloads) in [
        // As a veth is made: the sender leaves checksums open, and in native mode the kernel cuts large packets.
        ("native", Offloads::ALL),
        ("native", Offloads::NONE),
        ("generic", Offloads { tso: false, gso: false, ..Offloads::ALL }),
    ] {
        let net = two(lab, offloads)?;
        let options = json!({"mode": mode});
        let bridge = net.bridge::<AfXdp, AfXdp>(options.clone(), options)?;
        let ping = Ping::to(B).count(10).run(&net.a)?;
        let forth = transfer(&net.a, &net.b, B, 5001, Amount::Bytes(32 << 20))?;
        let back = transfer(&net.b, &net.a, A, 5002, Amount::Bytes(16 << 20))?;
        let (left, right) = bridge.finish()?;
        println!("{mode}: {:.2} Gbit/s; {left:?}; {right:?}", forth.bits_per_second() / 1e9);
        check(ping.clean() && forth.clean() && back.clean(), || {
            format!("{ping:?} {forth:?} {back:?} {left:?} {right:?}")
        })?;
        let open = left.counters["rx_csum_open"] > 1000 && right.counters["rx_csum_open"] > 1000;
        check(open == offloads.tx_checksum, || format!("{mode}: {left:?} {right:?}"))?;
        for side in [&left, &right] {
            check(side.stats.rx_errors + side.stats.tx_errors == 0, || format!("{mode}: {side:?}"))?;
        }
        check(left.stats.rx_packets == right.stats.tx_packets, || format!("{mode}: {left:?} {right:?}"))?;
    }
    Ok(())
}

pub(crate) fn a_checksum_that_the_sender_left_open_is_known(lab: Lab) -> Result<()> {
    for (choice, tx_checksum, known) in [("auto", true, true), ("auto", false, false), ("false", true, false)] {
        let net = one(lab)?;
        net.a.set_offloads("eth0", Offloads { tx_checksum, ..Offloads::NONE })?;
        net.a.set_neighbour("eth0", B, MAC_R)?;
        let choice = if choice == "auto" { json!("auto") } else { json!(false) };
        let mut port = net.r.run(|| xdp("native", 1, json!({"open_checksums": choice})))??;
        net.a.run(|| {
            let socket = std::net::UdpSocket::bind((A, 4000)).expect("a socket");
            socket.send_to(b"abc", (B, 53)).expect("sent");
        })?;
        let got = receive(&mut port, 20, SECOND / 5);
        let is_udp = |p: &&Packet| p.data().get(12..14) == Some(&[8, 0]) && p.data().get(23) == Some(&17);
        let packet = got.iter().map(|(_, p)| p).find(is_udp).expect("the datagram");
        let hdr = packet.hdr();
        check((hdr.flags & pkt_flags::CSUM_PARTIAL != 0) == known, || format!("{choice} {tx_checksum}: {hdr:?}"))?;
        if known {
            check(hdr.csum_start == hdr.data_off() + 34 && hdr.csum_offset == 6, || format!("{hdr:?}"))?;
        }
        drop(got);
        close(port);
    }
    Ok(())
}

pub(crate) fn checksums_are_completed_for_a_port_that_wants_them(lab: Lab) -> Result<()> {
    // By software where the metadata does not go: a packet that begins right behind its cell's header.
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
        // UDP from B to A with the sum of the pseudo header in its checksum's place.
        let mut datagram = [&MAC_A[..], &MAC_R, &[8, 0, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
        datagram.extend([B.octets(), A.octets()].concat());
        datagram.extend([0x30, 0x39, 0, 53, 0, 11, 0, 0]);
        datagram.extend(b"abc");
        let words =
            |b: &[u8]| b.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b))).sum::<u32>();
        let fold = |sum: u32| ((sum & 0xffff) + (sum >> 16)) as u16;
        let pseudo = fold(words(&datagram[26..34]) + 17 + 11);
        datagram[40..42].copy_from_slice(&pseudo.to_be_bytes());
        for (headroom, by_kernel) in [(128, true), (0, false)] {
            let mut packet = testing::packet(&datagram);
            if headroom == 0 {
                packet.push_front(128).expect("headroom").copy_from_slice(&[&datagram[..], &[0; 83]].concat());
                packet.truncate(datagram.len());
            }
            let start = packet.hdr().data_off() + 34;
            let hdr = packet.hdr_mut();
            hdr.flags |= pkt_flags::CSUM_PARTIAL;
            (hdr.csum_start, hdr.csum_offset) = (start, 6);
            send(&mut port, [packet]);
            let got = wire.wait("datagram", SECOND, |f| !f.outgoing && f.bytes.len() == datagram.len())?;
            let sum = fold(words(&got.bytes[26..34]) + 17 + 11 + words(&got.bytes[34..]));
            // The kernel hands an open checksum on as an open one, which a receiver in this machine believes.
            let open = got.bytes[40..42] == pseudo.to_be_bytes();
            check(open == by_kernel && (open || sum == 0xffff), || format!("headroom {headroom}: {:x?}", got.bytes))?;
        }
        check(counters(&port.port)["tx_csum_completed"] == 1, || format!("{:?}", counters(&port.port)))
    })??;
    // An open checksum crosses from AF_XDP to a packet socket that has no way to say so, and is completed on the way in
    // from a packet socket to AF_XDP.
    let net = two(lab, Offloads { tso: false, gso: false, ..Offloads::ALL })?;
    let bridge = net.bridge::<AfXdp, AfPacket>(json!({"mode": "native"}), json!({}))?;
    let forth = transfer(&net.a, &net.b, B, 5001, Amount::Bytes(8 << 20))?;
    let (left, right) = bridge.finish()?;
    check(forth.clean() && left.counters["rx_csum_open"] > 1000, || format!("{forth:?} {left:?} {right:?}"))
}

pub(crate) fn udp_crosses_and_every_packet_is_counted(lab: Lab) -> Result<()> {
    const COUNT: u64 = 200_000;
    for mode in ["native", "generic"] {
        let net = two(lab, Offloads::NONE)?;
        let options = json!({"mode": mode, "ring": {"rx": 512, "fill": 512}});
        let bridge = net.bridge::<AfXdp, AfXdp>(options.clone(), options)?;
        // Also resolves the neighbours: what waits for that in A's kernel is limited, and the rest is lost there.
        let ping = Ping::to(B).count(20).run(&net.a)?;
        let receiver = UdpReceiver::start(&net.b, B, 9000, 4)?;
        let sent = UdpSender::new(B, 9000).flows(4).window(receiver.window()).send(&net.a, COUNT)?;
        receiver.wait_for(COUNT, SECOND);
        let got = receiver.finish()?.total();
        let (left, right) = bridge.finish()?;
        println!(
            "{mode}: {:.0} packets a second, {} missed, ping {:.0} us",
            sent.sent as f64 / sent.seconds,
            left.stats.rx_missed,
            ping.median_us()
        );
        // What a veth loses for want of room, it counts at the sending end; the rest is counted by the port.
        let lost = net.a.link("eth0")?.stats.tx_dropped
            + net.r.link("right")?.stats.tx_dropped
            + net.b.link("eth0")?.stats.rx_dropped
            + left.stats.rx_missed;
        check(sent.sent == COUNT && got.received + lost == COUNT && got.corrupt + got.duplicates == 0, || {
            format!("{mode}: {lost} lost and counted; {sent:?} {got:?} {left:?} {right:?}")
        })?;
        check(left.stats.rx_packets == right.stats.tx_packets + right.counters["tx_no_buffer"], || {
            format!("{mode}: {left:?} {right:?}")
        })?;
    }
    Ok(())
}
