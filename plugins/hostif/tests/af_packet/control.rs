//! Opening, closing and changing ports.

use super::*;

pub(crate) fn ports_come_and_go_without_a_trace_in_the_process(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count);
        let mut before = (0, 0);
        for round in 0..20 {
            close(open::<AfPacket>("left", 2, json!({"tx": {"mode": "ring"}}))?);
            if round == 0 {
                before = (count("fd"), count("task"));
            }
        }
        let after = (count("fd"), count("task"));
        check(before == after, || format!("descriptors and threads: {before:?} became {after:?}"))?;
        check(testing::outstanding() == 0, || "packets were not given back".into())
    })?
}

pub(crate) fn link_changes_are_reported(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    check(port.port.link_state().state == 1, || "not up".into())?;
    let (events, told) = mpsc::channel();
    let index = net.r.link("left")?.index as i32;
    let initial = port.port.link_state();
    let monitor = net.r.run(|| Monitor::start(index, initial, move |s| events.send(s.state).unwrap_or(())))?;
    let monitor = monitor.map_err(|e| LabError::Failed(e.to_string()))?;
    for up in [false, true, false] {
        // The far end's state is this end's carrier. The kernel tells of carrier changes once a second at most.
        net.a.set_up("eth0", up)?;
        let state = told.recv_timeout(4 * SECOND).map_err(|e| LabError::Failed(format!("no event: {e}")))?;
        check(state == u32::from(up), || format!("told {state}"))?;
        check(port.port.link_state().state == u32::from(up), || "the state asked for differs".into())?;
    }
    net.a.set_up("eth0", true)?;
    check(told.recv_timeout(4 * SECOND) == Ok(1), || "no event".into())?;
    net.a.delete_link("eth0")?;
    check(told.recv_timeout(4 * SECOND) == Ok(0), || "no event for a device that is gone".into())?;
    drop(monitor);
    // The device is gone for good: nothing of this may hang or panic.
    close(port);
    Ok(())
}

fn ipv6_setting(host: &Host, device: &str) -> Result<Option<String>> {
    host.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")).ok())
}

pub(crate) fn close_leaves_the_device_as_it_was(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.sysctl("net/ipv6/conf/left/disable_ipv6", "0").ok();
    net.r.set_up("left", false)?;
    let (before, ipv6) = (net.r.link("left")?, ipv6_setting(&net.r, "left")?);
    net.r.run(|| -> Result<()> {
        let port = open::<AfPacket>("left", 2, json!({"promisc": true}))?;
        let said = |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
        said(port.port.set_mtu(1300))?;
        said(port.port.set_mac(MacAddr { bytes: [2, 9, 9, 9, 9, 9] }))?;
        said(port.port.set_multicast(&[MacAddr { bytes: [1, 0, 0x5e, 0, 0, 5] }], true))?;
        let during = net.r.link("left")?;
        check(during.mtu == 1300 && during.mac == [2, 9, 9, 9, 9, 9] && during.flags & 1 == 1, || {
            format!("{during:?}")
        })?;
        if ipv6.is_some() {
            check(ipv6_setting(&net.r, "left")?.is_some_and(|v| v.trim() == "1"), || "IPv6 is on".into())?;
        }
        close(port);
        Ok(())
    })??;
    let after = net.r.link("left")?;
    let shape = |l: &smpnet_lab::LinkInfo| (l.flags, l.mtu, l.mac);
    check(shape(&after) == shape(&before), || format!("{before:?} became {after:?}"))?;
    check(ipv6_setting(&net.r, "left")? == ipv6, || "disable_ipv6 was not put back".into())
}

pub(crate) fn a_failed_open_leaves_nothing_behind(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.set_up("left", false)?;
    let before = net.r.link("left")?;
    let error = net.r.run(|| {
        use smpnet_plugin::PortRequest;
        let options = json!({"device": "left", "promisc": true});
        // An MTU that a veth does not take, after everything else was done.
        let request =
            PortRequest { name: "x", ifindex: 1, options, rx_queues: 1, tx_queues: 1, workers: 1, mtu: 10_000_000 };
        AfPacket::open(testing::host(), &request).err().map(|e| e.to_string())
    })?;
    check(error.as_ref().is_some_and(|e| e.contains("MTU of 10000000")), || format!("{error:?}"))?;
    let after = net.r.link("left")?;
    check((after.flags, after.mtu) == (before.flags, before.mtu), || format!("{before:?} became {after:?}"))?;
    check(!net.r.run(|| has_clsact("left"))??, || "a clsact qdisc was left behind".into())?;
    check(testing::outstanding() == 0, || "packets were not given back".into())
}

pub(crate) fn errors_name_the_way_out(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let error_of = |options: Value| net.r.run(|| try_open::<AfPacket>("x0", 1, options).err().unwrap_or_default());
    for (options, parts) in [
        (json!({"device": "lefft"}), &["\"lefft\"", "did you mean \"left\"?"][..]),
        (json!({"device": "a/b"}), &["a/b", "1 to 15 bytes"]),
        (json!({"device": "left", "rng": {}}), &["unknown field `rng`"]),
        (json!({"device": "left", "ring": {"block_size": 5000}}), &["ring.block_size must be a power of two"]),
        (json!({"device": "left", "fanout": "best"}), &["unknown variant `best`", "`hash`"]),
    ] {
        let text = error_of(options)?;
        check(parts.iter().all(|p| text.contains(p)), || format!("{text:?} lacks one of {parts:?}"))?;
    }
    let text = net.r.run(|| {
        drop_capabilities();
        try_open::<AfPacket>("left", 1, json!({})).err().unwrap_or_default()
    })?;
    check(["CAP_NET_RAW", "setcap", "AmbientCapabilities"].iter().all(|p| text.contains(p)), || text.clone())
}

/// Gives up every capability of the calling thread.
fn drop_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: version 3 of capset(2) takes a header of two words and two sets of three.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(rc, 0, "capset");
}

pub(crate) fn multicast_and_promiscuity_reach_the_device(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let index = net.r.link("left")?.index;
    let group = MacAddr { bytes: [1, 0, 0x5e, 0x7f, 0, 1] };
    let listed = |host: &Host| -> Result<bool> {
        Ok(host
            .proc_net("dev_mcast")?
            .lines()
            .any(|l| l.trim_start().starts_with(&format!("{index} ")) && l.trim_end().ends_with("01005e7f0001")))
    };
    let promisc = |host: &Host| Ok::<bool, LabError>(host.link("left")?.flags & libc::IFF_PROMISC as u32 != 0);
    let port = net.r.run(|| open::<AfPacket>("left", 1, json!({})))??;
    let said = |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
    said(port.port.set_multicast(&[group], false))?;
    said(port.port.set_promisc(true))?;
    said(port.port.set_promisc(true))?;
    check(listed(&net.r)? && port.port.status()["promisc"] == true, || "not listed".into())?;
    said(port.port.set_multicast(&[], false))?;
    check(!listed(&net.r)?, || "still listed".into())?;
    said(port.port.set_multicast(&[group], true))?;
    said(port.port.set_promisc(false))?;
    check(port.port.status()["promisc"] == false, || "still promiscuous".into())?;
    said(port.port.set_promisc(true))?;
    close(port);
    check(!listed(&net.r)? && !promisc(&net.r)?, || "memberships outlive the port".into())
}
