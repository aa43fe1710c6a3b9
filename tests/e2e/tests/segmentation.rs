//! TCP between links whose ends differ in what they cut and join.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use smpnet_e2e::{Rig, elements};
use smpnet_lab::{
    Amount, Host, Lab, LabError, Offloads, Ping, Privilege, Result, TwoHosts, check, run_tests, skip, tests, transfer,
};

/// R's own kernel, behind the tap.
const BEHIND_TAP: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 2);
const STREAM: Amount = Amount::Bytes(64 << 20);

fn main() -> ExitCode {
    run_tests(&tests![
        packets_of_several_segments_are_cut_for_af_xdp;
        alone:
        segments_cut_to_the_mtu_reach_a_tap_in_larger_packets,
        segments_cut_to_the_mtu_leave_a_packet_socket_in_larger_packets,
    ])
}

/// The value of a node.
fn sysctl(rig: &Rig, name: &str) -> Result<u64> {
    let answer = rig.router.client().get(&format!("/v1/sysctl?prefix={name}"))?;
    let node = elements(&answer).iter().find(|n| n["name"] == name);
    node.and_then(|n| n["value"].as_u64()).ok_or_else(|| LabError::Failed(format!("{name}: {answer}")))
}

/// What a port's driver counts by that name.
fn driver_counter(rig: &Rig, interface: &str, name: &str) -> Result<u64> {
    let one = rig.router.client().get(&format!("/v1/interfaces/{interface}"))?;
    one["driver_counters"][name].as_u64().ok_or_else(|| LabError::Failed(format!("{interface} {name}: {one}")))
}

/// Sends streams from A, which cuts its packets to the MTU, while the router may join them and while it may not.
fn streams(rig: &Rig, to: &Host, address: Ipv4Addr, way_out: &str) -> Result<()> {
    rig.net.a.set_offloads("eth0", Offloads::NONE)?;
    let mut port = 5000;
    for wanted in [true, false, true, false] {
        rig.router.ok(&["sysctl", "-w", &format!("net.inet.tcp.coalesce={}", u8::from(wanted))])?;
        let counted = || {
            Ok::<_, LabError>((sysctl(rig, "net.inet.tcp.stats.coalesced")?, driver_counter(rig, way_out, "tx_gso")?))
        };
        let before = counted()?;
        port += 1;
        let report = transfer(&rig.net.a, to, address, port, STREAM)?;
        let after = counted()?;
        let (segments, packets) = (after.0 - before.0, after.1 - before.1);
        println!(
            "joined: {wanted}, {:.2} Gbit/s, {segments} segments in {packets} packets, {} retransmits",
            report.bits_per_second() / 1e9,
            report.retransmits
        );
        check(report.clean(), || format!("{report:?}"))?;
        check((segments > 0, packets > 0) == (wanted, wanted), || format!("{before:?} {after:?}"))?;
    }
    rig.balanced()
}

fn segments_cut_to_the_mtu_reach_a_tap_in_larger_packets(lab: Lab) -> Result<()> {
    if let Err(e) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        return Err(skip(format!("/dev/net/tun cannot be opened: {e} (modprobe tun; chmod 0666 /dev/net/tun)")));
    }
    let rig = Rig::start(lab, "[[interface]]\nname = \"tap0\"\ndriver = \"tap\"\naddresses = [\"10.0.3.1/24\"]\n")?;
    rig.net.r.add_addr("tap0", BEHIND_TAP, 24)?;
    rig.net.r.add_route(Ipv4Addr::UNSPECIFIED, 0, [10, 0, 3, 1].into())?;
    let ping = Ping::to(BEHIND_TAP).count(3).run(&rig.net.a)?;
    check(ping.received > 0, || format!("{ping:?}"))?;
    streams(&rig, &rig.net.r, BEHIND_TAP, "tap0")
}

fn segments_cut_to_the_mtu_leave_a_packet_socket_in_larger_packets(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    streams(&rig, &rig.net.b, TwoHosts::B, "right0")
}

fn packets_of_several_segments_are_cut_for_af_xdp(lab: Lab) -> Result<()> {
    if !matches!(lab.privilege(), Privilege::Root) {
        return Err(skip("XDP programs are loaded by root only (bpf(2) is not for user namespaces)"));
    }
    let net = TwoHosts::new(lab)?;
    let config = net.ports("").replacen(
        "driver = \"af_packet\"\noptions = { device = \"right\"",
        "driver = \"af_xdp\"\noptions = { device = \"right\"",
        1,
    );
    let rig = Rig::with(net, &config)?;
    let report = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(16 << 20))?;
    check(report.clean(), || format!("{report:?}"))?;
    // They came in as one, and a frame of this way out has one segment.
    let came = driver_counter(&rig, "left0", "rx_gso")?;
    let sent = sysctl(&rig, "net.interfaces.right0.opackets")?;
    let lost = rig.drops("tx_unsupported")?;
    check(came > 0 && sent > (16 << 20) / 1448 && lost == 0, || format!("{came} came, {sent} sent, {lost} lost"))?;
    rig.balanced()
}
