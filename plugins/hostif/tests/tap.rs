//! The driver `tap`, against the kernel at its other end.

mod support;

use serde_json::{Value, json};
use smpnet_hostif::{af_packet::AfPacket, tap::Tap};
use smpnet_lab::{
    Amount, Host, Lab, LabError, Offloads, Ping, Result, VethEnd, check, run_tests, skip, tests, transfer, veth,
};
use smpnet_plugin::{Driver, offload, testing};
use std::{net::Ipv4Addr, process::ExitCode, time::Duration};
use support::{Bridge, close, open, receive, send, sleep_until_event, try_open};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const R: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_tests(&tests![
        the_device_is_there_while_the_port_is_open,
        a_persistent_device_stays_and_can_be_taken_over,
        the_kernel_sees_no_carrier_while_the_port_is_down,
        frames_go_both_ways_over_several_queues,
        frames_that_wait_when_a_port_goes_down_do_not_keep_the_worker_awake,
        a_device_deleted_under_the_port_does_not_keep_the_worker_awake,
        errors_name_the_cause;
        alone:
        tcp_crosses_a_tap_whole_with_and_without_offload,
    ])
}

fn tun_or_skip() -> Result<()> {
    match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(e) => Err(skip(format!("/dev/net/tun cannot be opened: {e} (modprobe tun; chmod 0666 /dev/net/tun)"))),
    }
}

fn the_device_is_there_while_the_port_is_open(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let port = open::<Tap>("tap7", 2, json!({"mac": "02:00:00:00:00:07"}))?;
        let link = r.link("tap7")?;
        check(link.flags & libc::IFF_UP as u32 != 0, || format!("{link:?}"))?;
        check(port.details.mac.bytes == [2, 0, 0, 0, 0, 7], || format!("{:?}", port.details))?;
        check(link.mac != port.details.mac.bytes, || "both ends have one address".into())?;
        check(port.rx.len() == 2 && port.tx.len() == 2, || format!("{} queues", port.rx.len()))?;
        close(port);
        check(!r.has_link("tap7"), || "the device is still there".into())
    })?
}

fn a_persistent_device_stays_and_can_be_taken_over(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        close(open::<Tap>("x", 1, json!({"name": "tap8", "persist": true}))?);
        let link = r.link("tap8")?;
        check(link.flags & libc::IFF_UP as u32 == 0, || "the device was left up".into())?;
        close(open::<Tap>("x", 1, json!({"name": "tap8"}))?);
        check(!r.has_link("tap8"), || "the device is still there".into())
    })?
}

fn the_kernel_sees_no_carrier_while_the_port_is_down(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let carrier = || -> Result<bool> { Ok(r.link("tap0")?.flags & libc::IFF_LOWER_UP as u32 != 0) };
        let port = try_open::<Tap>("tap0", 1, json!({})).map_err(LabError::Failed)?;
        check(!carrier()? && port.port.link_state().state == 0, || "carrier before set_up".into())?;
        port.port.set_up(true).map_err(|e| LabError::Failed(e.to_string()))?;
        check(carrier()? && port.port.link_state().state == 1, || "no carrier".into())?;
        r.set_up("tap0", false)?;
        check(port.port.link_state().state == 0, || "up though the kernel's end is down".into())?;
        r.set_up("tap0", true)?;
        port.port.set_up(false).map_err(|e| LabError::Failed(e.to_string()))?;
        check(!carrier()?, || "carrier after set_up(false)".into())
    })?
}

fn frames_go_both_ways_over_several_queues(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let mut port = open::<Tap>("tap0", 3, json!({}))?;
        let wire = smpnet_lab::Capture::open(&r, "tap0")?;
        let frame = |n: u8, len: usize| {
            let mut f = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5]].concat();
            f.resize(len, n);
            f
        };
        for n in 0..30 {
            wire.send(&frame(n, 60 + 40 * usize::from(n)))?;
        }
        let got = receive(&mut port, 30, SECOND);
        check(got.len() == 30, || format!("{} of 30 frames", got.len()))?;
        for n in 0..30u8 {
            let want = frame(n, 60 + 40 * usize::from(n));
            check(got.iter().any(|(_, p)| p.data() == want), || format!("frame {n} is not there"))?;
        }
        drop(got);
        let sent = send(&mut port, (0..30).map(|n| testing::packet(&frame(100 + n, 80))));
        check(sent == 30, || format!("{sent} accepted"))?;
        for n in 0..30 {
            wire.wait("frame of the port's", SECOND, |f| !f.outgoing && f.bytes == frame(100 + n, 80))?;
        }
        // A tag in the header goes into the frame.
        let mut packet = testing::packet(&frame(1, 80));
        packet.hdr_mut().flags |= smpnet_plugin::pkt_flags::VLAN;
        packet.hdr_mut().vlan_tci = 5;
        send(&mut port, [packet]);
        wire.wait("tagged frame", SECOND, |f| f.bytes[12..16] == [0x81, 0, 0, 5] && f.bytes.len() == 84)?;
        let stats = port.port.stats();
        check(stats.rx_packets == 30 && stats.tx_packets == 31, || format!("{stats:?}"))?;
        check(stats.rx_missed + stats.rx_errors + stats.tx_errors == 0, || format!("{stats:?}"))?;
        // The kernel's end down: what is sent is counted as lost.
        r.set_up("tap0", false)?;
        send(&mut port, [testing::packet(&frame(1, 80))]);
        check(port.port.stats().tx_errors == 1, || format!("{:?}", port.port.stats()))?;
        close(port);
        check(testing::outstanding() == 0, || "packets were not given back".into())
    })?
}

fn frames_that_wait_when_a_port_goes_down_do_not_keep_the_worker_awake(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let mut port = open::<Tap>("tap0", 1, json!({}))?;
        let wire = smpnet_lab::Capture::open(&r, "tap0")?;
        for _ in 0..10 {
            wire.send(&[&[0xff; 12][..], &[0x88, 0xb5], &[0; 50]].concat())?;
        }
        port.port.set_up(false).map_err(|e| LabError::Failed(e.to_string()))?;
        sleep_until_event(&mut port, 0);
        check(!sleep_until_event(&mut port, 50), || "the descriptor stays readable".into())?;
        let counters = port.port.counters();
        check(counters.contains(&("rx_while_down".into(), 10)), || format!("{counters:?}"))?;
        port.port.set_up(true).map_err(|e| LabError::Failed(e.to_string()))?;
        std::thread::sleep(Duration::from_millis(20));
        wire.send(&[&[0xff; 12][..], &[0x88, 0xb5], &[1; 50]].concat())?;
        let got = receive(&mut port, 1, SECOND);
        check(got.len() == 1 && got[0].1.data()[20] == 1, || format!("{} frames", got.len()))
    })?
}

fn a_device_deleted_under_the_port_does_not_keep_the_worker_awake(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let mut port = open::<Tap>("tap0", 1, json!({}))?;
        r.delete_link("tap0")?;
        check(receive(&mut port, 1, SECOND / 10).is_empty(), || "a packet out of nothing".into())?;
        check(!sleep_until_event(&mut port, 50), || "the descriptor stays readable".into())?;
        check(port.port.link_state().state == 0, || "the link is up".into())?;
        close(port);
        Ok(())
    })?
}

fn errors_name_the_cause(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    let r = Host::new(lab, "R")?;
    r.run(|| -> Result<()> {
        let error_of = |options: Value| try_open::<Tap>("x0", 1, options).err().unwrap_or_default();
        let _first = open::<Tap>("tap0", 1, json!({"persist": true}))?;
        for (options, part) in [
            (json!({"name": "sixteen-bytes-xx"}), "1 to 15 bytes"),
            (json!({"mac": "03:00:00:00:00:01"}), "no unicast Ethernet address"),
            (json!({"queue": 1}), "unknown field `queue`"),
            (json!({"name": "lo"}), "making the tap device lo"),
        ] {
            let text = error_of(options);
            check(text.contains(part), || format!("{text:?} lacks {part:?}"))?;
        }
        Ok(())
    })?
}

fn tcp_crosses_a_tap_whole_with_and_without_offload(lab: Lab) -> Result<()> {
    tun_or_skip()?;
    for (offloads, options, large) in
        [(Offloads::ALL, json!({}), true), (Offloads::NONE, json!({"offload": false}), false)]
    {
        let (a, r) = (Host::new(lab, "A")?, Host::new(lab, "R")?);
        let end = |host, name, n| VethEnd { host, name, mac: [2, 0, 0, 0, 0, n] };
        veth(&end(&a, "eth0", 1), &end(&r, "left", 2), 1500)?;
        a.add_addr("eth0", A, 24)?;
        a.set_offloads("eth0", offloads)?;
        let bridge = Bridge::start(&r, move || {
            let tap = open::<Tap>("tap0", 1, options)?;
            if !large {
                // What the kernel leaves to us is what was agreed on.
                let mask = tap.details.offloads & !(offload::RX_CSUM | offload::LRO);
                tap.port.set_offloads(mask).map_err(|e| LabError::Failed(e.to_string()))?;
            }
            Ok((tap, open::<AfPacket>("left", 1, json!({}))?))
        })?;
        r.add_addr("tap0", R, 24)?;
        let ping = Ping::to(R).count(10).run(&a)?;
        check(ping.clean(), || format!("{ping:?}"))?;
        let forth = transfer(&a, &r, R, 5001, Amount::Bytes(32 << 20))?;
        let back = transfer(&r, &a, A, 5002, Amount::Bytes(32 << 20))?;
        let (tap, left) = bridge.finish()?;
        println!("{:.2} and {:.2} Gbit/s; {tap:?}", forth.bits_per_second() / 1e9, back.bits_per_second() / 1e9);
        check(forth.clean() && back.clean(), || format!("{forth:?} {back:?} {tap:?} {left:?}"))?;
        let gso = (tap.counters["rx_gso"] > 0, tap.counters["tx_gso"] > 0);
        check(gso == (large, large), || format!("{tap:?}"))?;
        check(tap.stats.rx_errors + tap.stats.tx_errors == 0, || format!("{tap:?}"))?;
        check(tap.stats.rx_packets == left.stats.tx_packets, || format!("{tap:?} {left:?}"))?;
    }
    Ok(())
}
