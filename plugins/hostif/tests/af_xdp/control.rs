//! Opening, closing and changing ports; what is left of them.

use super::*;
use std::process::{Command, Stdio};

/// The argument that makes this program hold a port until it is killed.
pub(crate) const HOLD: &str = "--hold-port-of";

/// Opens a port of `device` in this namespace, says so, and waits for the end.
pub(crate) fn hold(device: &str) -> ! {
    let _port = open::<AfXdp>(device, 1, json!({"mode": "native", "promisc": true})).expect("the port");
    println!("held");
    loop {
        std::thread::park();
    }
}

/// What the kernel of the host says of a device.
fn link(host: &Host, device: &str) -> Result<smpnet_hostif::netlink::Link> {
    host.run(|| {
        let mut netlink = Netlink::open().expect("a netlink socket");
        netlink.link_by_name(device).expect("netlink").expect("the device")
    })
}

/// Id of the XDP program on a device of the host; 0 for none.
fn program_on(host: &Host, device: &str) -> Result<u32> {
    Ok(link(host, device)?.xdp_program)
}

pub(crate) fn the_kernel_gives_cells_back_when_ports_come_and_go(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).map_or(0, Iterator::count);
        let mut before = (0, 0);
        for round in 0..10 {
            let port = xdp("native", 1, json!({}))?;
            check(testing::outstanding() > 0, || "the kernel has no cells".into())?;
            close(port);
            check(testing::outstanding() == 0, || format!("round {round}: packets were not given back"))?;
            if round == 0 {
                before = (count("fd"), count("task"));
            }
        }
        let after = (count("fd"), count("task"));
        check(before == after, || format!("descriptors and threads: {before:?} became {after:?}"))
    })?
}

pub(crate) fn close_leaves_the_device_as_it_was(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let ipv6 = |host: &Host| host.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/left/disable_ipv6").ok());
    net.r.sysctl("net/ipv6/conf/left/disable_ipv6", "0").ok();
    net.r.set_up("left", false)?;
    let (before, ipv6_before) = (net.r.link("left")?, ipv6(&net.r)?);
    for mode in ["native", "generic"] {
        net.r.run(|| -> Result<()> {
            let port = xdp(mode, 1, json!({"promisc": true}))?;
            let said =
                |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
            said(port.port.set_mtu(1300))?;
            said(port.port.set_mac(MacAddr { bytes: [2, 9, 9, 9, 9, 9] }))?;
            said(port.port.set_multicast(&[MacAddr { bytes: [1, 0, 0x5e, 0, 0, 5] }], true))?;
            let during = net.r.link("left")?;
            check(
                during.mtu == 1300
                    && during.mac == [2, 9, 9, 9, 9, 9]
                    && during.flags & 1 == 1
                    && link(&net.r, "left")?.promiscuity == 1,
                || format!("{during:?}"),
            )?;
            check(program_on(&net.r, "left")? != 0, || "no program".into())?;
            close(port);
            Ok(())
        })??;
        let after = net.r.link("left")?;
        let shape = |l: &smpnet_lab::LinkInfo| (l.flags, l.mtu, l.mac);
        check(shape(&after) == shape(&before), || format!("{mode}: {before:?} became {after:?}"))?;
        check(program_on(&net.r, "left")? == 0, || format!("{mode}: the program is still there"))?;
        check(ipv6(&net.r)? == ipv6_before, || "disable_ipv6 was not put back".into())?;
    }
    Ok(())
}

pub(crate) fn a_killed_process_leaves_nothing_attached(lab: Lab) -> Result<()> {
    use std::io::BufRead;
    let net = one(lab)?;
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([HOLD, "left"]).env_remove("SMPNET_LAB_TEST").stdout(Stdio::piped());
    net.r.ns().attach(&mut command);
    let mut child = command.spawn().map_err(|e| LabError::Failed(e.to_string()))?;
    let lines = std::io::BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let held = lines.map_while(std::result::Result::ok).any(|line| line == "held");
    check(held && program_on(&net.r, "left")? != 0, || "the other process has no port".into())?;
    check(link(&net.r, "left")?.promiscuity == 1, || "not promiscuous".into())?;
    // SIGKILL: nothing of the process's own runs any more.
    child.kill().map_err(|e| LabError::Failed(e.to_string()))?;
    child.wait().map_err(|e| LabError::Failed(e.to_string()))?;
    let end = Instant::now() + SOON;
    while program_on(&net.r, "left")? != 0 && Instant::now() < end {
        std::thread::yield_now();
    }
    check(program_on(&net.r, "left")? == 0, || "the program outlives its process".into())?;
    check(link(&net.r, "left")?.promiscuity == 0, || "still promiscuous".into())?;
    // The kernel's stack has the device again, and so can the next process.
    net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
    check(kernel_answers(&net)?, || "the kernel does not answer".into())?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
        wire.send(&frame(1, 100))?;
        let got = receive(&mut port, 1, SECOND);
        check(got.len() == 1 && bytes(&got[0].1) == frame(1, 100), || "nothing is received".into())
    })?
}

/// Whether the kernel of R answers ARP and ping from A.
fn kernel_answers(net: &One) -> Result<bool> {
    net.a.delete_neighbour("eth0", Ipv4Addr::new(10, 0, 0, 9)).ok();
    let ping = Ping::to(Ipv4Addr::new(10, 0, 0, 9)).count(2).interval(Duration::from_millis(10)).run(&net.a)?;
    Ok(ping.received > 0)
}

pub(crate) fn the_kernel_neither_answers_arp_nor_ping(lab: Lab) -> Result<()> {
    for mode in ["native", "generic"] {
        let net = one(lab)?;
        net.r.add_addr("left", Ipv4Addr::new(10, 0, 0, 9), 24)?;
        check(kernel_answers(&net)?, || "the kernel does not answer to begin with".into())?;
        let mut port = net.r.run(|| xdp(mode, 1, json!({})))??;
        net.a.set_neighbour("eth0", Ipv4Addr::new(10, 0, 0, 9), MAC_R)?;
        check(!kernel_answers(&net)?, || format!("{mode}: the kernel answers"))?;
        let types: Vec<[u8; 2]> =
            receive(&mut port, 3, SECOND / 5).iter().map(|(_, p)| [p.data()[12], p.data()[13]]).collect();
        check(types.contains(&[8, 6]), || format!("the port received {types:?}"))?;
        // Nor while the port is down: it still has the device.
        port.port.set_up(false).map_err(|e| LabError::Failed(e.to_string()))?;
        check(!kernel_answers(&net)?, || format!("{mode}: the kernel answers for a port that is down"))?;
        close(port);
        check(kernel_answers(&net)?, || format!("{mode}: the kernel does not answer after close"))?;
    }
    Ok(())
}

pub(crate) fn a_foreign_program_stays_and_packet_sockets_serve(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        let first = xdp("native", 1, json!({}))?;
        let theirs = program_on(&net.r, "left")?;
        let mut second = open::<AfXdp>("left", 1, json!({"fallback": true}))?;
        let status = second.port.status();
        let reason = status["fallbacks"][0].as_str().unwrap_or_default();
        check(status["mode"] == "af_packet" && reason.contains("ip link set left xdp off"), || format!("{status}"))?;
        check(program_on(&net.r, "left")? == theirs, || "another program is there".into())?;
        close(first);
        check(program_on(&net.r, "left")? == 0, || "a program is left".into())?;
        wire.send(&frame(1, 100))?;
        let got = receive(&mut second, 1, SECOND);
        check(got.len() == 1 && bytes(&got[0].1) == frame(1, 100), || "nothing is received".into())?;
        send(&mut second, [testing::packet(&frame(2, 100))]);
        wire.wait("frame", SECOND, |f| !f.outgoing && f.bytes == frame(2, 100)).map(drop)
    })?
}

pub(crate) fn a_worse_way_is_taken_with_its_reason(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        // Neither the pool nor a veth is made for zero copy.
        let port = xdp("native", 1, json!({}))?;
        let status = port.port.status();
        check(
            status["zero_copy"] == false && status["fallbacks"][0].as_str().is_some_and(|r| r.contains("huge pages")),
            || format!("{status}"),
        )?;
        close(port);
        let error = try_open::<AfXdp>("left", 1, json!({"zero_copy": true})).err().unwrap_or_default();
        check(error.contains("AF_XDP on left") && error.contains("huge pages"), || format!("{error:?}"))?;
        let port =
            try_open::<AfXdp>("left", 1, json!({"zero_copy": true, "fallback": true})).map_err(LabError::Failed)?;
        check(port.port.status()["mode"] == "af_packet", || format!("{}", port.port.status()))?;
        close(port);
        // The loopback has no XDP in its driver, and takes more than 17 cells by itself.
        net.r.set_mtu("lo", 1500)?;
        let lo = try_open::<AfXdp>("lo", 1, json!({"mode": "native"})).err().unwrap_or_default();
        check(lo.contains("no XDP program in native mode"), || format!("{lo:?}"))?;
        let port = try_open::<AfXdp>("lo", 1, json!({"mode": "auto"})).map_err(LabError::Failed)?;
        let status = port.port.status();
        let reasons = status["fallbacks"].to_string();
        check(status["mode"] == "generic" && reasons.contains("no XDP program in native mode"), || {
            format!("{status}")
        })?;
        close(port);
        check(program_on(&net.r, "left")? + program_on(&net.r, "lo")? == 0, || "a program is left".into())
    })?
}

pub(crate) fn without_privileges_packet_sockets_serve_or_the_error_says_what_is_needed(lab: Lab) -> Result<()> {
    let net = pair(lab, 1500)?;
    let wire = Capture::open(&net.a, "eth0")?;
    net.r.run(|| -> Result<()> {
        if lab.privilege() == Privilege::Root {
            keep_network_capabilities();
        }
        let error = try_open::<AfXdp>("left", 1, json!({"fallback": false})).err().unwrap_or_default();
        check(error.contains("CAP_BPF"), || format!("{error:?}"))?;
        let mut port = open::<AfXdp>("left", 1, json!({}))?;
        let status = port.port.status();
        check(status["mode"] == "af_packet" && status["fallbacks"].to_string().contains("CAP_BPF"), || {
            format!("{status}")
        })?;
        wire.send(&frame(1, 100))?;
        check(receive(&mut port, 1, SECOND).len() == 1, || "nothing is received".into())
    })?
}

/// Gives up every capability of the calling thread but CAP_NET_ADMIN and CAP_NET_RAW.
fn keep_network_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let kept = 1 << 12 | 1 << 13;
    let sets = [kept, kept, 0, 0, 0, 0];
    // SAFETY: version 3 of capset(2) takes a header of two words and two sets of three.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(rc, 0, "capset");
}

pub(crate) fn a_device_deleted_under_the_port_does_not_keep_the_worker_awake(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    net.r.run(|| -> Result<()> {
        let mut port = xdp("native", 1, json!({}))?;
        net.r.delete_link("left")?;
        check(receive(&mut port, 1, SECOND / 10).is_empty(), || "a packet out of nothing".into())?;
        sleep_until_event(&mut port, 0);
        check(!sleep_until_event(&mut port, 50), || "the descriptor stays readable".into())?;
        check(port.port.link_state().state == 0, || "the link is up".into())?;
        send(&mut port, [testing::packet(&frame(1, 100))]);
        close(port);
        check(testing::outstanding() == 0, || "packets were not given back".into())
    })?
}

pub(crate) fn multicast_and_promiscuity_reach_the_device(lab: Lab) -> Result<()> {
    let net = one(lab)?;
    let index = net.r.link("left")?.index;
    let group = MacAddr { bytes: [1, 0, 0x5e, 0x7f, 0, 1] };
    let listed = || -> Result<bool> {
        let is = |l: &str| l.trim_start().starts_with(&format!("{index} ")) && l.trim_end().ends_with("01005e7f0001");
        Ok(net.r.proc_net("dev_mcast")?.lines().any(is))
    };
    let promisc = || Ok::<bool, LabError>(link(&net.r, "left")?.promiscuity == 1);
    let port = net.r.run(|| xdp("native", 1, json!({})))??;
    let said = |r: std::result::Result<(), smpnet_plugin::Error>| r.map_err(|e| LabError::Failed(e.to_string()));
    said(port.port.set_multicast(&[group], false))?;
    said(port.port.set_promisc(true))?;
    check(listed()? && promisc()? && port.port.status()["promisc"] == true, || "not listed".into())?;
    said(port.port.set_multicast(&[], false))?;
    said(port.port.set_promisc(false))?;
    check(!listed()? && !promisc()?, || "still listed".into())?;
    said(port.port.set_promisc(true))?;
    said(port.port.set_multicast(&[group], true))?;
    close(port);
    check(!listed()? && !promisc()?, || "memberships outlive the port".into())
}

pub(crate) fn errors_name_the_way_out(lab: Lab) -> Result<()> {
    let net = pair(lab, 1500)?;
    let error_of = |options: Value| net.r.run(|| try_open::<AfXdp>("x0", 1, options).err().unwrap_or_default());
    for (options, parts) in [
        (json!({"device": "lefft"}), &["\"lefft\"", "did you mean \"left\"?"][..]),
        (json!({"device": "a/b"}), &["a/b", "1 to 15 bytes"]),
        (json!({"device": "left", "zero_copi": true}), &["unknown field `zero_copi`", "`zero_copy`"]),
        (json!({"device": "left", "zero_copy": "no"}), &["\"auto\", true and false"]),
        (json!({"device": "left", "mode": "fast"}), &["unknown variant `fast`", "`native`"]),
        (json!({"device": "left", "ring": {"rx": 100}}), &["ring.rx must be a power of two"]),
        (json!({"device": "left", "busy_poll": {"budget": 65}}), &["busy_poll.budget must be 1 to 64"]),
        (json!({"device": "left", "exclusive": false}), &["driver = \"af_packet\""]),
        (json!({"device": "left", "mode": "generic", "zero_copy": true}), &["zero_copy = true needs"]),
    ] {
        let text = error_of(options)?;
        check(parts.iter().all(|p| text.contains(p)), || format!("{text:?} lacks one of {parts:?}"))?;
    }
    Ok(())
}
