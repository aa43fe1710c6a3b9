//! The laboratory against itself, with the Linux kernel as the router: what fails in a test of smpnet and not here is
//! smpnet's.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use smpnet_lab::{
    Amount, Capture, Host, Lab, Offloads, Ping, Result, TempDir, TwoHosts, UdpReceiver, UdpSender, VethEnd,
    as_ordinary_user, check, mac, run_tests, tests, traceroute, transfer, veth,
};

fn main() -> ExitCode {
    run_tests(&tests![
        pings_are_answered_through_the_linux_router,
        a_traceroute_shows_the_linux_router_as_first_hop,
        the_path_mtu_is_learned_from_the_linux_router,
        a_capture_shows_arp_requests_and_replies,
        neighbours_can_be_set_read_and_forgotten,
        a_closed_port_answers_with_port_unreachable,
        temporary_folders_vanish,
        an_ordinary_user_gets_a_laboratory;
        alone:
        the_laboratory_forwards_with_linux_as_its_router_and_loses_nothing,
        tcp_arrives_whole_with_and_without_offloads,
    ])
}

fn linux(lab: Lab) -> Result<TwoHosts> {
    let net = TwoHosts::new(lab)?;
    net.route_with_linux()?;
    Ok(net)
}

fn pings_are_answered_through_the_linux_router(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    let report = Ping::to(TwoHosts::B).count(20).run(&net.a)?;
    check(report.clean() && report.ttl == 63, || format!("{report:?}"))?;
    let big = Ping::to(TwoHosts::A).payload(20_000).run(&net.b)?;
    check(big.clean(), || format!("20,000 bytes: {big:?}"))?;
    let expired = Ping::to(TwoHosts::B).count(1).ttl(1).run(&net.a)?;
    check(expired.errors.iter().any(|e| (e.kind, e.from) == (11, TwoHosts::R_LEFT)), || format!("{expired:?}"))
}

fn a_traceroute_shows_the_linux_router_as_first_hop(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    let hops = traceroute(&net.a, TwoHosts::B, 8)?;
    let from: Vec<_> = hops.iter().map(|h| (h.from, h.reached)).collect();
    check(from == [(Some(TwoHosts::R_LEFT), false), (Some(TwoHosts::B), true)], || format!("{hops:?}"))
}

fn the_path_mtu_is_learned_from_the_linux_router(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    net.r.set_mtu("right", 1280)?;
    let report = Ping::to(TwoHosts::B)
        .count(2)
        .payload(1400)
        .dont_fragment()
        .interval(Duration::from_millis(100))
        .run(&net.a)?;
    check(report.errors.iter().any(|e| (e.kind, e.code, e.extra) == (3, 4, 1280)) && report.too_large == 1, || {
        format!("{report:?}")
    })
}

fn a_capture_shows_arp_requests_and_replies(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    let capture = Capture::open(&net.a, "eth0")?;
    Ping::to(TwoHosts::R_LEFT).count(1).run(&net.a)?;
    let second = Duration::from_secs(1);
    let ask =
        capture.wait("ARP request", second, |f| f.arp().is_some_and(|a| a.op == 1 && a.target == TwoHosts::R_LEFT))?;
    check(ask.outgoing, || "the request came in".into())?;
    let reply = capture.wait("ARP reply", second, |f| f.arp().is_some_and(|a| a.op == 2))?;
    check(reply.arp().is_some_and(|a| a.sender == TwoHosts::R_LEFT && a.sender_mac == mac(1, 1)), || {
        format!("{reply:?}")
    })?;
    capture.wait("echo reply", second, |f| f.ipv4().is_some_and(|p| p.protocol == 1 && p.payload[0] == 0))?;
    let frame = [&[0xff; 6][..], &mac(1, 2), &[0x88, 0xb5], &[7; 50]].concat();
    let far = Capture::open(&net.r, "left")?;
    capture.send(&frame)?;
    far.wait("the frame that was sent", second, |f| f.bytes == frame).map(drop)
}

fn neighbours_can_be_set_read_and_forgotten(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    let ghost = Ipv4Addr::new(10, 0, 1, 77);
    net.a.set_neighbour("eth0", ghost, mac(1, 77))?;
    let entry = net.a.neighbour("eth0", ghost)?;
    check(entry.as_ref().is_some_and(|n| n.mac == Some(mac(1, 77)) && n.state == 0x80), || format!("{entry:?}"))?;
    net.a.delete_neighbour("eth0", ghost)?;
    // The kernel keeps a forgotten entry as failed until its garbage collection.
    let entry = net.a.neighbour("eth0", ghost)?;
    check(entry.as_ref().is_none_or(|n| n.state == 0x20), || format!("{entry:?}"))
}

fn a_closed_port_answers_with_port_unreachable(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    let hops = traceroute(&net.a, TwoHosts::R_LEFT, 2)?;
    check(hops.len() == 1 && hops[0].reached, || format!("{hops:?}"))
}

fn temporary_folders_vanish(_: Lab) -> Result<()> {
    let dir = TempDir::new("smpnet-laboratory")?;
    let path = dir.write("file", "text")?;
    check(path.exists(), || "no file".into())?;
    let folder = dir.path().to_path_buf();
    drop(dir);
    check(!folder.exists(), || format!("{} is still there", folder.display()))
}

fn an_ordinary_user_gets_a_laboratory(lab: Lab) -> Result<()> {
    as_ordinary_user(lab, "pings_are_answered_through_the_linux_router")
}

fn the_laboratory_forwards_with_linux_as_its_router_and_loses_nothing(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    Ping::to(TwoHosts::B).run(&net.a)?;
    let receiver = UdpReceiver::start(&net.b, TwoHosts::B, 4000, 4)?;
    let sender = UdpSender::new(TwoHosts::B, 4000).flows(4).window(receiver.window());
    let sent = sender.send(&net.a, 300_000)?;
    check(receiver.wait_for(sent.sent, Duration::from_secs(2)), || format!("only {} came", receiver.received()))?;
    let got = receiver.finish()?;
    let total = got.total();
    println!("{:.0} packets a second", sent.sent as f64 / sent.seconds);
    check(
        total.received == sent.sent
            && (total.duplicates, total.corrupt, got.foreign, got.socket_drops, sent.stalls) == (0, 0, 0, 0, 0)
            && net.link_drops().is_ok_and(|n| n == 0),
        || format!("{sent:?} {got:?} link drops {:?}", net.link_drops()),
    )
}

fn tcp_arrives_whole_with_and_without_offloads(lab: Lab) -> Result<()> {
    let net = linux(lab)?;
    for (port, offloads) in [(5001, Offloads::ALL), (5002, Offloads::NONE)] {
        for (host, link) in [(&net.a, "eth0"), (&net.r, "left"), (&net.r, "right"), (&net.b, "eth0")] {
            host.set_offloads(link, offloads)?;
        }
        let report = transfer(&net.a, &net.b, TwoHosts::B, port, Amount::Bytes(64 << 20))?;
        println!("{:.2} Gbit/s", report.bits_per_second() / 1e9);
        check(report.clean(), || format!("{offloads:?}: {report:?}"))?;
    }
    let (c, d) = (Host::new(lab, "C")?, Host::new(lab, "D")?);
    let end = |host, n| VethEnd { host, name: "eth0", mac: mac(9, n) };
    veth(&end(&c, 1), &end(&d, 2), 9000)?;
    check(c.link("eth0")?.mtu == 9000 && d.link("eth0")?.mtu == 9000, || "the MTU was not taken".into())
}
