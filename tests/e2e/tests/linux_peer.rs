//! vlan and gif against Linux's own 8021q and ipip: a guest with a kernel that has them routes between A and smpnet.
//!
//! ```text
//!  A plain  10.0.4.2 ---- 10.0.4.1 eth1  P eth0 10.0.1.2 ---- 10.0.1.1 left  R  right ---- eth0 B 10.0.2.2
//!    tagged 10.0.5.2 ---- 10.0.5.1 eth2    eth0.10 10.0.10.2 - 10.0.10.1 vlan0                    10.0.2.3
//!    inside 10.0.6.2 ---- 10.0.6.1 eth3    tunl1    10.0.7.2 - 10.0.7.1 gif0                      10.0.2.4
//! ```
//! A reaches B's three addresses over the three ways, and B reaches A's.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use smpnet_e2e::{Rig, does_not_reach, reaches};
use smpnet_lab::{
    Amount, Capture, Frame, Guest, Host, Ipv4View, Lab, MTU, Peer, Ping, Result, TwoHosts, UdpReceiver, UdpSender,
    VethEnd, check, craft, ipv4, mac, run_tests, tests, traceroute, transfer, veth,
};

const SECOND: Duration = Duration::from_secs(1);
/// P's address on the way that is neither tagged nor tunnelled.
const P: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const P_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 2);
const P_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 2);
const R_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 0, 10, 1);
const R_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 1);
const A_PLAIN: Ipv4Addr = Ipv4Addr::new(10, 0, 4, 2);
const A_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 0, 5, 2);
const A_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 6, 2);
const B_TAGGED: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const B_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);

fn main() -> ExitCode {
    run_tests(&tests![
        a_vlan_and_linux_8021q_understand_each_other,
        a_gif_tunnel_and_linux_ipip_understand_each_other,
        a_gif_tunnel_treats_ecn_as_linux_ipip_does,
    ])
}

/// The net of the drawing: the guest runs `script` once its plain ways are up, smpnet has `config` beside its ports.
fn through_linux(lab: Lab, script: &str, config: &str) -> Result<(Rig, Peer)> {
    let net = TwoHosts { a: Host::new(lab, "A")?, r: Host::new(lab, "R")?, b: Host::new(lab, "B")? };
    let mut peer = Guest::new()
        .module("8021q")
        .module("ipip")
        .program("ip")
        .nic(&net.r, "left", mac(1, 2))
        .nic(&net.a, "plain", mac(4, 1))
        .nic(&net.a, "tagged", mac(5, 1))
        .nic(&net.a, "inside", mac(6, 1))
        .boot()?;
    println!("the guest was ready in {:.1} s", peer.boot_time.as_secs_f64());
    net.r.set_mac("left", mac(1, 1))?;
    let end = |host, name, station| VethEnd { host, name, mac: mac(2, station) };
    veth(&end(&net.r, "right", 1), &end(&net.b, "eth0", 2), MTU)?;
    for b in [TwoHosts::B, B_TAGGED, B_INSIDE] {
        net.b.add_addr("eth0", b, 24)?;
    }
    net.b.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_RIGHT)?;
    for (link, subnet) in [("plain", 4), ("tagged", 5), ("inside", 6)] {
        net.a.add_addr(link, [10, 0, subnet, 2].into(), 24)?;
    }
    net.a.add_route(Ipv4Addr::UNSPECIFIED, 0, [10, 0, 4, 1].into())?;
    net.a.add_route(B_TAGGED, 32, [10, 0, 5, 1].into())?;
    net.a.add_route(B_INSIDE, 32, [10, 0, 6, 1].into())?;
    peer.ok(&format!(
        "set -e
         echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
         echo 1 > /proc/sys/net/ipv4/ip_forward
         for i in 0 1 2 3; do ip link set eth$i up; done
         ip addr add {P}/24 dev eth0
         for i in 1 2 3; do ip addr add 10.0.$((i + 3)).1/24 dev eth$i; done
         ip route add default via {}
         {script}",
        TwoHosts::R_LEFT
    ))?;
    let config = format!("{}{config}\n[[route]]\nto = \"10.0.4.0/24\"\nvia = \"{P}\"\n", net.ports(""));
    Ok((Rig::with(net, &config)?, peer))
}

fn with_vlan(lab: Lab) -> Result<(Rig, Peer)> {
    let script = format!(
        "ip link add link eth0 name eth0.10 type vlan id 10 egress-qos-map 0:3
         ip addr add {P_TAGGED}/24 dev eth0.10
         ip link set eth0.10 up
         ip route add {B_TAGGED}/32 via {R_TAGGED}"
    );
    let config = format!(
        "[[interface]]\nname = \"vlan0\"\nkind = \"vlan\"\n\
         options = {{ parent = \"left0\", id = 10, priority = 5 }}\naddresses = [\"{R_TAGGED}/24\"]\n\n\
         [[route]]\nto = \"10.0.5.0/24\"\nvia = \"{P_TAGGED}\"\n"
    );
    through_linux(lab, &script, &config)
}

fn with_gif(lab: Lab) -> Result<(Rig, Peer)> {
    let script = format!(
        "ip link add tunl1 type ipip local {P} remote {r}
         ip addr add {P_INSIDE}/30 dev tunl1
         ip link set tunl1 up
         ip route add {B_INSIDE}/32 dev tunl1",
        r = TwoHosts::R_LEFT
    );
    let gif = |name: &str, remote: Ipv4Addr| {
        format!(
            "[[interface]]\nname = \"{name}\"\nkind = \"gif\"\noptions = {{ local = \"{}\", remote = \"{remote}\" }}\n",
            TwoHosts::R_LEFT
        )
    };
    let config = format!(
        "{}addresses = [\"{R_INSIDE}/30\"]\n\n{}\n[[route]]\nto = \"10.0.6.0/24\"\ndev = \"gif0\"\n",
        gif("gif0", P),
        gif("gif1", A_PLAIN),
    );
    through_linux(lab, &script, &config)
}

fn a_vlan_and_linux_8021q_understand_each_other(lab: Lab) -> Result<()> {
    let (rig, mut peer) = with_vlan(lab)?;
    let wire = Capture::open(&rig.net.r, "left")?;
    peer.ok(&format!("ping -c 3 -i 0.1 {R_TAGGED}"))?;
    reaches(&rig.net.b, P_TAGGED)?;
    pings_of_all_sizes(&rig, A_TAGGED, B_TAGGED)?;
    datagrams_arrive(&rig.net.a, &rig.net.b, B_TAGGED)?;
    datagrams_arrive(&rig.net.b, &rig.net.a, A_TAGGED)?;

    // Linux sends with the priority of its map, smpnet with its own, and each takes the other's.
    let tagged = |f: &Frame, tci: u16, to: Ipv4Addr| {
        f.bytes[12..16] == [0x81, 0x00, (tci >> 8) as u8, tci as u8]
            && f.bytes[16..18] == [8, 0]
            && ipv4(&f.bytes[18..]).is_some_and(|p| p.dst == to)
    };
    wire.wait("a frame of Linux with priority 3", SECOND, |f| !f.outgoing && tagged(f, 3 << 13 | 10, B_TAGGED))?;
    wire.wait("a frame of smpnet with priority 5", SECOND, |f| f.outgoing && tagged(f, 5 << 13 | 10, A_TAGGED))?;

    let report = transfer(&rig.net.a, &rig.net.b, B_TAGGED, 5001, Amount::Bytes(1 << 20))?;
    check(report.clean(), || format!("TCP to B: {report:?}"))?;
    let report = transfer(&rig.net.b, &rig.net.a, A_TAGGED, 5001, Amount::Bytes(1 << 20))?;
    check(report.clean(), || format!("TCP to A: {report:?}"))?;

    // A frame of 1,518 bytes: the tag is not part of the MTU.
    for (host, to) in [(&rig.net.a, B_TAGGED), (&rig.net.b, A_TAGGED)] {
        let full = Ping::to(to).payload(1472).dont_fragment().run(host)?;
        check(full.clean(), || format!("1,500 bytes with DF to {to}: {full:?}"))?;
    }
    peer.ok("ip link set eth0.10 mtu 1300")?;
    needs_fragments(&rig.net.a, B_TAGGED, 1301, ([10, 0, 5, 1].into(), 1300))?;
    rig.router.ok(&["ifconfig", "vlan0", "mtu", "1400"])?;
    needs_fragments(&rig.net.b, A_TAGGED, 1401, (TwoHosts::R_RIGHT, 1400))?;
    let whole = Ping::to(A_TAGGED).payload(1472).run(&rig.net.b)?;
    check(whole.clean(), || format!("1,500 bytes in fragments of 1,400 and 1,300: {whole:?}"))?;

    // A frame with VLAN 0 has a priority and no VLAN; the answer has no tag.
    peer.ok(&format!(
        "set -e
         ip link add link eth0 name eth0.0 type vlan id 0 egress-qos-map 0:6
         ip addr del {P}/24 dev eth0
         ip link set eth0.0 up
         ip addr add {P}/24 dev eth0.0
         ip neigh add {0} lladdr 02:00:00:00:01:01 dev eth0.0 nud permanent
         ping -c 3 -i 0.1 {0}",
        TwoHosts::R_LEFT
    ))?;
    wire.wait("a priority-tagged frame", SECOND, |f| !f.outgoing && tagged(f, 6 << 13, TwoHosts::R_LEFT))?;

    rig.router.ok(&["ifconfig", "vlan0", "destroy"])?;
    does_not_reach(&rig.net.a, B_TAGGED)?;
    rig.balanced()
}

fn a_gif_tunnel_and_linux_ipip_understand_each_other(lab: Lab) -> Result<()> {
    let (rig, mut peer) = with_gif(lab)?;
    peer.ok(&format!("ping -c 3 -i 0.1 {R_INSIDE}"))?;
    reaches(&rig.net.b, P_INSIDE)?;
    pings_of_all_sizes(&rig, A_INSIDE, B_INSIDE)?;
    datagrams_arrive(&rig.net.a, &rig.net.b, B_INSIDE)?;
    datagrams_arrive(&rig.net.b, &rig.net.a, A_INSIDE)?;
    let report = transfer(&rig.net.a, &rig.net.b, B_INSIDE, 5001, Amount::Bytes(1 << 20))?;
    check(report.clean(), || format!("TCP to B: {report:?}"))?;
    let report = transfer(&rig.net.b, &rig.net.a, A_INSIDE, 5001, Amount::Bytes(1 << 20))?;
    check(report.clean(), || format!("TCP to A: {report:?}"))?;

    // The tunnel is one hop, whatever lies between its ends. (P answers B by the way that it has to B's first address.)
    for (host, to, way) in [
        (&rig.net.a, B_INSIDE, [[10, 0, 6, 1].into(), R_INSIDE, B_INSIDE]),
        (&rig.net.b, A_INSIDE, [TwoHosts::R_RIGHT, P, A_INSIDE]),
    ] {
        let hops = traceroute(host, to, 6)?;
        check(hops.iter().map(|h| h.from).eq(way.map(Some)), || format!("{hops:?}"))?;
    }
    // Linux gives the outer header the inner one's time to live, gif one of its own; neither touches the inner one again.
    let wire = Capture::open(&rig.net.r, "left")?;
    let ping = Ping::to(B_INSIDE).ttl(40).count(1).run(&rig.net.a)?;
    check(ping.clean() && ping.ttl == 62, || format!("{ping:?}"))?;
    let lives = |f: &Frame, to: Ipv4Addr| {
        let outer = f.ipv4().filter(|p| p.protocol == 4)?;
        ipv4(outer.payload).filter(|p| p.dst == to).map(|inner| (outer.ttl, inner.ttl, outer.fragment))
    };
    // Linux forbids that the outer packet is cut, as its MTU is found out, and gif allows it.
    wire.wait("the request", SECOND, |f| lives(f, B_INSIDE) == Some((39, 39, 0x4000)))?;
    wire.wait("the answer", SECOND, |f| lives(f, A_INSIDE) == Some((30, 63, 0)))?;

    // What is too long for the tunnel is cut, or its sender hears of it.
    needs_fragments(&rig.net.a, B_INSIDE, 1481, ([10, 0, 6, 1].into(), 1480))?;
    needs_fragments(&rig.net.b, A_INSIDE, 1281, (TwoHosts::R_RIGHT, 1280))?;
    let whole = Ping::to(A_INSIDE).payload(1472).run(&rig.net.b)?;
    check(whole.clean(), || format!("1,500 bytes in fragments: {whole:?}"))?;

    // With the link's MTU on both ends the outer packets are cut instead, and put together by the other end.
    rig.router.ok(&["ifconfig", "gif0", "mtu", "1500"])?;
    peer.ok("ip link set tunl1 type ipip nopmtudisc && ip link set tunl1 mtu 1500 && ip route flush cache")?;
    forget_path_mtu(&rig.net.a)?;
    forget_path_mtu(&rig.net.b)?;
    let ping = Ping::to(A_INSIDE).payload(1472).dont_fragment().run(&rig.net.b)?;
    check(ping.clean(), || format!("1,500 bytes in outer fragments to A: {ping:?}"))?;
    // Linux copies the inner DF outwards, so that only packets without it are cut there.
    let ping = Ping::to(B_INSIDE).payload(1472).run(&rig.net.a)?;
    check(ping.clean(), || format!("1,500 bytes in outer fragments to B: {ping:?}"))?;
    let first_fragment = |f: &Frame, out: bool| {
        f.outgoing == out && f.ipv4().is_some_and(|p| p.protocol == 4 && p.fragment & 0x3fff == 0x2000)
    };
    let frames = wire.collect(Duration::from_millis(300))?;
    for (who, out) in [("Linux", false), ("smpnet", true)] {
        check(frames.iter().any(|f| first_fragment(f, out)), || format!("{who} sent no outer fragment"))?;
    }
    rig.router.ok(&["ifconfig", "gif0", "destroy"])?;
    does_not_reach(&rig.net.a, B_INSIDE)?;
    rig.balanced()
}

fn a_gif_tunnel_treats_ecn_as_linux_ipip_does(lab: Lab) -> Result<()> {
    let (rig, peer) = with_gif(lab)?;
    reaches(&rig.net.a, B_INSIDE)?;
    let (towards_linux, from_linux) = (Capture::open(&rig.net.r, "left")?, Capture::open(&rig.net.a, "inside")?);
    let (towards_us, from_us) = (Capture::open(&rig.net.a, "plain")?, Capture::open(&rig.net.b, "eth0")?);
    let mut differ = String::new();
    for (number, (outer, inner)) in (0..4u8).flat_map(|o| (0..4u8).map(move |i| (o, i))).enumerate() {
        let mark = [0xec, number as u8, outer, inner];
        let packet = |ends: (Ipv4Addr, Ipv4Addr), within: (Ipv4Addr, Ipv4Addr)| {
            let datagram = craft::udp(7, 9, &mark);
            let inside = craft::with_tos(craft::ip(within.0, within.1, 17, 64, &[], &datagram), 0x28 | inner);
            craft::with_tos(craft::ip(ends.0, ends.1, 4, 64, &[], &inside), 0xb8 | outer)
        };
        let linux = packet((TwoHosts::R_LEFT, P), (TwoHosts::B, A_INSIDE));
        towards_linux.send(&craft::ether(mac(1, 2), mac(1, 1), 0x0800, &linux))?;
        let ours = packet((A_PLAIN, TwoHosts::R_LEFT), (A_INSIDE, TwoHosts::B));
        towards_us.send(&craft::ether(mac(4, 1), mac(4, 2), 0x0800, &ours))?;
        // RFC 6040 drops one combination: congestion that the sender cannot be told of.
        let dropped = (outer, inner) == (3, 0);
        let patience = Duration::from_millis(if dropped { 200 } else { 2000 });
        let arrived = |capture: &Capture| {
            let it = |p: &Ipv4View<'_>| p.protocol == 17 && p.payload.ends_with(&mark);
            let frame = capture.wait("packet", patience, |f| !f.outgoing && f.ipv4().is_some_and(|p| it(&p)));
            frame.map(|f| f.bytes[15]).ok()
        };
        let (theirs, mine) = (arrived(&from_linux), arrived(&from_us));
        if theirs != mine {
            differ += &format!("outer {outer} inner {inner}: Linux {theirs:02x?}, smpnet {mine:02x?}\n");
        }
        if theirs.is_none() != dropped {
            differ += &format!("outer {outer} inner {inner}: Linux {theirs:02x?}\n");
        }
    }
    check(differ.is_empty(), || differ)?;
    drop(peer);
    rig.balanced()
}

/// Pings from A to `b` and from B to `a`, up to what takes many fragments.
fn pings_of_all_sizes(rig: &Rig, a: Ipv4Addr, b: Ipv4Addr) -> Result<()> {
    for (host, to) in [(&rig.net.a, b), (&rig.net.b, a)] {
        for payload in [8, 56, 1200, 1472, 20_000] {
            let report = Ping::to(to).payload(payload).run(host)?;
            check(report.clean() && report.ttl == 62, || format!("{payload} bytes to {to}: {report:?}"))?;
        }
    }
    Ok(())
}

/// Datagrams of several flows, all of which arrive in order and whole.
fn datagrams_arrive(from: &Host, to: &Host, address: Ipv4Addr) -> Result<()> {
    for payload in [18, 1200] {
        let receiver = UdpReceiver::start(to, address, 6000, 4)?;
        let sent = UdpSender::new(address, 6000).flows(4).payload(payload).rate(4000.0).send(from, 2000)?;
        receiver.wait_for(sent.sent, Duration::from_secs(2));
        let got = receiver.finish()?.total();
        check(got.received == sent.sent && (got.duplicates, got.reordered, got.corrupt) == (0, 0, 0), || {
            format!("{payload} bytes to {address}: {sent:?} {got:?}")
        })?;
    }
    Ok(())
}

/// Makes a host forget what it learned of its ways.
fn forget_path_mtu(host: &Host) -> Result<()> {
    host.sysctl("net/ipv4/route/flush", "1")
}

/// A packet of `bytes` with DF is too long by one byte, and `answer` says so with the MTU; one byte less passes.
fn needs_fragments(host: &Host, to: Ipv4Addr, bytes: usize, answer: (Ipv4Addr, u32)) -> Result<()> {
    forget_path_mtu(host)?;
    let fits = Ping::to(to).payload(bytes - 29).dont_fragment().count(1).run(host)?;
    check(fits.clean(), || format!("{} bytes to {to}: {fits:?}", bytes - 1))?;
    let long = Ping::to(to).payload(bytes - 28).dont_fragment().count(1).run(host)?;
    check(long.errors.iter().any(|e| (e.kind, e.code, e.from, e.extra) == (3, 4, answer.0, answer.1)), || {
        format!("{bytes} bytes to {to}: {long:?}")
    })
}
