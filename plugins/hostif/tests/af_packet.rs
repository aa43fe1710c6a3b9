//! The driver `af_packet` on veth pairs, against hosts of the Linux kernel.

mod support;

use serde_json::{Value, json};
use smpnet_hostif::{af_packet::AfPacket, exclusive::Exclusive, link::Monitor, netlink::Netlink};
use smpnet_lab::{
    Amount, Capture, Host, Lab, LabError, Offloads, Ping, Privilege, Result, UdpReceiver, UdpSender, VethEnd, check,
    run_tests, skip, tests, transfer, veth,
};
use smpnet_plugin::{Driver, MacAddr, Packet, offload, pkt_flags, testing};
use std::{net::Ipv4Addr, process::ExitCode, sync::mpsc, time::Duration};
use support::{Bridge, bytes, close, open, receive, send, sleep_until_event, try_open};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const MAC_R: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_tests(&tests![
        frames_go_both_ways_with_all_their_bytes,
        a_tag_that_the_kernel_took_off_stands_in_the_header_and_goes_out_again,
        a_tag_stays_in_the_frame_when_the_offload_is_off,
        frames_that_find_the_ring_full_are_counted_as_missed,
        frames_wait_in_the_ring_while_no_cell_is_free,
        a_flow_keeps_to_one_queue_in_both_directions,
        a_port_that_is_down_delivers_nothing_and_does_not_keep_the_worker_awake,
        own_transmissions_do_not_come_back,
        a_packet_that_cannot_be_sent_is_counted_and_those_behind_it_go_on,
        a_full_transmit_ring_refuses_and_goes_on,
        ports_come_and_go_without_a_trace_in_the_process,
        the_kernel_neither_answers_arp_nor_ping_on_an_exclusive_device,
        every_way_to_exclusiveness_works_where_the_kernel_has_it,
        a_filter_left_by_a_killed_process_is_replaced,
        without_exclusiveness_the_kernel_answers_too,
        link_changes_are_reported,
        close_leaves_the_device_as_it_was,
        a_failed_open_leaves_nothing_behind,
        errors_name_the_way_out,
        multicast_and_promiscuity_reach_the_device;
        alone:
        tcp_crosses_two_ports_whole_with_segmentation_offload,
        tcp_crosses_a_transmit_ring_whole,
        tcp_crosses_whole_without_offloads,
        open_checksums_are_completed_without_a_vnet_header,
        udp_crosses_and_every_packet_is_counted,
    ])
}

/// Host A with `eth0`, joined to the device `left` of R.
struct One {
    a: Host,
    r: Host,
}

fn one(lab: Lab) -> Result<One> {
    let (a, r) = (Host::new(lab, "A")?, Host::new(lab, "R")?);
    veth(&VethEnd { host: &a, name: "eth0", mac: MAC_A }, &VethEnd { host: &r, name: "left", mac: MAC_R }, 1500)?;
    a.add_addr("eth0", A, 24)?;
    Ok(One { a, r })
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

/// A frame from A to R of a made-up EtherType, `len` bytes long, with `n` in it.
fn frame(n: usize, len: usize) -> Vec<u8> {
    let mut f = [&MAC_R[..], &MAC_A, &[0x88, 0xb5], &(n as u32).to_be_bytes()].concat();
    f.resize(len, n as u8);
    f
}

fn frames_go_both_ways_with_all_their_bytes(lab: Lab) -> Result<()> {
    for options in [json!({}), json!({"tx": {"mode": "ring"}}), json!({"offload": false})] {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        let r = &net.r;
        r.run(|| -> Result<()> {
            let mut port = open::<AfPacket>("left", 1, options)?;
            let sizes = [60, 61, 590, 1513, 1514];
            for (n, len) in sizes.iter().enumerate() {
                wire.send(&frame(n, *len))?;
            }
            let got = receive(&mut port, sizes.len(), 2 * SECOND);
            check(got.len() == sizes.len(), || format!("{} of {} frames", got.len(), sizes.len()))?;
            for (n, (_, packet)) in got.iter().enumerate() {
                check(bytes(packet) == frame(n, sizes[n]), || format!("frame {n} differs"))?;
            }
            let sent: Vec<Vec<u8>> = sizes.iter().map(|len| frame(77, *len)).collect();
            send(&mut port, sent.iter().map(|f| testing::packet(f)));
            for want in &sent {
                wire.wait("frame of R's", SECOND, |f| !f.outgoing && f.bytes == *want)?;
            }
            let stats = port.port.stats();
            let total = sizes.iter().sum::<usize>() as u64;
            check(
                (stats.rx_packets, stats.rx_bytes, stats.tx_packets, stats.tx_bytes) == (5, total, 5, total),
                || format!("{stats:?}"),
            )?;
            check(stats.rx_missed + stats.rx_errors + stats.tx_errors == 0, || format!("{stats:?}"))?;
            drop(got);
            close(port);
            check(testing::outstanding() == 0, || "packets were not given back".into())
        })??;
        r.run(|| ())?;
    }
    Ok(())
}

fn tagged(n: usize) -> Vec<u8> {
    let mut f = frame(n, 100);
    f.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
    f
}

fn a_tag_that_the_kernel_took_off_stands_in_the_header_and_goes_out_again(lab: Lab) -> Result<()> {
    for mode in ["sendmmsg", "ring"] {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = open::<AfPacket>("left", 1, json!({"tx": {"mode": mode}}))?;
            wire.send(&tagged(1))?;
            let (_, packet) = receive(&mut port, 1, SECOND).pop().expect("the frame");
            check(packet.hdr().flags & pkt_flags::VLAN != 0, || "no VLAN flag".into())?;
            check(packet.hdr().vlan_tci == 0x2064, || format!("TCI {:#x}", packet.hdr().vlan_tci))?;
            check(bytes(&packet) == frame(1, 100), || "the tag is still in the bytes".into())?;
            send(&mut port, [packet]);
            wire.wait("frame with its tag", SECOND, |f| !f.outgoing && f.bytes == tagged(1)).map(drop)
        })??;
    }
    Ok(())
}

fn a_tag_stays_in_the_frame_when_the_offload_is_off(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({}))?;
        let all = port.details.offloads;
        port.port.set_offloads(all & !offload::RX_VLAN).map_err(|e| LabError::Failed(e.to_string()))?;
        wire.send(&tagged(1))?;
        let mut other = tagged(2);
        (other[12], other[13]) = (0x88, 0xa8);
        wire.send(&other)?;
        let got = receive(&mut port, 2, SECOND);
        check(got.len() == 2 && bytes(&got[0].1) == tagged(1), || "the 802.1Q frame differs".into())?;
        check(bytes(&got[1].1) == other, || "the 802.1ad frame differs".into())?;
        check(got.iter().all(|(_, p)| p.hdr().flags & pkt_flags::VLAN == 0), || "VLAN flag".into())
    })?
}

fn frames_that_find_the_ring_full_are_counted_as_missed(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({"ring": {"blocks": 2, "block_size": 4096}}))?;
        for n in 0..500 {
            wire.send(&frame(n, 200))?;
        }
        let got = receive(&mut port, 500, SECOND / 4).len() as u64;
        let stats = port.port.stats();
        check(got < 500 && stats.rx_missed > 0, || format!("{got} received, {stats:?}"))?;
        check(got + stats.rx_missed == 500 && stats.rx_packets == got, || format!("{got} received, {stats:?}"))?;
        // A frame longer than a block is cut by the kernel, and not delivered.
        wire.send(&frame(0, 1514))?;
        close(port);
        let mut port = open::<AfPacket>("left", 1, json!({}))?;
        wire.send(&frame(1, 100))?;
        check(receive(&mut port, 1, SECOND).len() == 1, || "a fresh ring receives".into())
    })?
}

fn frames_wait_in_the_ring_while_no_cell_is_free(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({}))?;
        let hoard: Vec<Packet> = std::iter::from_fn(|| testing::host().alloc()).collect();
        for n in 0..50 {
            wire.send(&frame(n, 100))?;
        }
        check(receive(&mut port, 1, SECOND / 5).is_empty(), || "a packet out of nothing".into())?;
        drop(hoard);
        let got = receive(&mut port, 50, SECOND);
        check(got.len() == 50, || format!("{} of 50 frames", got.len()))?;
        check(port.port.stats().rx_missed == 0, || format!("{:?}", port.port.stats()))
    })?
}

fn a_flow_keeps_to_one_queue_in_both_directions(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    let udp = |from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| -> Vec<u8> {
        let mut f = [&MAC_R[..], &MAC_A, &[8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
        f.extend([from.0.octets(), to.0.octets()].concat());
        f.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), [0, 8], [0, 0]].concat());
        f.resize(60, 0);
        f
    };
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 3, json!({"promisc": true}))?;
        check(port.rx.len() == 3, || format!("{} queues", port.rx.len()))?;
        let mut queues_of = std::collections::HashMap::<u16, Vec<usize>>::new();
        for flow in 0..60u16 {
            for _ in 0..2 {
                wire.send(&udp((A, 1000 + flow), (B, 53)))?;
                wire.send(&udp((B, 53), (A, 1000 + flow)))?;
            }
        }
        for (queue, packet) in receive(&mut port, 240, 2 * SECOND) {
            let b = bytes(&packet);
            let word = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
            check(usize::from(packet.hdr().rx_queue) == queue, || "rx_queue is not the queue".into())?;
            queues_of.entry(word(34).max(word(36))).or_default().push(queue);
        }
        check(queues_of.len() == 60 && queues_of.values().all(|q| q.len() == 4), || format!("{queues_of:?}"))?;
        check(queues_of.values().all(|q| q.iter().all(|x| *x == q[0])), || format!("{queues_of:?}"))?;
        let used: std::collections::HashSet<usize> = queues_of.values().map(|q| q[0]).collect();
        check(used.len() == 3, || format!("queues used: {used:?}"))?;
        let stats = port.port.stats();
        check(stats.rx_packets == 240 && stats.rx_missed == 0, || format!("{stats:?}"))
    })?
}

fn a_port_that_is_down_delivers_nothing_and_does_not_keep_the_worker_awake(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({}))?;
        for n in 0..10 {
            wire.send(&frame(n, 100))?;
        }
        std::thread::sleep(Duration::from_millis(20));
        port.port.set_up(false).expect("down");
        for n in 0..10 {
            wire.send(&frame(n, 100))?;
        }
        // As the router, which does not ask a port that is down for packets.
        sleep_until_event(&mut port, 0);
        check(!sleep_until_event(&mut port, 50), || "the worker is kept awake".into())?;
        check(receive(&mut port, 1, SECOND / 20).is_empty(), || "a packet through a port that is down".into())?;
        let counters = port.port.counters();
        check(counters.contains(&("rx_while_down".into(), 10)), || format!("{counters:?}"))?;
        port.port.set_up(true).expect("up");
        wire.send(&frame(7, 100))?;
        let got = receive(&mut port, 2, SECOND / 5);
        check(got.len() == 1 && bytes(&got[0].1) == frame(7, 100), || format!("{} frames", got.len()))?;
        // The device itself goes down: the kernel leaves an error on the socket.
        net.r.set_up("left", false)?;
        std::thread::sleep(Duration::from_millis(20));
        sleep_until_event(&mut port, 0);
        check(!sleep_until_event(&mut port, 50), || "the descriptor stays readable".into())?;
        net.r.set_up("left", true)?;
        std::thread::sleep(Duration::from_millis(20));
        wire.send(&frame(1, 100))?;
        check(receive(&mut port, 1, SECOND).len() == 1, || "nothing comes after the device was down".into())
    })?
}

fn own_transmissions_do_not_come_back(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({"promisc": true}))?;
        let sent = send(&mut port, (0..20).map(|n| testing::packet(&frame(n, 100))));
        check(sent == 20, || format!("{sent} accepted"))?;
        check(receive(&mut port, 1, SECOND / 10).is_empty(), || "an own frame came back".into())
    })?
}

fn a_packet_that_cannot_be_sent_is_counted_and_those_behind_it_go_on(lab: Lab) -> Result<()> {
    for mode in ["sendmmsg", "ring"] {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = open::<AfPacket>("left", 1, json!({"tx": {"mode": mode}}))?;
            let frames = [frame(0, 100), frame(1, 1600), frame(2, 100), frame(3, 1514), frame(4, 1515), frame(5, 60)];
            let sent = send(&mut port, frames.iter().map(|f| testing::packet(f)));
            check(sent == 6, || format!("{mode}: {sent} accepted"))?;
            let seen: Vec<Vec<u8>> =
                wire.collect(SECOND / 10)?.into_iter().filter(|f| f.ether_type() == 0x88b5).map(|f| f.bytes).collect();
            let want: Vec<_> = [0, 2, 3, 5].iter().map(|n| frames[*n].clone()).collect();
            check(seen == want, || format!("{mode}: {} frames arrived", seen.len()))?;
            let stats = port.port.stats();
            check((stats.tx_packets, stats.tx_errors) == (4, 2), || format!("{mode}: {stats:?}"))?;
            net.r.set_up("left", false)?;
            send(&mut port, [testing::packet(&frame(0, 100))]);
            check(port.port.stats().tx_errors == 3, || format!("{mode}: {:?}", port.port.stats()))?;
            net.r.set_up("left", true)?;
            send(&mut port, [testing::packet(&frame(9, 100))]);
            let next = wire.wait("frame after the device was down", SECOND, |f| f.ether_type() == 0x88b5)?;
            check(next.bytes == frame(9, 100), || format!("{mode}: a frame that was lost comes late"))?;
            let stats = port.port.stats();
            check((stats.tx_packets, stats.tx_errors) == (5, 3), || format!("{mode}: {stats:?}"))
        })??;
    }
    Ok(())
}

fn a_full_transmit_ring_refuses_and_goes_on(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({"tx": {"mode": "ring", "frames": 64, "frame_size": 1024}}))?;
        let (mut n, mut numbers) = (0, Vec::new());
        for _ in 0..30 {
            // Some fit a slot and some do not; the order stays.
            let lens = [60, 900, 1514, 100].into_iter().cycle().take(64);
            let packets: Vec<Packet> = lens.enumerate().map(|(i, len)| testing::packet(&frame(n + i, len))).collect();
            n += send(&mut port, packets);
            // Read at once: an ordinary user's socket holds no more than this.
            while numbers.len() < n
                && let Some(f) = wire.next(SECOND / 5)?
            {
                if f.ether_type() == 0x88b5 {
                    numbers.push(u32::from_be_bytes([f.bytes[14], f.bytes[15], f.bytes[16], f.bytes[17]]));
                }
            }
        }
        check(numbers.len() == n && n >= 30 * 32, || format!("{} of {n} frames arrived", numbers.len()))?;
        check(numbers.iter().zip(0..).all(|(got, want)| *got == want), || "out of order".into())?;
        let stats = port.port.stats();
        check(stats.tx_packets == n as u64 && stats.tx_errors == 0, || format!("{stats:?}"))
    })?
}

fn ports_come_and_go_without_a_trace_in_the_process(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count);
        let mut before = (0, 0);
        for round in 0..20 {
            close(open::<AfPacket>("left", 2, json!({"tx": {"mode": "ring"}}))?);
            if round == 0 {
                before = (count("fd"), count("task"));
            }
        }
        let after = (count("fd"), count("task"));
        check(before == after, || format!("descriptors and threads: {before:?} became {after:?}"))?;
        check(testing::outstanding() == 0, || "packets were not given back".into())
    })?
}

/// Whether the kernel of R answers ARP and ping from A.
fn kernel_answers(net: &One) -> Result<bool> {
    net.a.delete_neighbour("eth0", Ipv4Addr::new(10, 0, 0, 9)).ok();
    let ping = Ping::to(Ipv4Addr::new(10, 0, 0, 9)).count(2).interval(Duration::from_millis(10)).run(&net.a)?;
    Ok(ping.received > 0)
}

fn the_kernel_neither_answers_arp_nor_ping_on_an_exclusive_device(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
    check(kernel_answers(&net)?, || "the kernel does not answer to begin with".into())?;
    let mut port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    let wire = Capture::open(&net.a, "eth0")?;
    check(!kernel_answers(&net)?, || "the kernel answers ping".into())?;
    let seen = wire.collect(SECOND / 20)?;
    check(!seen.iter().any(|f| !f.outgoing), || format!("the kernel answered: {seen:?}"))?;
    // A static neighbour, so that ping is tried as well and not only ARP.
    net.a.set_neighbour("eth0", Ipv4Addr::new(10, 0, 0, 9), MAC_R)?;
    let ping = Ping::to(Ipv4Addr::new(10, 0, 0, 9)).count(2).interval(Duration::from_millis(10)).run(&net.a)?;
    check(ping.received == 0, || format!("{ping:?}"))?;
    let got = receive(&mut port, 3, SECOND);
    let types: Vec<[u8; 2]> = got.iter().map(|(_, p)| [p.data()[12], p.data()[13]]).collect();
    check(types.contains(&[8, 6]) && types.contains(&[8, 0]), || format!("the port received {types:?}"))?;
    let way = port.port.status()["exclusive"].clone();
    let want = if lab.privilege() == Privilege::Root { json!("tcx") } else { json!("bpf") };
    check(way == want || way == json!("bpf"), || format!("by {way}"))?;
    drop(got);
    close(port);
    check(kernel_answers(&net)?, || "the kernel does not answer after close".into())?;
    check(!net.r.run(|| has_clsact("left"))??, || "a clsact qdisc was left behind".into())
}

/// Whether the device has a clsact qdisc, in the namespace of this thread.
fn has_clsact(device: &str) -> Result<bool> {
    use smpnet_hostif::netlink::{Body, attrs};
    let mut netlink = Netlink::open().expect("a netlink socket");
    let index = netlink.link_by_name(device).expect("netlink").expect("the device").index;
    let answers = netlink.request(38, libc::NLM_F_DUMP, &Body::new(&[0; 20])).expect("RTM_GETQDISC");
    Ok(answers.iter().any(|m| {
        m.payload[4..8] == index.to_ne_bytes() && attrs(&m.payload[20..]).any(|(k, v)| k == 1 && v == b"clsact\0")
    }))
}

fn every_way_to_exclusiveness_works_where_the_kernel_has_it(lab: Lab) -> Result<()> {
    let mut done = Vec::new();
    for way in ["tcx", "bpf", "matchall"] {
        let net = one(lab)?;
        net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
        let attached = net.r.run(|| {
            let mut netlink = Netlink::open().expect("a netlink socket");
            let index = netlink.link_by_name("left").expect("netlink").expect("left").index;
            let result = Exclusive::attach_by(&mut netlink, index, &[way]);
            (netlink, index, result)
        })?;
        let (mut netlink, index, result) = attached;
        match result {
            Ok(exclusive) => {
                check(!kernel_answers(&net)?, || format!("{way}: the kernel answers"))?;
                exclusive.detach(&mut netlink, index);
                check(kernel_answers(&net)?, || format!("{way}: the kernel is still shut out"))?;
                done.push(way);
            }
            Err(why) => println!("{way} is not to be had here: {why}"),
        }
        check(!net.r.run(|| has_clsact("left"))??, || format!("{way}: a clsact qdisc was left behind"))?;
    }
    println!("worked: {done:?}");
    if done.is_empty() { Err(skip("this kernel has neither tcx nor a classifier for clsact")) } else { Ok(()) }
}

fn a_filter_left_by_a_killed_process_is_replaced(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
    let left_behind = net.r.run(|| {
        let mut netlink = Netlink::open().expect("a netlink socket");
        let index = netlink.link_by_name("left").expect("netlink").expect("left").index;
        Exclusive::attach_by(&mut netlink, index, &["bpf", "matchall"]).map(std::mem::forget)
    })?;
    if let Err(why) = left_behind {
        return Err(skip(why));
    }
    check(!kernel_answers(&net)?, || "the kernel answers".into())?;
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    check(!kernel_answers(&net)?, || "the kernel answers".into())?;
    close(port);
    check(kernel_answers(&net)?, || "the stale filter is still there".into())?;
    check(!net.r.run(|| has_clsact("left"))??, || "a clsact qdisc was left behind".into())
}

fn without_exclusiveness_the_kernel_answers_too(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({"exclusive": false})))??;
    check(kernel_answers(&net)?, || "the kernel does not answer".into())?;
    check(port.port.status()["exclusive"].is_null(), || "exclusive".into())
}

fn link_changes_are_reported(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    check(port.port.link_state().state == 1, || "not up".into())?;
    let (events, told) = mpsc::channel();
    let index = net.r.link("left")?.index as i32;
    let initial = port.port.link_state();
    let monitor = net.r.run(|| Monitor::start(index, initial, move |s| events.send(s.state).unwrap_or(())))?;
    let monitor = monitor.map_err(|e| LabError::Failed(e.to_string()))?;
    for up in [false, true, false] {
        // The far end's state is this end's carrier. The kernel tells of carrier changes once a second at most.
        net.a.set_up("eth0", up)?;
        let state = told.recv_timeout(4 * SECOND).map_err(|e| LabError::Failed(format!("no event: {e}")))?;
        check(state == u32::from(up), || format!("told {state}"))?;
        check(port.port.link_state().state == u32::from(up), || "the state asked for differs".into())?;
    }
    net.a.set_up("eth0", true)?;
    check(told.recv_timeout(4 * SECOND) == Ok(1), || "no event".into())?;
    net.a.delete_link("eth0")?;
    check(told.recv_timeout(4 * SECOND) == Ok(0), || "no event for a device that is gone".into())?;
    drop(monitor);
    // The device is gone for good: nothing of this may hang or panic.
    close(port);
    Ok(())
}

fn ipv6_setting(host: &Host, device: &str) -> Result<Option<String>> {
    host.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")).ok())
}

fn close_leaves_the_device_as_it_was(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.sysctl("net/ipv6/conf/left/disable_ipv6", "0").ok();
    net.r.set_up("left", false)?;
    let (before, ipv6) = (net.r.link("left")?, ipv6_setting(&net.r, "left")?);
    net.r.run(|| -> Result<()> {
        let port = open::<AfPacket>("left", 2, json!({"promisc": true}))?;
        let said = |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
        said(port.port.set_mtu(1300))?;
        said(port.port.set_mac(MacAddr { bytes: [2, 9, 9, 9, 9, 9] }))?;
        said(port.port.set_multicast(&[MacAddr { bytes: [1, 0, 0x5e, 0, 0, 5] }], true))?;
        let during = net.r.link("left")?;
        check(during.mtu == 1300 && during.mac == [2, 9, 9, 9, 9, 9] && during.flags & 1 == 1, || {
            format!("{during:?}")
        })?;
        if ipv6.is_some() {
            check(ipv6_setting(&net.r, "left")?.is_some_and(|v| v.trim() == "1"), || "IPv6 is on".into())?;
        }
        close(port);
        Ok(())
    })??;
    let after = net.r.link("left")?;
    let shape = |l: &smpnet_lab::LinkInfo| (l.flags, l.mtu, l.mac);
    check(shape(&after) == shape(&before), || format!("{before:?} became {after:?}"))?;
    check(ipv6_setting(&net.r, "left")? == ipv6, || "disable_ipv6 was not put back".into())
}

fn a_failed_open_leaves_nothing_behind(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.set_up("left", false)?;
    let before = net.r.link("left")?;
    let error = net.r.run(|| {
        use smpnet_plugin::PortRequest;
        let options = json!({"device": "left", "promisc": true});
        // An MTU that a veth does not take, after everything else was done.
        let request =
            PortRequest { name: "x", ifindex: 1, options, rx_queues: 1, tx_queues: 1, workers: 1, mtu: 10_000_000 };
        AfPacket::open(testing::host(), &request).err().map(|e| e.to_string())
    })?;
    check(error.as_ref().is_some_and(|e| e.contains("MTU of 10000000")), || format!("{error:?}"))?;
    let after = net.r.link("left")?;
    check((after.flags, after.mtu) == (before.flags, before.mtu), || format!("{before:?} became {after:?}"))?;
    check(!net.r.run(|| has_clsact("left"))??, || "a clsact qdisc was left behind".into())?;
    check(testing::outstanding() == 0, || "packets were not given back".into())
}

fn errors_name_the_way_out(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let error_of = |options: Value| net.r.run(|| try_open::<AfPacket>("x0", 1, options).err().unwrap_or_default());
    for (options, parts) in [
        (json!({"device": "lefft"}), &["\"lefft\"", "did you mean \"left\"?"][..]),
        (json!({"device": "a/b"}), &["a/b", "1 to 15 bytes"]),
        (json!({"device": "left", "rng": {}}), &["unknown field `rng`"]),
        (json!({"device": "left", "ring": {"block_size": 5000}}), &["ring.block_size must be a power of two"]),
        (json!({"device": "left", "fanout": "best"}), &["unknown variant `best`", "`hash`"]),
    ] {
        let text = error_of(options)?;
        check(parts.iter().all(|p| text.contains(p)), || format!("{text:?} lacks one of {parts:?}"))?;
    }
    let text = net.r.run(|| {
        drop_capabilities();
        try_open::<AfPacket>("left", 1, json!({})).err().unwrap_or_default()
    })?;
    check(["CAP_NET_RAW", "setcap", "AmbientCapabilities"].iter().all(|p| text.contains(p)), || text.clone())
}

/// Gives up every capability of the calling thread.
fn drop_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 of capset(2) takes a header of two words and two sets of three.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(rc, 0, "capset");
}

fn multicast_and_promiscuity_reach_the_device(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let index = net.r.link("left")?.index;
    let group = MacAddr { bytes: [1, 0, 0x5e, 0x7f, 0, 1] };
    let listed = |host: &Host| -> Result<bool> {
        Ok(host
            .proc_net("dev_mcast")?
            .lines()
            .any(|l| l.trim_start().starts_with(&format!("{index} ")) && l.trim_end().ends_with("01005e7f0001")))
    };
    let promisc = |host: &Host| Ok::<bool, LabError>(host.link("left")?.flags & libc::IFF_PROMISC as u32 != 0);
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    let said = |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
    said(port.port.set_multicast(&[group], false))?;
    said(port.port.set_promisc(true))?;
    said(port.port.set_promisc(true))?;
    check(listed(&net.r)? && port.port.status()["promisc"] == true, || "not listed".into())?;
    said(port.port.set_multicast(&[], false))?;
    check(!listed(&net.r)?, || "still listed".into())?;
    said(port.port.set_multicast(&[group], true))?;
    said(port.port.set_promisc(false))?;
    check(port.port.status()["promisc"] == false, || "still promiscuous".into())?;
    said(port.port.set_promisc(true))?;
    close(port);
    check(!listed(&net.r)? && !promisc(&net.r)?, || "memberships outlive the port".into())
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

fn tcp_crosses_two_ports_whole_with_segmentation_offload(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::ALL)?, json!({}), true)
}

fn tcp_crosses_a_transmit_ring_whole(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::ALL)?, json!({"tx": {"mode": "ring"}}), true)?;
    tcp(&two(lab, Offloads::NONE)?, json!({"tx": {"mode": "ring", "frames": 64}}), false)
}

fn tcp_crosses_whole_without_offloads(lab: Lab) -> Result<()> {
    tcp(&two(lab, Offloads::NONE)?, json!({}), false)
}

fn open_checksums_are_completed_without_a_vnet_header(lab: Lab) -> Result<()> {
    let net = two(lab, Offloads { tx_checksum: true, tso: false, gso: false, gro: false })?;
    let bridge = net.bridge(json!({"offload": false}))?;
    let report = transfer(&net.a, &net.b, B, 5001, Amount::Bytes(8 << 20))?;
    let ping = Ping::to(B).count(5).run(&net.a)?;
    let (left, right) = bridge.finish()?;
    check(report.clean() && ping.clean(), || format!("{report:?} {ping:?} {left:?} {right:?}"))?;
    check(left.counters["rx_csum_completed"] > 1000, || format!("{left:?}"))
}

fn udp_crosses_and_every_packet_is_counted(lab: Lab) -> Result<()> {
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
