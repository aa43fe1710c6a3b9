//! ARP against the Linux kernel (RFC 826, RFC 5227).

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use smpnet_e2e::{Rig, elements, reaches};
use smpnet_lab::{Capture, Lab, Ping, Result, TwoHosts, check, mac, run_tests, tests};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_tests(&tests![
        linux_and_smpnet_resolve_each_other,
        a_static_entry_is_used_without_asking,
        flushed_neighbours_are_learned_again,
        a_published_entry_is_answered_for_another_host,
        a_new_address_is_probed_and_announced,
        an_address_that_linux_has_is_found_duplicated,
        nobody_there_brings_host_unreachable,
        a_neighbour_that_changed_its_address_is_followed,
        linux_follows_a_new_address_of_smpnet,
        the_kernel_of_the_router_does_not_answer_in_our_place,
    ])
}

/// smpnet's entry for a neighbour.
fn entry(rig: &Rig, ip: Ipv4Addr) -> Result<Option<(String, String)>> {
    let all = rig.router.json(&["arp", "-a"])?;
    let found = elements(&all).iter().find(|e| e["address"] == ip.to_string());
    let text = |e: &serde_json::Value, key: &str| e[key].as_str().unwrap_or_default().to_string();
    Ok(found.map(|e| (text(e, "mac"), text(e, "state"))))
}

fn linux_and_smpnet_resolve_each_other(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let linux = rig.net.a.neighbour("eth0", TwoHosts::R_LEFT)?;
    check(linux.as_ref().is_some_and(|n| n.mac == Some(mac(1, 1))), || format!("Linux: {linux:?}"))?;
    // Learned from Linux's own request it is proved reachable by a probe, five seconds later.
    rig.wait(&["arp", "-a"], Duration::from_secs(12), |all| {
        let ours = elements(all).iter().find(|e| e["address"] == TwoHosts::A.to_string());
        ours.is_some_and(|e| e["mac"] == "02:00:00:00:01:02" && e["state"] == "reachable")
    })
    .map(drop)
}

fn a_static_entry_is_used_without_asking(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let ghost = Ipv4Addr::new(10, 0, 1, 77);
    rig.router.ok(&["arp", "-s", "10.0.1.77", "02:00:00:00:01:4d"])?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    Ping::to(ghost).count(1).timeout(Duration::from_millis(200)).run(&rig.net.b)?;
    let frame = wire.wait("packet for the ghost", SECOND, |f| {
        f.ipv4().is_some_and(|p| p.dst == ghost) || f.arp().is_some_and(|a| a.target == ghost)
    })?;
    check(frame.bytes[..6] == mac(1, 77), || format!("{frame:?}"))?;
    check(entry(&rig, ghost)?.is_some_and(|(_, state)| state == "permanent"), || "not permanent".into())?;
    rig.router.ok(&["arp", "-d", "-a"])?;
    check(entry(&rig, ghost)?.is_some(), || "a flush of what was learned removed a permanent entry".into())?;
    rig.router.ok(&["arp", "-d", "10.0.1.77"])?;
    check(entry(&rig, ghost)?.is_none(), || "the entry is still there".into())
}

fn flushed_neighbours_are_learned_again(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    for _ in 0..20 {
        reaches(&rig.net.a, TwoHosts::B)?;
        rig.router.ok(&["arp", "-d", "-a"])?;
        check(entry(&rig, TwoHosts::B)?.is_none(), || "still there after the flush".into())?;
    }
    reaches(&rig.net.b, TwoHosts::A)?;
    rig.balanced()
}

fn a_published_entry_is_answered_for_another_host(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let proxied = Ipv4Addr::new(10, 0, 1, 200);
    let before = Ping::to(proxied).count(1).timeout(Duration::from_millis(100)).run(&rig.net.a)?;
    check(before.received == 0, || "somebody answers already".into())?;
    rig.net.a.delete_neighbour("eth0", proxied).ok();
    rig.router.ok(&["arp", "-s", "10.0.1.200", "02:00:00:00:01:01", "pub"])?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    Ping::to(proxied).count(1).timeout(Duration::from_millis(100)).run(&rig.net.a)?;
    let reply = wire.wait("ARP reply for the proxied address", SECOND, |f| {
        f.arp().is_some_and(|a| a.op == 2 && a.sender == proxied)
    })?;
    check(reply.arp().is_some_and(|a| a.sender_mac == mac(1, 1)), || format!("{reply:?}"))
}

fn a_new_address_is_probed_and_announced(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let new = Ipv4Addr::new(10, 0, 5, 1);
    let wire = Capture::open(&rig.net.a, "eth0")?;
    rig.router.ok(&["sysctl", "-w", "net.inet.ip.dad_count=3"])?;
    rig.router.ok(&["ifconfig", "left0", "10.0.5.1/24", "alias"])?;
    let patience = Duration::from_secs(10);
    wire.wait("probe", patience, |f| {
        f.arp().is_some_and(|a| (a.op, a.sender, a.target) == (1, Ipv4Addr::UNSPECIFIED, new))
    })?;
    wire.wait("announcement", patience, |f| f.arp().is_some_and(|a| (a.op, a.sender, a.target) == (1, new, new)))?;
    rig.net.a.add_addr("eth0", [10, 0, 5, 2].into(), 24)?;
    reaches(&rig.net.a, new)
}

fn an_address_that_linux_has_is_found_duplicated(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    rig.net.a.add_addr("eth0", [10, 0, 6, 1].into(), 24)?;
    rig.router.ok(&["sysctl", "-w", "net.inet.ip.dad_count=3"])?;
    rig.router.ok(&["ifconfig", "left0", "10.0.6.1/24", "alias"])?;
    let state = |all: &serde_json::Value, address: &str| {
        let interfaces = elements(all).iter().flat_map(|i| elements(&i["addresses"]));
        interfaces.filter(|a| a["address"] == address).find_map(|a| a["state"].as_str().map(String::from))
    };
    let patience = Duration::from_secs(10);
    rig.wait(&["ifconfig"], patience, |all| state(all, "10.0.6.1/24").as_deref() == Some("duplicated"))?;
    let all = rig.router.json(&["ifconfig"])?;
    check(state(&all, "10.0.1.1/24").as_deref() == Some("preferred"), || format!("the other address suffered: {all}"))?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn nobody_there_brings_host_unreachable(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let report = Ping::to(Ipv4Addr::new(10, 0, 1, 99)).count(1).timeout(Duration::from_secs(8)).run(&rig.net.b)?;
    check(report.errors.iter().any(|e| (e.kind, e.code, e.from) == (3, 1, TwoHosts::R_RIGHT)), || {
        format!("{report:?}")
    })?;
    check(rig.drops("arp_unresolved")? >= 1, || "arp_unresolved did not count".into())?;
    rig.balanced()
}

fn a_neighbour_that_changed_its_address_is_followed(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.net.a.set_up("eth0", false)?;
    rig.net.a.set_mac("eth0", mac(1, 66))?;
    rig.net.a.set_up("eth0", true)?;
    rig.net.a.add_route(Ipv4Addr::UNSPECIFIED, 0, TwoHosts::R_LEFT)?;
    // The host asks for its gateway, and that tells its new address.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !Ping::to(TwoHosts::B).count(1).timeout(Duration::from_millis(200)).run(&rig.net.a)?.clean() {
        check(std::time::Instant::now() < deadline, || format!("{:?}", entry(&rig, TwoHosts::A)))?;
    }
    check(entry(&rig, TwoHosts::A)?.is_some_and(|(m, _)| m == "02:00:00:00:01:42"), || "the old address is kept".into())
}

fn linux_follows_a_new_address_of_smpnet(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    rig.router.ok(&["ifconfig", "left0", "link", "02:00:00:00:01:63", "active"])?;
    let told = |f: &smpnet_lab::Frame| f.arp().is_some_and(|a| a.sender == TwoHosts::R_LEFT && a.target == a.sender);
    let frame = wire.wait("announcement", SECOND, told)?;
    check(frame.bytes[6..12] == mac(1, 99), || format!("{frame:?}"))?;
    // The announcement alone makes Linux send to the new address.
    reaches(&rig.net.a, TwoHosts::B)?;
    let linux = rig.net.a.neighbour("eth0", TwoHosts::R_LEFT)?;
    check(linux.as_ref().is_some_and(|n| n.mac == Some(mac(1, 99))), || format!("Linux: {linux:?}"))?;
    rig.router.ok(&["ifconfig", "left0", "promisc", "multicast", "01:00:5e:00:00:05", "allmulti"])?;
    let port = rig.router.json(&["ifconfig", "left0"])?;
    let device = &port["status"];
    check(
        port["promisc"] == true
            && device["promisc"] == true
            && device["all_multicast"] == true
            && device["multicast"] == 1,
        || format!("the device was not told: {port}"),
    )?;
    rig.router.ok(&["ifconfig", "left0", "-link", "-promisc", "-multicast", "01:00:5e:00:00:05", "-allmulti"])?;
    let port = rig.router.json(&["ifconfig", "left0"])?;
    check(port["mac"] == "02:00:00:00:01:01" && port["status"]["promisc"] == false, || format!("{port}"))?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn the_kernel_of_the_router_does_not_answer_in_our_place(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    // The kernel has the same address on the same device and forwards: smpnet must be the only one that answers.
    net.route_with_linux()?;
    let config = net.ports("");
    let rig = Rig::with(net, &config)?;
    let wire = Capture::open(&rig.net.a, "eth0")?;
    let report = Ping::to(TwoHosts::B).count(20).run(&rig.net.a)?;
    check(report.clean(), || format!("answers came twice or not at all: {report:?}"))?;
    let echoes = wire.collect(Duration::from_millis(200))?;
    let replies = echoes.iter().filter(|f| f.ipv4().is_some_and(|p| p.protocol == 1 && p.payload.first() == Some(&0)));
    check(replies.count() == 20, || "somebody else answered too".into())
}
