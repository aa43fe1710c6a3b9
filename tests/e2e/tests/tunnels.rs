//! vlan and gif, against frames made by hand; `linux_peer` has them against the Linux kernel.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use smpnet_e2e::{Rig, reaches};
use smpnet_lab::{Capture, Lab, LabError, Ping, Result, TwoHosts, check, craft, ipv4, mac, run_tests, tests};

const SECOND: Duration = Duration::from_secs(1);
const VLAN: &str = "[[interface]]\nname = \"vlan0\"\nkind = \"vlan\"\noptions = { parent = \"left0\", id = 10 }\n\
                    addresses = [\"10.0.10.1/24\"]\n";
const GIF: &str = "[[interface]]\nname = \"gif0\"\nkind = \"gif\"\noptions = { local = \"10.0.1.1\", remote = \"10.0.1.2\" }\n\
                   addresses = [\"10.0.7.1/30\"]\n";

fn main() -> ExitCode {
    run_tests(&tests![
        a_vlan_takes_and_gives_tagged_frames,
        another_vlan_id_is_dropped_with_its_reason,
        a_gif_tunnel_takes_and_gives_ip_in_ip,
        an_unknown_tunnel_is_dropped_with_its_reason,
        an_error_in_the_tunnel_reaches_the_inner_sender,
        the_path_mtu_of_a_tunnel_is_learned_and_told_to_the_inner_sender,
    ])
}

fn a_vlan_takes_and_gives_tagged_frames(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, VLAN)?;
    let (ours, host) = (Ipv4Addr::new(10, 0, 10, 1), Ipv4Addr::new(10, 0, 10, 2));
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let tag = [0x81, 0x00, 0x00, 0x0a];
    // The address is ours only after its probes.
    let mut reply = Err(LabError::Failed(String::new()));
    for _ in 0..10 {
        let ask = craft::arp(1, (mac(1, 2), host), ([0; 6], ours));
        wire.send(&craft::tagged([0xff; 6], mac(1, 2), 10, 0x0806, &ask))?;
        let is_reply = |f: &smpnet_lab::Frame| {
            f.bytes[12..16] == tag && f.bytes[16..24] == [8, 6, 0, 1, 8, 0, 6, 4] && f.bytes[25] == 2
        };
        reply = wire.wait("tagged ARP reply", SECOND, is_reply);
        if reply.is_ok() {
            break;
        }
    }
    let reply = reply?;
    check(reply.bytes[..6] == mac(1, 2) && reply.bytes[32..36] == ours.octets(), || format!("{reply:?}"))?;
    let ping = craft::ip(host, ours, 1, 64, &[], &craft::echo(7, 1, b"through a vlan"));
    wire.send(&craft::tagged(mac(1, 1), mac(1, 2), 10, 0x0800, &ping))?;
    wire.wait("tagged echo reply", SECOND, |f| {
        f.bytes[12..16] == tag
            && ipv4(&f.bytes[18..]).is_some_and(|p| p.payload.first() == Some(&0) && p.payload.ends_with(b"vlan"))
    })?;
    // And through it to another host: the tag is gone there.
    let far = Capture::open(&rig.net.b, "eth0")?;
    let packet = craft::ip(host, TwoHosts::B, 17, 64, &[], &craft::udp(7, 9, b"from a vlan"));
    wire.send(&craft::tagged(mac(1, 1), mac(1, 2), 10, 0x0800, &packet))?;
    far.wait("the packet without a tag", SECOND, |f| {
        f.ipv4().is_some_and(|p| p.ttl == 63 && p.payload.ends_with(b"from a vlan"))
    })?;
    rig.balanced()
}

fn another_vlan_id_is_dropped_with_its_reason(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, VLAN)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let packet = craft::ip([10, 0, 10, 2].into(), [10, 0, 10, 1].into(), 1, 64, &[], &craft::echo(7, 1, b"x"));
    wire.send(&craft::tagged(mac(1, 1), mac(1, 2), 20, 0x0800, &packet))?;
    std::thread::sleep(Duration::from_millis(100));
    check(rig.drops("vlan_unknown")? == 1, || "vlan_unknown did not count".into())?;
    rig.router.fails(&["ifconfig", "vlan9", "create", "vlan", "4095", "vlanif", "left0"])?;
    rig.router.fails(&["ifconfig", "vlan9", "create", "vlan", "10", "vlanif", "left0"])?;
    rig.balanced()
}

fn a_gif_tunnel_takes_and_gives_ip_in_ip(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, &format!("{GIF}\n[[route]]\nto = \"10.8.0.0/16\"\ndev = \"gif0\"\n"))?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let inner_host = Ipv4Addr::new(10, 8, 0, 2);
    // An echo request from behind the tunnel to B; the answer must come back inside the tunnel.
    let inner = craft::ip(inner_host, TwoHosts::B, 1, 64, &[], &craft::echo(7, 1, b"inside"));
    let outer = craft::ip(TwoHosts::A, TwoHosts::R_LEFT, 4, 64, &[], &inner);
    wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &outer))?;
    wire.wait("answer in the tunnel", SECOND, |f| {
        let Some(outer) = f.ipv4().filter(|p| !f.outgoing && p.protocol == 4) else { return false };
        let ends = outer.src == TwoHosts::R_LEFT && outer.dst == TwoHosts::A;
        ends && ipv4(outer.payload).is_some_and(|p| {
            p.src == TwoHosts::B
                && p.dst == inner_host
                && p.payload.first() == Some(&0)
                && p.payload.ends_with(b"inside")
        })
    })?;
    rig.balanced()
}

fn an_unknown_tunnel_is_dropped_with_its_reason(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, GIF)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let inner = craft::ip([10, 8, 0, 2].into(), TwoHosts::B, 1, 64, &[], &craft::echo(7, 1, b"inside"));
    let outer = craft::ip([10, 0, 1, 66].into(), TwoHosts::R_LEFT, 4, 64, &[], &inner);
    wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &outer))?;
    std::thread::sleep(Duration::from_millis(100));
    check(rig.drops("encap_unknown")? == 1, || "encap_unknown did not count".into())?;
    // The other end must be that of the tunnel, and a tunnel to the same ends is refused.
    rig.router.fails(&["ifconfig", "gif1", "create", "tunnel", "10.0.1.1", "10.0.1.2"]).map(drop)
}

/// A tunnel to A that is the way to 10.8.0.0/16, which B uses.
fn tunnel_to_a(lab: Lab) -> Result<Rig> {
    let gif = GIF.replace("remote = ", "pmtu = true, remote = ");
    let rig = Rig::start(lab, &format!("{gif}\n[[route]]\nto = \"10.8.0.0/16\"\ndev = \"gif0\"\n"))?;
    rig.net.b.add_route([10, 8, 0, 0].into(), 16, TwoHosts::R_RIGHT)?;
    Ok(rig)
}

fn path_errors(rig: &Rig) -> Result<u64> {
    let all = rig.router.client().get("/v1/interfaces")?;
    let gif = all.as_array().into_iter().flatten().find(|i| i["name"] == "gif0");
    Ok(gif.and_then(|i| i["counters"]["path_errors"].as_u64()).unwrap_or(0))
}

fn an_error_in_the_tunnel_reaches_the_inner_sender(lab: Lab) -> Result<()> {
    let rig = tunnel_to_a(lab)?;
    // A knows of no tunnel, and its kernel says so.
    let report = Ping::to([10, 8, 0, 2].into()).count(2).timeout(SECOND).run(&rig.net.b)?;
    check(report.errors.iter().any(|e| (e.kind, e.code) == (3, 1)), || format!("{report:?}"))?;
    check(path_errors(&rig)? > 0, || "path_errors did not count".into())?;
    rig.balanced()
}

fn the_path_mtu_of_a_tunnel_is_learned_and_told_to_the_inner_sender(lab: Lab) -> Result<()> {
    let rig = tunnel_to_a(lab)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let ping = Ping::to([10, 8, 0, 2].into()).payload(1100).dont_fragment().timeout(SECOND);
    ping.clone().count(1).run(&rig.net.b)?;
    let sent = wire.wait("the packet in the tunnel", SECOND, |f| {
        f.ipv4().is_some_and(|p| p.protocol == 4) && f.bytes.get(20) == Some(&0x40)
    })?;
    // A router between the ends says that only 1000 bytes pass.
    let error = craft::icmp_error(3, 4, 1000, &sent.bytes[14..14 + 48]);
    let error = craft::ip(TwoHosts::A, TwoHosts::R_LEFT, 1, 64, &[], &error);
    wire.send(&craft::ether(mac(1, 1), mac(1, 2), 0x0800, &error))?;
    rig.wait(&["sysctl", "net.inet.ip.pathmtu"], SECOND, |v| v.to_string().contains("10.0.1.2 1000"))?;
    let report = ping.count(2).interval(Duration::from_millis(100)).run(&rig.net.b)?;
    check(report.errors.iter().any(|e| (e.kind, e.code, e.extra) == (3, 4, 980)), || format!("{report:?}"))?;
    check(report.too_large > 0, || format!("B's kernel did not learn: {report:?}"))?;
    rig.balanced()
}
