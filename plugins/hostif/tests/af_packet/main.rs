//! The driver `af_packet` on veth pairs, against hosts of the Linux kernel.

mod control;
mod exclusive;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use control::*;
use exclusive::*;
use traffic::*;

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
        a_frame_that_the_ring_cuts_is_an_error_and_a_jumbo_frame_is_a_chain,
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
        check(got + stats.rx_missed == 500 && stats.rx_packets == got, || format!("{got} received, {stats:?}"))
    })?
}

fn a_frame_that_the_ring_cuts_is_an_error_and_a_jumbo_frame_is_a_chain(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.a.set_mtu("eth0", 9000)?;
    net.r.set_mtu("left", 9000)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = open::<AfPacket>("left", 1, json!({"ring": {"blocks": 4, "block_size": 4096}}))?;
        for len in [100, 8000, 101] {
            wire.send(&frame(1, len))?;
        }
        let lens: Vec<usize> = receive(&mut port, 3, SECOND / 5).iter().map(|(_, p)| p.len()).collect();
        let stats = port.port.stats();
        check(lens == [100, 101] && stats.rx_errors == 1 && stats.rx_missed == 0, || format!("{lens:?} {stats:?}"))?;
        close(port);
        let mut port = open::<AfPacket>("left", 1, json!({}))?;
        wire.send(&frame(1, 8000))?;
        let (_, packet) = receive(&mut port, 1, SECOND).pop().expect("the jumbo frame");
        check(packet.hdr().nsegs() > 1 && bytes(&packet) == frame(1, 8000), || format!("{packet:?}"))?;
        send(&mut port, [packet]);
        wire.wait("jumbo frame", SECOND, |f| !f.outgoing && f.bytes == frame(1, 8000)).map(drop)
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
