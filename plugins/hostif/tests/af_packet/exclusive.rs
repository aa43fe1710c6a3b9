//! The kernel's own stack and a device that smpnet owns.

use super::*;

/// Whether the kernel of R answers ARP and ping from A.
fn kernel_answers(net: &One) -> Result<bool> {
    net.a.delete_neighbour("eth0", Ipv4Addr::new(10, 0, 0, 9)).ok();
    let ping = Ping::to(Ipv4Addr::new(10, 0, 0, 9)).count(2).interval(Duration::from_millis(10)).run(&net.a)?;
    Ok(ping.received > 0)
}

pub(crate) fn the_kernel_neither_answers_arp_nor_ping_on_an_exclusive_device(lab: Lab) -> Result<()> {
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
pub(crate) fn has_clsact(device: &str) -> Result<bool> {
    use smpnet_hostif::netlink::{Body, attrs};
    let mut netlink = Netlink::open().expect("a netlink socket");
    let index = netlink.link_by_name(device).expect("netlink").expect("the device").index;
    let answers = netlink.request(38, libc::NLM_F_DUMP, &Body::new(&[0; 20])).expect("RTM_GETQDISC");
    Ok(answers.iter().any(|m| {
        m.payload[4..8] == index.to_ne_bytes() && attrs(&m.payload[20..]).any(|(k, v)| k == 1 && v == b"clsact\0")
    }))
}

pub(crate) fn every_way_to_exclusiveness_works_where_the_kernel_has_it(lab: Lab) -> Result<()> {
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

pub(crate) fn a_filter_left_by_a_killed_process_is_replaced(lab: Lab) -> Result<()> {
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

pub(crate) fn without_exclusiveness_the_kernel_answers_too(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({"exclusive": false})))??;
    check(kernel_answers(&net)?, || "the kernel does not answer".into())?;
    check(port.port.status()["exclusive"].is_null(), || "exclusive".into())
}
