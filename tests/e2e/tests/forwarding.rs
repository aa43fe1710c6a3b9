//! IPv4 forwarding, ICMP and routes between Linux hosts.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use smpnet_e2e::{Rig, does_not_reach, reaches, second_link};
use smpnet_lab::{
    Amount, Capture, Lab, Offloads, Ping, Result, TwoHosts, UdpReceiver, UdpSender, as_ordinary_user, check, craft,
    mac, run_tests, tests, traceroute, transfer,
};

fn main() -> ExitCode {
    run_tests(&tests![
        pings_pass_in_both_directions_and_lose_one_hop_of_life,
        smpnet_answers_pings_to_each_of_its_addresses,
        a_traceroute_shows_smpnet_first,
        an_expired_packet_comes_back_as_time_exceeded,
        without_a_route_the_sender_hears_of_it,
        a_reject_route_answers_and_a_blackhole_route_is_silent,
        the_path_mtu_is_learned_by_linux,
        packets_without_df_are_fragmented_and_arrive_whole,
        a_closed_udp_port_of_smpnet_answers_port_unreachable,
        with_forwarding_off_only_smpnet_itself_answers,
        a_packet_that_goes_back_where_it_came_from_brings_a_redirect,
        malformed_packets_are_counted_and_go_no_further,
        source_routed_packets_are_refused,
        two_next_hops_share_the_flows,
        a_changed_route_is_used_by_the_next_packet,
        an_ordinary_user_runs_the_router;
        alone:
        udp_at_full_speed_arrives_once_and_whole,
        tcp_arrives_whole_with_and_without_offloads,
    ])
}

fn pings_pass_in_both_directions_and_lose_one_hop_of_life(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    for (host, to) in [(&rig.net.a, TwoHosts::B), (&rig.net.b, TwoHosts::A)] {
        let report = Ping::to(to).count(50).interval(Duration::from_millis(2)).run(host)?;
        check(report.clean() && report.ttl == 63, || format!("{report:?}"))?;
        let long = Ping::to(to).payload(20_000).run(host)?;
        check(long.clean(), || format!("20,000 bytes in fragments: {long:?}"))?;
    }
    rig.balanced()
}

fn smpnet_answers_pings_to_each_of_its_addresses(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    for to in [TwoHosts::R_LEFT, TwoHosts::R_RIGHT] {
        for payload in [8, 56, 1472, 1473, 20_000] {
            let report = Ping::to(to).payload(payload).run(&rig.net.a)?;
            check(report.clean(), || format!("{payload} bytes to {to}: {report:?}"))?;
        }
    }
    rig.balanced()
}

fn a_traceroute_shows_smpnet_first(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    for (host, first, to) in [(&rig.net.a, TwoHosts::R_LEFT, TwoHosts::B), (&rig.net.b, TwoHosts::R_RIGHT, TwoHosts::A)]
    {
        let hops = traceroute(host, to, 8)?;
        let from: Vec<_> = hops.iter().map(|h| (h.from, h.reached)).collect();
        check(from == [(Some(first), false), (Some(to), true)], || format!("{hops:?}"))?;
    }
    Ok(())
}

fn an_expired_packet_comes_back_as_time_exceeded(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let before = rig.drops("ip_ttl")?;
    let report = Ping::to(TwoHosts::B).count(1).ttl(1).run(&rig.net.a)?;
    check(
        report.received == 0 && report.errors.iter().any(|e| (e.kind, e.code, e.from) == (11, 0, TwoHosts::R_LEFT)),
        || format!("{report:?}"),
    )?;
    check(rig.drops("ip_ttl")? == before + 1, || "ip_ttl did not count it".into())?;
    check(Ping::to(TwoHosts::B).ttl(2).run(&rig.net.a)?.clean(), || "TTL 2 does not suffice".into())
}

fn without_a_route_the_sender_hears_of_it(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let report = Ping::to(Ipv4Addr::new(192, 0, 2, 9)).count(1).run(&rig.net.a)?;
    check(report.errors.iter().any(|e| e.kind == 3 && e.code <= 1 && e.from == TwoHosts::R_LEFT), || {
        format!("{report:?}")
    })?;
    check(rig.drops("ip_no_route")? == 1, || "ip_no_route did not count it".into())?;
    rig.balanced()
}

fn a_reject_route_answers_and_a_blackhole_route_is_silent(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "[[route]]\nto = \"192.0.2.0/24\"\ntype = \"blackhole\"\n")?;
    rig.router.ok(&["route", "add", "198.51.100.0/24", "-reject"])?;
    let silent = Ping::to(Ipv4Addr::new(192, 0, 2, 9)).count(1).timeout(Duration::from_millis(300)).run(&rig.net.a)?;
    check(silent.received == 0 && silent.errors.is_empty(), || format!("blackhole: {silent:?}"))?;
    let told = Ping::to(Ipv4Addr::new(198, 51, 100, 9)).count(1).run(&rig.net.a)?;
    check(told.errors.iter().any(|e| e.kind == 3), || format!("reject: {told:?}"))?;
    check((rig.drops("ip_blackhole")?, rig.drops("ip_reject")?) == (1, 1), || "the drops were not counted".into())?;
    rig.router.ok(&["route", "delete", "198.51.100.0/24"])?;
    Ping::to(Ipv4Addr::new(198, 51, 100, 9)).count(1).run(&rig.net.a)?;
    check(rig.drops("ip_no_route")? == 1, || "the deleted route is still used".into())
}

/// The way to B takes 1,280 bytes only.
fn narrow(lab: Lab) -> Result<Rig> {
    let net = TwoHosts::new(lab)?;
    net.r.set_mtu("right", 1280)?;
    net.b.set_mtu("eth0", 1280)?;
    let config = net.ports("").replace("name = \"right0\"", "name = \"right0\"\nmtu = 1280");
    Rig::with(net, &config)
}

fn the_path_mtu_is_learned_by_linux(lab: Lab) -> Result<()> {
    let rig = narrow(lab)?;
    let ping = Ping::to(TwoHosts::B).payload(1400).dont_fragment().interval(Duration::from_millis(100));
    let report = ping.count(2).run(&rig.net.a)?;
    check(report.errors.iter().any(|e| (e.kind, e.code, e.extra) == (3, 4, 1280)), || format!("{report:?}"))?;
    // The second request is refused by A's own kernel, which has learned.
    check(report.too_large == 1 && rig.drops("ip_need_frag")? == 1, || format!("{report:?}"))?;
    let report = transfer(&rig.net.a, &rig.net.b, TwoHosts::B, 5001, Amount::Bytes(4 << 20))?;
    check(report.clean(), || format!("{report:?}"))
}

fn packets_without_df_are_fragmented_and_arrive_whole(lab: Lab) -> Result<()> {
    let rig = narrow(lab)?;
    for payload in [1252, 1253, 1400, 1472, 9000] {
        let report = Ping::to(TwoHosts::B).payload(payload).run(&rig.net.a)?;
        check(report.clean(), || format!("{payload} bytes: {report:?}"))?;
    }
    Ok(())
}

fn a_closed_udp_port_of_smpnet_answers_port_unreachable(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let hops = traceroute(&rig.net.a, TwoHosts::R_LEFT, 2)?;
    check(hops.len() == 1 && hops[0].reached, || format!("{hops:?}"))?;
    check(rig.drops("port_unreach")? == 1, || "port_unreach did not count it".into())
}

fn with_forwarding_off_only_smpnet_itself_answers(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    rig.router.ok(&["sysctl", "-w", "net.inet.ip.forwarding=0"])?;
    does_not_reach(&rig.net.a, TwoHosts::B)?;
    reaches(&rig.net.a, TwoHosts::R_LEFT)?;
    check(rig.drops("ip_no_forward")? >= 2, || "ip_no_forward did not count".into())?;
    rig.router.ok(&["sysctl", "-w", "net.inet.ip.forwarding=1"])?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn a_packet_that_goes_back_where_it_came_from_brings_a_redirect(lab: Lab) -> Result<()> {
    let better = Ipv4Addr::new(10, 0, 1, 3);
    let rig = Rig::start(lab, "[[route]]\nto = \"10.9.0.0/16\"\nvia = \"10.0.1.3\"\n")?;
    rig.net.a.add_addr("eth0", better, 24)?;
    let report = Ping::to(Ipv4Addr::new(10, 9, 0, 1)).count(1).timeout(Duration::from_millis(500)).run(&rig.net.a)?;
    check(report.errors.iter().any(|e| (e.kind, e.from, e.gateway()) == (5, TwoHosts::R_LEFT, better)), || {
        format!("{report:?}")
    })
}

fn malformed_packets_are_counted_and_go_no_further(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let far = Capture::open(&rig.net.b, "eth0")?;
    let good = craft::ip(TwoHosts::A, TwoHosts::B, 17, 64, &[], &craft::udp(7, 9, b"malformed"));
    let changed = |at: usize, value: u8| {
        let mut p = good.clone();
        p[at] = value;
        p
    };
    let from = |src: [u8; 4]| craft::ip(src.into(), TwoHosts::B, 17, 64, &[], &craft::udp(7, 9, b"malformed"));
    let cases = [
        ("ip_bad_version", changed(0, 0x65)),
        ("ip_bad_header_length", changed(0, 0x44)),
        ("ip_bad_checksum", changed(11, good[11] ^ 0x55)),
        ("ip_bad_length", {
            let mut p = craft::ip(TwoHosts::A, TwoHosts::B, 17, 64, &[], &[0; 1000]);
            p.truncate(100);
            p
        }),
        ("ip_bad_source", from([224, 0, 0, 1])),
        ("ip_martian", from([127, 0, 0, 1])),
    ];
    for (reason, packet) in cases {
        let before = rig.drops(reason)?;
        wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &packet))?;
        std::thread::sleep(Duration::from_millis(100));
        check(rig.drops(reason)? == before + 1, || format!("{reason} did not count"))?;
    }
    let seen = far.collect(Duration::from_millis(100))?;
    check(!seen.iter().any(|f| !f.outgoing && f.bytes.windows(9).any(|w| w == b"malformed")), || format!("{seen:?}"))?;
    wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &good))?;
    let patience = Duration::from_secs(1);
    far.wait("the good packet", patience, |f| {
        f.ipv4().is_some_and(|p| p.ttl == 63 && p.payload.ends_with(b"malformed"))
    })?;
    rig.balanced()
}

fn source_routed_packets_are_refused(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    // Loose source route over B, to smpnet's own address (RFC 791).
    let option = [131, 7, 4, 10, 0, 2, 2, 0];
    let packet = craft::ip(TwoHosts::A, TwoHosts::R_LEFT, 17, 64, &option, &craft::udp(7, 9, b"source route"));
    wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &packet))?;
    std::thread::sleep(Duration::from_millis(100));
    check(rig.drops("ip_bad_option")? == 1, || "ip_bad_option did not count".into())
}

fn two_next_hops_share_the_flows(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    let port = second_link(&net)?;
    let target = Ipv4Addr::new(10, 9, 0, 1);
    net.b.add_addr("lo", target, 32)?;
    let route = "[[route]]\nto = \"10.9.0.0/24\"\nvia = [\"10.0.2.2\", \"10.0.3.2\"]\n";
    let config = format!("{}{port}{route}", net.ports(""));
    let rig = Rig::with(net, &config)?;
    reaches(&rig.net.a, target)?;
    // Both neighbours are known before the count begins.
    reaches(&rig.net.b, [10, 0, 3, 1].into())?;
    let taken = |link: &str| rig.net.b.link(link).map(|l| l.stats.rx_packets);
    let before = (taken("eth0")?, taken("eth1")?);
    let receiver = UdpReceiver::start(&rig.net.b, target, 6000, 128)?;
    let sent = UdpSender::new(target, 6000).flows(128).window(receiver.window()).send(&rig.net.a, 12_800)?;
    receiver.wait_for(sent.sent, Duration::from_secs(1));
    let got = receiver.finish()?.total();
    check(got.received == sent.sent && got.reordered == 0, || format!("{got:?}"))?;
    let (first, second) = (taken("eth0")? - before.0, taken("eth1")? - before.1);
    check(first.min(second) > 12_800 / 4, || format!("{first} packets took the one link and {second} the other"))
}

fn a_changed_route_is_used_by_the_next_packet(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    let port = second_link(&net)?;
    let target = Ipv4Addr::new(10, 9, 0, 1);
    net.b.add_addr("lo", target, 32)?;
    let config = format!("{}{port}[[route]]\nto = \"10.9.0.0/24\"\nvia = \"10.0.2.2\"\n", net.ports(""));
    let rig = Rig::with(net, &config)?;
    reaches(&rig.net.b, [10, 0, 3, 1].into())?;
    reaches(&rig.net.a, target)?;
    let taken = |link: &str| rig.net.b.link(link).map(|l| l.stats.rx_packets);
    for (gateway, link) in [("10.0.3.2", "eth1"), ("10.0.2.2", "eth0"), ("10.0.3.2", "eth1")] {
        rig.router.ok(&["route", "change", "10.9.0.0/24", gateway])?;
        let before = taken(link)?;
        let receiver = UdpReceiver::start(&rig.net.b, target, 6000, 1)?;
        let sent = UdpSender::new(target, 6000).rate(20_000.0).send(&rig.net.a, 1000)?;
        receiver.wait_for(sent.sent, Duration::from_secs(1));
        check(receiver.finish()?.total().received == 1000, || format!("packets were lost on the way over {link}"))?;
        let through = taken(link)? - before;
        check(through >= 1000, || format!("after the change to {gateway} only {through} packets took {link}"))?;
    }
    Ok(())
}

fn an_ordinary_user_runs_the_router(lab: Lab) -> Result<()> {
    as_ordinary_user(lab, "pings_pass_in_both_directions_and_lose_one_hop_of_life")
}

fn udp_at_full_speed_arrives_once_and_whole(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    for payload in [18, 512, 1472] {
        let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, 4000, 4)?;
        let sender = UdpSender::new(TwoHosts::B, 4000).flows(4).payload(payload).window(receiver.window());
        let sent = sender.send(&rig.net.a, 200_000)?;
        receiver.wait_for(sent.sent, Duration::from_secs(1));
        let got = receiver.finish()?;
        let t = got.total();
        println!("{payload} bytes: {:.0} packets a second", sent.sent as f64 / sent.seconds);
        let missed = rig.missed()?;
        check(
            t.received + missed >= sent.sent && (t.duplicates, t.corrupt, t.reordered, got.foreign) == (0, 0, 0, 0),
            || format!("{payload} bytes: {sent:?} {got:?} {:?}", rig.router.ok(&["netstat", "-d"])),
        )?;
    }
    rig.balanced()
}

fn tcp_arrives_whole_with_and_without_offloads(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut port = 5000;
    for offloads in [Offloads::ALL, Offloads::NONE] {
        for (host, link) in [(&rig.net.a, "eth0"), (&rig.net.b, "eth0")] {
            host.set_offloads(link, offloads)?;
        }
        for (from, to, ip) in [(&rig.net.a, &rig.net.b, TwoHosts::B), (&rig.net.b, &rig.net.a, TwoHosts::A)] {
            port += 1;
            let report = transfer(from, to, ip, port, Amount::Bytes(32 << 20))?;
            println!("{offloads:?}: {:.2} Gbit/s, {} retransmits", report.bits_per_second() / 1e9, report.retransmits);
            check(report.clean(), || format!("{offloads:?}: {report:?}"))?;
        }
    }
    rig.balanced()
}
