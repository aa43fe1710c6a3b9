//! The program: signals, configuration, plugins, what it says of itself.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use smpnet_e2e::{Rig, does_not_reach, elements, reaches};
use smpnet_lab::{Lab, Result, TwoHosts, check, run_tests, tests};

const ROUTE: &str = "[[route]]\nto = \"10.9.0.0/16\"\nvia = \"10.0.2.2\"\n";

fn main() -> ExitCode {
    run_tests(&tests![
        sigterm_ends_it_and_leaves_nothing_behind,
        sigkill_leaves_nothing_that_hinders_the_next_start,
        sighup_applies_the_file_again,
        a_broken_file_changes_nothing_and_names_its_line,
        a_step_that_fails_rolls_back_those_before_it,
        apply_makes_the_difference_and_nothing_else,
        a_second_daemon_on_the_same_socket_is_refused,
        every_command_takes_json_at_its_end,
        every_plugin_of_the_tree_is_listed,
        a_file_that_is_no_plugin_is_refused_and_forwarding_goes_on,
        explain_names_every_decision,
        the_api_describes_itself_and_has_metrics,
        the_control_socket_is_its_owners_alone,
        doctor_has_advice_for_each_finding,
        a_device_that_vanishes_takes_nothing_else_with_it;
        alone:
        an_idle_router_uses_no_processor,
    ])
}

fn has_route(rig: &Rig, to: &str) -> Result<bool> {
    Ok(elements(&rig.router.json(&["route", "show"])?).iter().any(|r| r["dst"] == to))
}

fn sigterm_ends_it_and_leaves_nothing_behind(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    let before = (net.r.link("left")?, net.r.link("right")?);
    let config = net.ports("");
    let mut rig = Rig::with(net, &config)?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let status = rig.router.stop()?;
    check(status.success(), || format!("{status}:\n{}", rig.router.log_tail(20)))?;
    check(!rig.router.socket().exists(), || "the control socket is still there".into())?;
    let after = (rig.net.r.link("left")?, rig.net.r.link("right")?);
    for (b, a) in [(&before.0, &after.0), (&before.1, &after.1)] {
        check((b.flags, b.mtu, b.mac) == (a.flags, a.mtu, a.mac), || format!("{b:?} became {a:?}"))?;
    }
    // The kernel can use the devices again: a rule or qdisc of ours would keep its packets away.
    rig.net.route_with_linux()?;
    for (host, ip) in [(&rig.net.a, TwoHosts::R_LEFT), (&rig.net.b, TwoHosts::R_RIGHT)] {
        reaches(host, ip)?;
    }
    reaches(&rig.net.a, TwoHosts::B)
}

fn sigkill_leaves_nothing_that_hinders_the_next_start(lab: Lab) -> Result<()> {
    let net = TwoHosts::new(lab)?;
    let config = net.ports("");
    let mut first = Rig::with(net, &config)?;
    first.router.signal(9)?;
    first.router.wait(Duration::from_secs(5))?;
    let Rig { net, router } = first;
    drop(router);
    let second = Rig::with(net, &config)?;
    reaches(&second.net.a, TwoHosts::B)
}

fn sighup_applies_the_file_again(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    check(!has_route(&rig, "10.9.0.0/16")?, || "the route is there already".into())?;
    rig.router.write_config(&format!("{}{ROUTE}", rig.base()))?;
    rig.router.signal(1)?;
    let patience = Duration::from_secs(5);
    rig.wait(&["route", "show"], patience, |all| elements(all).iter().any(|r| r["dst"] == "10.9.0.0/16"))?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.router.write_config(&rig.base())?;
    rig.router.signal(1)?;
    rig.wait(&["route", "show"], patience, |all| !elements(all).iter().any(|r| r["dst"] == "10.9.0.0/16"))?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn a_broken_file_changes_nothing_and_names_its_line(lab: Lab) -> Result<()> {
    let mut rig = Rig::start(lab, ROUTE)?;
    let state = |rig: &Rig| -> Result<String> {
        Ok(format!("{}{}", rig.router.ok(&["route", "show"])?, rig.router.ok(&["filter", "list"])?))
    };
    let before = state(&rig)?;
    let ports = rig.base();
    let cases = [
        (format!("{ports}[[rout]]\nto = \"10.8.0.0/16\"\n"), "route"),
        (format!("{ports}[[route]]\nto = \"10.8.0.0/16\"\nvai = \"10.0.2.2\"\n"), "via"),
        (format!("{ports}[[route]]\nto = \"10.8.0.0/33\"\nvia = \"10.0.2.2\"\n"), "33"),
        (ports.replace("af_packet", "af_paket"), "af_packet"),
        (ports.replace("device = \"left\"", "device = \"lefd\""), "lefd"),
        (ports.replace("10.0.2.1/24", "10.0.1.9/24"), "overlap"),
        (format!("{ports}[[filter]]\nname = \"x\"\ndrop = \"udp prt 5\"\n"), "prt"),
        ("this is no TOML".into(), "TOML"),
    ];
    for (config, named) in cases {
        let path = rig.router.write_config(&config)?.display().to_string();
        let error = rig.router.fails(&["apply", &path])?;
        check(error.contains("smpnet.toml:"), || format!("no file and line in: {error}"))?;
        if named != "TOML" {
            check(error.contains(named), || format!("{named} is not named in: {error}"))?;
        }
        rig.router.signal(1)?;
        std::thread::sleep(Duration::from_millis(100));
        check(rig.router.is_running(), || format!("it ended:\n{}", rig.router.log_tail(20)))?;
        check(state(&rig)? == before, || format!("something changed: {:?}", state(&rig)))?;
    }
    reaches(&rig.net.a, TwoHosts::B)
}

fn a_step_that_fails_rolls_back_those_before_it(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let before = rig.router.ok(&["route", "show"])?;
    // Good as a file; the last step fails because the device is not there.
    let missing = "[[interface]]\nname = \"gone0\"\ndriver = \"af_packet\"\noptions = { device = \"gone\" }\n";
    let path = rig.router.write_config(&format!("{}{ROUTE}{missing}", rig.base()))?;
    let error = rig.router.fails(&["apply", &path.display().to_string()])?;
    check(error.contains("gone"), || error)?;
    let after = rig.router.ok(&["route", "show"])?;
    check(before == after, || format!("{before}\nbecame\n{after}"))?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn apply_makes_the_difference_and_nothing_else(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let path = rig.router.write_config(&format!("{}{ROUTE}", rig.base()))?.display().to_string();
    let planned = rig.router.json(&["apply", "--dry-run", &path])?;
    check(elements(&planned["steps"]).len() == 1, || format!("{planned}"))?;
    check(!has_route(&rig, "10.9.0.0/16")?, || "a dry run changed something".into())?;
    rig.router.ok(&["apply", &path])?;
    check(has_route(&rig, "10.9.0.0/16")?, || "the route is missing".into())?;
    let again = rig.router.json(&["apply", &path])?;
    check(elements(&again["steps"]).is_empty(), || format!("the second time there was something to do: {again}"))?;
    // What commands changed since is put back.
    rig.router.ok(&["route", "delete", "10.9.0.0/16"])?;
    rig.router.ok(&["apply", &path])?;
    check(has_route(&rig, "10.9.0.0/16")?, || "the route did not come back".into())
}

fn a_second_daemon_on_the_same_socket_is_refused(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let config = format!("[control]\nsocket = \"{}\"\n", rig.router.socket().display());
    let file = rig.router.dir().write("second.toml", &config)?;
    let error = rig.router.fails(&["run", &file.display().to_string()])?;
    check(error.contains("control.sock"), || format!("the error does not name the socket: {error}"))?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.router.ok(&["ifconfig"]).map(drop)
}

fn every_command_takes_json_at_its_end(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, ROUTE)?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let commands: [&[&str]; 14] = [
        &["ifconfig"],
        &["ifconfig", "left0"],
        &["route", "show"],
        &["route", "get", "10.9.0.1"],
        &["arp", "-a"],
        &["netstat", "-i"],
        &["netstat", "-r"],
        &["netstat", "-s"],
        &["netstat", "-q"],
        &["sysctl", "net.inet.ip"],
        &["plugin", "list"],
        &["filter", "list"],
        &["bpf", "compile", "udp"],
        &["stats"],
    ];
    for command in commands {
        rig.router.json(command)?;
        check(!rig.router.ok(command)?.trim_start().starts_with('{'), || format!("{command:?} prints JSON unasked"))?;
    }
    Ok(())
}

fn every_plugin_of_the_tree_is_listed(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let all = rig.router.json(&["plugin", "list"])?;
    for name in ["null", "hostif", "vlan", "gif", "pcap"] {
        let p = elements(&all).iter().find(|p| p["name"] == name);
        let whole = p.is_some_and(|p| {
            p["sha256"].as_str().is_some_and(|s| s.len() == 64)
                && p["file"].as_str().is_some_and(|f| f.ends_with(&format!("libsmpnet_{name}.so")))
                && ["version", "abi", "state"].iter().all(|k| !p[*k].is_null())
        });
        check(whole, || format!("{name}: {all}"))?;
    }
    Ok(())
}

fn a_file_that_is_no_plugin_is_refused_and_forwarding_goes_on(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = rig.router.dir().write("libsmpnet_text.so", "this is no library")?.display().to_string();
    let error = rig.router.fails(&["plugin", "load", &file])?;
    check(error.contains("libsmpnet_text.so"), || format!("the error does not name the file: {error}"))?;
    reaches(&rig.net.a, TwoHosts::B)
}

fn explain_names_every_decision(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "[[filter]]\nname = \"block\"\ndrop = \"udp dst port 5000\"\nattach = \"inet\"\n")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let frame = |port: u16| {
        use smpnet_lab::{craft, mac};
        let packet = craft::ip(TwoHosts::A, TwoHosts::B, 17, 64, &[], &craft::udp(7, port, b"explain"));
        let bytes = craft::ether(mac(1, 1), mac(1, 2), 0x0800, &packet);
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let steps = |port| rig.router.json(&["explain", "--in", "left0", "--packet", &frame(port)]);
    let blocked = steps(5000)?.to_string();
    check(blocked.contains("block") && blocked.contains("drop"), || blocked)?;
    let passed = steps(5001)?.to_string();
    check(["10.0.2.0/24", "right0", "02:00:00:00:02:02"].iter().all(|w| passed.contains(w)), || passed)
}

fn the_api_describes_itself_and_has_metrics(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let mut client = rig.router.client();
    let api = client.get("/openapi.json")?;
    check(api["paths"]["/v1/interfaces"]["get"].is_object(), || format!("{api}"))?;
    let metrics = client.request("GET", "/metrics", None)?;
    check(metrics.status == 200 && metrics.text().contains("smpnet_"), || metrics.text())?;
    let missing = client.request("GET", "/v1/nothing", None)?;
    check(missing.status == 404, || format!("{missing:?}"))?;
    let wrong = client.request("POST", "/v1/routes", Some(&serde_json::json!({"to": 7})))?;
    check((400..500).contains(&wrong.status) && wrong.text().contains("error"), || format!("{wrong:?}"))
}

fn the_control_socket_is_its_owners_alone(lab: Lab) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::start(lab, "")?;
    let mode = std::fs::metadata(rig.router.socket()).map(|m| m.permissions().mode() & 0o777).unwrap_or(0);
    check(mode == 0o600, || format!("mode {mode:o}"))
}

fn doctor_has_advice_for_each_finding(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let out = rig.router.cli(&["doctor"])?;
    let text = String::from_utf8_lossy(&out.stdout).to_lowercase();
    check(["huge", "plugin"].iter().all(|w| text.contains(w)), || text)
}

fn a_device_that_vanishes_takes_nothing_else_with_it(lab: Lab) -> Result<()> {
    let mut rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    rig.net.r.delete_link("right")?;
    std::thread::sleep(Duration::from_millis(300));
    check(rig.router.is_running(), || format!("it ended:\n{}", rig.router.log_tail(20)))?;
    reaches(&rig.net.a, TwoHosts::R_LEFT)?;
    does_not_reach(&rig.net.a, TwoHosts::B)?;
    let all = rig.router.json(&["ifconfig"])?;
    let right = elements(&all).iter().find(|i| i["name"] == "right0");
    check(right.is_some_and(|i| i["running"] == false), || format!("{all}"))?;
    let status = rig.router.stop()?;
    check(status.success(), || format!("{status}:\n{}", rig.router.log_tail(20)))
}

fn an_idle_router_uses_no_processor(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    reaches(&rig.net.a, TwoHosts::B)?;
    std::thread::sleep(Duration::from_millis(500));
    let (start, used) = (Instant::now(), rig.router.cpu_time());
    std::thread::sleep(Duration::from_secs(3));
    let share = (rig.router.cpu_time() - used).as_secs_f64() / start.elapsed().as_secs_f64();
    check(share < 0.01, || format!("{:.1} % of a processor while idle", share * 100.0))?;
    // And it wakes: the first packet after the rest is not the one that is lost.
    reaches(&rig.net.a, TwoHosts::B)
}
