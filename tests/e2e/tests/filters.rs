//! Packet filters on the running router.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use smpnet_e2e::{Rig, does_not_reach, elements, reaches};
use smpnet_lab::{Lab, Result, TwoHosts, UdpReceiver, UdpSender, check, run_tests, tests};

fn main() -> ExitCode {
    run_tests(&tests![
        a_filter_is_loaded_swapped_rolled_back_and_detached,
        a_pass_filter_lets_only_its_matches_through,
        a_filter_on_one_interface_and_direction_leaves_the_others_alone,
        a_filter_at_the_ethernet_layer_sees_the_link_header,
        two_filters_run_in_the_order_of_their_priority,
        a_program_of_tcpdump_is_taken,
        a_wrong_expression_is_refused_and_changes_nothing;
        alone:
        every_packet_is_judged_by_exactly_one_generation,
    ])
}

/// Sends 200 packets to a port of B; how many came.
fn through(rig: &Rig, port: u16) -> Result<u64> {
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, port, 1)?;
    UdpSender::new(TwoHosts::B, port).rate(10_000.0).send(&rig.net.a, 200)?;
    receiver.wait_for(200, Duration::from_millis(150));
    Ok(receiver.finish()?.total().received)
}

fn dropped(rig: &Rig, name: &str) -> Result<u64> {
    Ok(rig.router.json(&["filter", "stats", name])?["total"]["dropped"].as_u64().unwrap_or(0))
}

fn a_filter_is_loaded_swapped_rolled_back_and_detached(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let want = |step: &str, ports: [u64; 2]| -> Result<()> {
        let got = [through(&rig, 5000)?, through(&rig, 5001)?];
        check(got == ports, || format!("{step}: {got:?} packets came instead of {ports:?}"))
    };
    want("without a filter", [200, 200])?;
    rig.router.ok(&["filter", "load", "block", "--drop", "udp dst port 5000"])?;
    want("loaded", [0, 200])?;
    check(dropped(&rig, "block")? == 200 && rig.drops("filtered")? == 200, || "the drops were not counted".into())?;
    rig.router.ok(&["filter", "swap", "block", "--drop", "udp dst port 5001"])?;
    want("swapped", [200, 0])?;
    rig.router.ok(&["filter", "rollback", "block"])?;
    want("rolled back", [0, 200])?;
    let all = rig.router.json(&["filter", "list"])?;
    check(elements(&all).len() == 1 && elements(&all)[0]["name"] == "block", || format!("{all}"))?;
    rig.router.ok(&["filter", "show", "block"])?;
    rig.router.ok(&["filter", "detach", "block"])?;
    want("detached", [200, 200])?;
    check(elements(&rig.router.json(&["filter", "list"])?).is_empty(), || "the filter is still listed".into())?;
    rig.balanced()
}

fn a_pass_filter_lets_only_its_matches_through(lab: Lab) -> Result<()> {
    let rig =
        Rig::start(lab, "[[filter]]\nname = \"only\"\npass = \"icmp or udp dst port 5001\"\nattach = \"inet\"\n")?;
    check([through(&rig, 5000)?, through(&rig, 5001)?] == [0, 200], || "the wrong packets passed".into())?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn a_filter_on_one_interface_and_direction_leaves_the_others_alone(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let load = |direction, interface| {
        let args = ["filter", "load", "icmp", "--drop", "icmp", "--direction", direction, "--interface", interface];
        rig.router.ok(&args)
    };
    load("in", "left0")?;
    does_not_reach(&rig.net.a, TwoHosts::R_LEFT)?;
    reaches(&rig.net.b, TwoHosts::R_RIGHT)?;
    rig.router.ok(&["filter", "detach", "icmp"])?;
    load("out", "right0")?;
    reaches(&rig.net.a, TwoHosts::R_LEFT)?;
    does_not_reach(&rig.net.a, TwoHosts::B)?;
    rig.router.ok(&["filter", "detach", "icmp"])?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn a_filter_at_the_ethernet_layer_sees_the_link_header(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.router.ok(&["filter", "load", "station", "--attach", "ether", "--drop", "ether src 02:00:00:00:01:02"])?;
    does_not_reach(&rig.net.a, TwoHosts::R_LEFT)?;
    reaches(&rig.net.b, TwoHosts::R_RIGHT)?;
    rig.router.ok(&["filter", "swap", "station", "--drop", "ether src 02:00:00:00:01:03"])?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn two_filters_run_in_the_order_of_their_priority(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    rig.router.ok(&["filter", "load", "late", "--drop", "udp dst port 5000", "--priority", "10"])?;
    rig.router.ok(&["filter", "load", "early", "--drop", "udp dst port 5000", "--priority", "-10"])?;
    check(through(&rig, 5000)? == 0, || "nothing should have passed".into())?;
    let counts = (dropped(&rig, "early")?, dropped(&rig, "late")?);
    check(counts == (200, 0), || format!("early and late dropped {counts:?}"))
}

fn a_program_of_tcpdump_is_taken(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    // What `tcpdump -y RAW -ddd icmp` prints for IPv4: load byte 9, compare with 1, accept or refuse.
    let file = rig.router.dir().write("icmp.ddd", "4\n48 0 0 9\n21 0 1 1\n6 0 0 262144\n6 0 0 0\n")?;
    rig.router.ok(&["filter", "load", "icmp", "--program", &file.display().to_string()])?;
    does_not_reach(&rig.net.a, TwoHosts::B)?;
    check(through(&rig, 5000)? == 200, || "UDP should have passed".into())
}

fn a_wrong_expression_is_refused_and_changes_nothing(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "[[filter]]\nname = \"block\"\ndrop = \"udp dst port 5000\"\nattach = \"inet\"\n")?;
    let before = rig.router.json(&["filter", "show", "block"])?["generation"].clone();
    let error = rig.router.fails(&["filter", "swap", "block", "--drop", "udp dst prt 5000"])?;
    check(error.contains("prt"), || format!("the error does not name the word: {error}"))?;
    rig.router.fails(&["filter", "load", "block", "--drop", "icmp"])?;
    rig.router.fails(&["filter", "swap", "nothere", "--drop", "icmp"])?;
    rig.router.fails(&["filter", "load", "x", "--drop", "icmp", "--interface", "nothere0"])?;
    let after = rig.router.json(&["filter", "show", "block"])?["generation"].clone();
    check(before == after, || format!("the generation went from {before} to {after}"))?;
    check([through(&rig, 5000)?, through(&rig, 5001)?] == [0, 200], || "the filter changed".into())
}

fn every_packet_is_judged_by_exactly_one_generation(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "[[filter]]\nname = \"turn\"\ndrop = \"udp dst port 5000\"\nattach = \"inet\"\n")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let start = dropped(&rig, "turn")?;
    let probes = UdpReceiver::start(&rig.net.b, TwoHosts::B, 5000, 2)?;
    let load = UdpReceiver::start(&rig.net.b, TwoHosts::B, 4000, 4)?;
    let loading = UdpSender::new(TwoHosts::B, 4000).flows(4).window(load.window()).start(&rig.net.a)?;
    let probing = UdpSender::new(TwoHosts::B, 5000).flows(2).rate(20_000.0).start(&rig.net.a)?;
    let mut client = rig.router.client();
    for n in 0..300u16 {
        let body = json!({"drop": format!("udp dst port {}", 5001 - n % 2)});
        client.request("PUT", "/v1/filters/turn", Some(&body))?.json()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let (loaded, probed) = (loading.stop()?, probing.stop()?);
    load.wait_for(loaded.sent, Duration::from_millis(500));
    probes.wait_for(u64::MAX, Duration::from_millis(200));
    let (load, probes) = (load.finish()?, probes.finish()?);
    let filtered = dropped(&rig, "turn")? - start;
    let came = probes.total();
    // A port whose ring is full on a busy machine names what it missed; everything else must be there.
    let missed = rig.missed()?;
    let gone = loaded.sent - load.total().received + probed.sent - came.received - filtered;
    check(gone <= missed && load.total().duplicates == 0, || {
        format!("of {loaded:?} came {load:?}: {:?}", rig.router.ok(&["netstat", "-d"]))
    })?;
    check(came.received + filtered <= probed.sent && came.duplicates == 0, || {
        format!("of {probed:?} came {came:?} and {filtered} were filtered: {:?}", rig.router.ok(&["netstat", "-d"]))
    })?;
    check(filtered > 0 && came.received > 0, || "the generations did not take turns".into())?;
    rig.balanced()
}
