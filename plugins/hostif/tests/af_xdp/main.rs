//! The driver `af_xdp` on veth pairs and tap devices, against hosts of the Linux kernel.

mod control;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod zero_copy;

use control::*;
use traffic::*;
use zero_copy::*;

use serde_json::{Value, json};
use smpnet_hostif::{af_packet::AfPacket, af_xdp::AfXdp, netlink::Netlink, tap::Tap};
use smpnet_lab::{
    Amount, Capture, Host, Lab, LabError, Offloads, Ping, Privilege, Result, UdpReceiver, UdpSender, VethEnd, check,
    run_tests, skip, tests, transfer, veth,
};
use smpnet_plugin::{Driver, MacAddr, Packet, pkt_flags, testing};
use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    process::ExitCode,
    time::{Duration, Instant},
};
use support::{Bridge, bytes, close, open, receive, send, sleep_until_event, try_open};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const MAC_R: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SECOND: Duration = Duration::from_secs(1);
/// As long as a system call that detaches something may take to be seen.
const SOON: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // What other processes do in some tests, by this same program.
    let of = |word: &str| std::env::args().skip_while(|a| a != word).nth(1);
    if let Some(device) = of(HOLD) {
        hold(&device);
    }
    if let Some(device) = of(REFLECT) {
        reflect(&device);
        return ExitCode::SUCCESS;
    }
    run_tests(&tests![
        frames_go_both_ways_with_all_their_bytes,
        received_frames_stay_where_the_kernel_put_them,
        long_frames_are_chains_and_without_chains_the_mtu_is_bounded,
        chains_are_sent_whole_or_copied_into_one_cell,
        frames_that_find_the_ring_full_are_counted_as_missed,
        a_lack_of_cells_is_counted_and_over_when_there_are_some,
        a_checksum_that_the_sender_left_open_is_known,
        flows_are_spread_over_several_queues,
        frames_of_a_queue_without_a_socket_are_counted,
        a_port_that_is_down_delivers_nothing_and_does_not_keep_the_worker_awake,
        a_packet_that_cannot_be_sent_is_counted_and_those_behind_it_go_on,
        more_packets_than_one_system_call_sends_go_out_in_order,
        the_kernel_gives_cells_back_when_ports_come_and_go,
        frames_come_with_busy_polling,
        a_tap_device_of_somebodys_is_a_port,
        the_kernel_neither_answers_arp_nor_ping,
        close_leaves_the_device_as_it_was,
        a_killed_process_leaves_nothing_attached,
        a_foreign_program_stays_and_packet_sockets_serve,
        a_worse_way_is_taken_with_its_reason,
        without_privileges_packet_sockets_serve_or_the_error_says_what_is_needed,
        a_device_deleted_under_the_port_does_not_keep_the_worker_awake,
        multicast_and_promiscuity_reach_the_device,
        errors_name_the_way_out;
        alone:
        tcp_with_open_checksums_crosses_two_ports_whole,
        checksums_are_completed_for_a_port_that_wants_them,
        udp_crosses_and_every_packet_is_counted,
        a_card_writes_and_reads_the_pool_itself,
    ])
}

/// AF_XDP and eBPF are the machine's, not a user namespace's.
fn root_or_skip(lab: Lab) -> Result<()> {
    match lab.privilege() {
        Privilege::Root => Ok(()),
        _ => Err(skip("XDP programs are loaded by root only (bpf(2) is not for user namespaces)")),
    }
}

/// Host A with `eth0`, joined to the device `left` of R.
struct One {
    a: Host,
    r: Host,
}

fn one(lab: Lab) -> Result<One> {
    root_or_skip(lab)?;
    pair(lab, 1500)
}

fn pair(lab: Lab, mtu: u32) -> Result<One> {
    let (a, r) = (Host::new(lab, "A")?, Host::new(lab, "R")?);
    veth(&VethEnd { host: &a, name: "eth0", mac: MAC_A }, &VethEnd { host: &r, name: "left", mac: MAC_R }, mtu)?;
    a.add_addr("eth0", A, 24)?;
    Ok(One { a, r })
}

/// A port of `left` that must be reached in this mode.
fn xdp(mode: &str, queues: usize, mut options: Value) -> Result<smpnet_plugin::Opened<AfXdp>> {
    options["mode"] = mode.into();
    let port = open::<AfXdp>("left", queues, options)?;
    check(port.port.status()["mode"] == mode, || format!("{}", port.port.status()))?;
    Ok(port)
}

/// A frame from A to R of a made-up EtherType, `len` bytes long, with `n` in it.
fn frame(n: usize, len: usize) -> Vec<u8> {
    let mut f = [&MAC_R[..], &MAC_A, &[0x88, 0xb5], &(n as u32).to_be_bytes()].concat();
    f.resize(len, n as u8);
    f
}

fn counters<D: Driver>(port: &D) -> HashMap<String, u64> {
    port.counters().into_iter().collect()
}

fn frames_go_both_ways_with_all_their_bytes(lab: Lab) -> Result<()> {
    for mode in ["native", "generic"] {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = xdp(mode, 1, json!({}))?;
            let sizes = [60, 61, 590, 1513, 1514];
            for (n, len) in sizes.iter().enumerate() {
                wire.send(&frame(n, *len))?;
            }
            let got = receive(&mut port, sizes.len(), 2 * SECOND);
            check(got.len() == sizes.len(), || format!("{mode}: {} of {} frames", got.len(), sizes.len()))?;
            for (n, (_, packet)) in got.iter().enumerate() {
                check(bytes(packet) == frame(n, sizes[n]), || format!("{mode}: frame {n} differs"))?;
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
                || format!("{mode}: {stats:?}"),
            )?;
            check(stats.rx_missed + stats.rx_errors + stats.tx_errors == 0, || format!("{mode}: {stats:?}"))?;
            drop(got);
            close(port);
            check(testing::outstanding() == 0, || "packets were not given back".into())
        })??;
    }
    Ok(())
}

fn received_frames_stay_where_the_kernel_put_them(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
        // The kernel has cells of ours, and a frame comes in one of them.
        let lent = testing::outstanding();
        check(lent >= 64, || format!("{lent} cells are lent"))?;
        wire.send(&frame(1, 1000))?;
        let (_, packet) = receive(&mut port, 1, SECOND).pop().expect("the frame");
        // A header of 64 bytes and XDP_PACKET_HEADROOM lie before it; a copy would stand where fresh packets begin.
        check(packet.hdr().data_off() == 64 + 256, || format!("data at {}", packet.hdr().data_off()))?;
        let pool = testing::host().pool();
        let at = packet.data().as_ptr() as usize - pool.base as usize;
        let cell = packet.cell() as usize * pool.cell_size as usize;
        check(at == cell + 320 && bytes(&packet) == frame(1, 1000), || format!("cell at {cell}, data at {at}"))
    })?
}

fn long_frames_are_chains_and_without_chains_the_mtu_is_bounded(lab: Lab) -> Result<()> {
    for mode in ["native", "generic"] {
        let net = one(lab)?;
        net.a.set_mtu("eth0", 9000)?;
        net.r.set_mtu("left", 9000)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = xdp(mode, 1, json!({}))?;
            check(port.port.status()["multi_buffer"] == true, || format!("{}", port.port.status()))?;
            // One cell takes 1,792 bytes.
            let sizes = [1792, 1793, 3584, 3585, 8000, 9014, 60];
            for (n, len) in sizes.iter().enumerate() {
                wire.send(&frame(n, *len))?;
                let (_, packet) = receive(&mut port, 1, SECOND).pop().expect("the frame");
                check(bytes(&packet) == frame(n, *len), || format!("{mode}: {len} bytes differ"))?;
                let cells = usize::from(packet.hdr().nsegs());
                check(cells == len.div_ceil(1792), || format!("{mode}: {len} bytes in {cells} cells"))?;
                send(&mut port, [packet]);
                wire.wait("frame back", SECOND, |f| !f.outgoing && f.bytes == frame(n, *len))?;
            }
            let stats = port.port.stats();
            check(stats.rx_missed + stats.rx_errors + stats.tx_errors == 0, || format!("{stats:?}"))?;
            close(port);
            check(testing::outstanding() == 0, || "packets were not given back".into())?;
            // In one cell: 1,792 bytes less an Ethernet header with a tag.
            let error =
                try_open::<AfXdp>("left", 1, json!({"mode": mode, "multi_buffer": false})).err().unwrap_or_default();
            check(error.contains("MTU 9000 is too large: at most 1774") && error.contains("cell_size"), || {
                format!("{mode}: {error:?}")
            })
        })??;
        net.a.set_mtu("eth0", 1500)?;
        net.r.set_mtu("left", 1500)?;
        net.r.run(|| -> Result<()> {
            let port = xdp(mode, 1, json!({"multi_buffer": false}))?;
            let error = port.port.set_mtu(1775).err().map(|e| e.to_string()).unwrap_or_default();
            check(error.contains("MTU 1775") && error.contains("1774"), || format!("{mode}: {error:?}"))?;
            check(port.details.mtu_max == 1774, || format!("{:?}", port.details))?;
            port.port.set_mtu(1774).map_err(|e| LabError::Failed(e.to_string()))?;
            check(net.r.link("left")?.mtu == 1774, || "the device has another MTU".into())
        })??;
    }
    Ok(())
}

/// A packet of these bytes in cells of `each`.
fn chain(bytes: &[u8], each: usize) -> Packet {
    let mut parts = bytes.chunks(each).map(testing::packet);
    let mut packet = parts.next().expect("bytes");
    for part in parts {
        packet.append_cell(part).expect("at most 255 cells");
    }
    packet
}

fn chains_are_sent_whole_or_copied_into_one_cell(lab: Lab) -> Result<()> {
    for multi_buffer in [true, false] {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = xdp("native", 1, json!({"multi_buffer": multi_buffer}))?;
            // In 2, 16 and 17 cells; in 18 cells, which no socket buffer has.
            for (n, each) in [(1, 800), (2, 95), (3, 90), (4, 84)] {
                let want = frame(n, 1500);
                let packet = chain(&want, each);
                check(usize::from(packet.hdr().nsegs()) == 1500usize.div_ceil(each), || "cells".into())?;
                check(send(&mut port, [packet]) == 1, || "refused".into())?;
                wire.wait("chain", SECOND, |f| !f.outgoing && f.bytes == want)?;
            }
            let stats = port.port.stats();
            check((stats.tx_packets, stats.tx_errors) == (4, 0), || format!("{stats:?}"))?;
            close(port);
            check(testing::outstanding() == 0, || "packets were not given back".into())
        })??;
    }
    Ok(())
}

fn frames_that_find_the_ring_full_are_counted_as_missed(lab: Lab) -> Result<()> {
    // Either ring may be the narrow one.
    for (ring, counter) in
        [(json!({"rx": 64, "fill": 256}), "rx_ring_full"), (json!({"rx": 256, "fill": 64}), "rx_fill_empty")]
    {
        let net = one(lab)?;
        let wire = Capture::open(&net.a, "eth0")?;
        net.r.run(|| -> Result<()> {
            let mut port = xdp("native", 1, json!({"ring": ring}))?;
            let before = net.r.link("left")?.stats.rx_packets;
            for n in 0..200 {
                wire.send(&frame(n, 200))?;
            }
            // The kernel hands frames over by its softirq, which may be behind.
            let end = Instant::now() + SOON;
            while net.r.link("left")?.stats.rx_packets - before < 200 && Instant::now() < end {
                std::thread::yield_now();
            }
            let got = receive(&mut port, 200, SECOND / 4).len() as u64;
            let (stats, counters) = (port.port.stats(), counters(&port.port));
            check(got < 200 && counters[counter] > 0, || format!("{got} received, {stats:?} {counters:?}"))?;
            check(got + stats.rx_missed == 200 && stats.rx_packets == got, || {
                format!("{got} received, {stats:?} {counters:?}")
            })
        })??;
    }
    Ok(())
}

fn a_lack_of_cells_is_counted_and_over_when_there_are_some(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut hoard: Vec<Packet> = std::iter::from_fn(|| testing::host().alloc()).collect();
        hoard.truncate(hoard.len() - 10);
        let mut port = xdp("native", 1, json!({}))?;
        for n in 0..60 {
            wire.send(&frame(n, 100))?;
        }
        // Kept, so that there are ten cells and no more.
        let first = receive(&mut port, 60, SECOND / 5);
        check(first.len() == 10, || format!("{} packets out of ten cells", first.len()))?;
        // A worker that went to sleep now would not be woken, because no frame can come.
        check(sleep_until_event(&mut port, 0), || "the worker sleeps without a cell in the kernel".into())?;
        let (stats, named) = (port.port.stats(), counters(&port.port));
        check(stats.rx_missed == 50 && named["rx_no_cell"] > 0, || format!("{stats:?} {named:?}"))?;
        drop(hoard);
        receive(&mut port, 1, Duration::from_millis(1));
        check(!sleep_until_event(&mut port, 0), || "the worker is kept awake".into())?;
        for n in 0..50 {
            wire.send(&frame(n, 100))?;
        }
        let got = receive(&mut port, 50, SECOND);
        check(got.len() == 50 && port.port.stats().rx_missed == 50, || format!("{} of 50 frames", got.len()))
    })?
}

fn a_port_that_is_down_delivers_nothing_and_does_not_keep_the_worker_awake(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
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
        let named = counters(&port.port);
        check(named["rx_while_down"] == 20 && named["rx_no_socket"] == 0, || format!("{named:?}"))?;
        port.port.set_up(true).expect("up");
        wire.send(&frame(7, 100))?;
        let got = receive(&mut port, 2, SECOND / 5);
        check(got.len() == 1 && bytes(&got[0].1) == frame(7, 100), || format!("{} frames", got.len()))?;
        // The device itself goes down and comes back.
        net.r.set_up("left", false)?;
        sleep_until_event(&mut port, 0);
        check(!sleep_until_event(&mut port, 50), || "the descriptor stays readable".into())?;
        net.r.set_up("left", true)?;
        std::thread::sleep(Duration::from_millis(20));
        wire.send(&frame(1, 100))?;
        check(receive(&mut port, 1, SECOND).len() == 1, || "nothing comes after the device was down".into())
    })?
}

fn a_packet_that_cannot_be_sent_is_counted_and_those_behind_it_go_on(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
        let mut large = testing::packet(&frame(6, 100));
        large.hdr_mut().flags |= pkt_flags::GSO_TCP4;
        let mut open = testing::packet(&frame(7, 100));
        open.hdr_mut().flags |= pkt_flags::CSUM_PARTIAL;
        (open.hdr_mut().csum_start, open.hdr_mut().csum_offset) = (open.hdr().data_off() + 90, 9);
        let frames = [frame(0, 100), frame(1, 1600), frame(2, 100), frame(3, 1514), frame(4, 1515), frame(5, 60)];
        let packets = frames.iter().map(|f| testing::packet(f)).chain([large, open, testing::packet(&frame(8, 13))]);
        let sent = send(&mut port, packets);
        check(sent == 9, || format!("{sent} accepted"))?;
        let of_ours = |f: &smpnet_lab::Frame| !f.outgoing && f.ether_type() == 0x88b5;
        let seen: Vec<Vec<u8>> = wire.collect(SECOND / 10)?.into_iter().filter(of_ours).map(|f| f.bytes).collect();
        let want: Vec<_> = [0, 2, 3, 5].iter().map(|n| frames[*n].clone()).collect();
        check(seen == want, || format!("{} frames arrived", seen.len()))?;
        let stats = port.port.stats();
        check((stats.tx_packets, stats.tx_errors) == (4, 5), || format!("{stats:?}"))?;
        // The device goes down; the port learns it from the kernel.
        net.r.set_up("left", false)?;
        let end = Instant::now() + SOON;
        while port.port.status()["running"] == true && Instant::now() < end {
            std::thread::yield_now();
        }
        send(&mut port, [testing::packet(&frame(0, 100))]);
        let stats = port.port.stats();
        check((stats.tx_packets, stats.tx_errors) == (4, 6), || format!("{stats:?}"))?;
        net.r.set_up("left", true)?;
        while port.port.status()["running"] == false && Instant::now() < end {
            std::thread::yield_now();
        }
        send(&mut port, [testing::packet(&frame(9, 100))]);
        let next = wire.wait("frame after the device was down", SECOND, of_ours)?;
        check(next.bytes == frame(9, 100), || "a frame that was lost comes late".into())
    })?
}

fn more_packets_than_one_system_call_sends_go_out_in_order(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({"ring": {"tx": 64}}))?;
        let (mut n, mut numbers) = (0, Vec::new());
        for _ in 0..30 {
            let lens = [60, 900, 1514, 100].into_iter().cycle().take(64);
            let packets: Vec<Packet> = lens.enumerate().map(|(i, len)| testing::packet(&frame(n + i, len))).collect();
            n += send(&mut port, packets);
            while numbers.len() < n
                && let Some(f) = wire.next(SECOND / 5)?
            {
                if f.ether_type() == 0x88b5 {
                    numbers.push(u32::from_be_bytes([f.bytes[14], f.bytes[15], f.bytes[16], f.bytes[17]]));
                }
            }
        }
        check(numbers.len() == n && n == 30 * 64, || format!("{} of {n} frames arrived", numbers.len()))?;
        check(numbers.iter().zip(0..).all(|(got, want)| *got == want), || "out of order".into())?;
        let stats = port.port.stats();
        check(stats.tx_packets == n as u64 && stats.tx_errors == 0, || format!("{stats:?}"))?;
        // Need-wakeup: a burst takes a few calls, and the cells of what was sent are back.
        let kicks = counters(&port.port)["tx_kicks"];
        check((30..=60).contains(&kicks), || format!("{kicks} system calls for {n} packets"))
    })?
}
