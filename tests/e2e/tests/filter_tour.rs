//! Filters of strangers on the running router: the tour of the README, the examples of the SDK against real traffic, tables,
//! shadows, faults.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::Value;
use smpnet_e2e::{Rig, elements, reaches};
use smpnet_lab::{
    Host, Lab, LabError, Result, TempDir, TwoHosts, UdpReceiver, UdpSender, binary, cargo, check, example_filter,
    run_tests, rust_filter, tests,
};

fn main() -> ExitCode {
    run_tests(&tests![
        a_syn_flood_is_held_back_and_a_swap_keeps_what_was_counted,
        a_name_that_is_listed_while_the_filter_runs_is_blocked_at_once,
        a_table_of_a_file_follows_the_file,
        a_shadow_is_compared_on_live_packets_and_promoted,
        a_wrong_module_is_refused_in_words_and_changes_nothing,
        compiled_code_is_found_again;
        alone:
        the_tour_of_the_readme_takes_less_than_five_minutes,
        swaps_of_modules_under_load_lose_no_packet,
        a_filter_that_hangs_or_traps_gives_way_to_what_ran_before_while_traffic_flows,
    ])
}

fn module(name: &str) -> Result<String> {
    Ok(example_filter(name)?.display().to_string())
}

fn counter(rig: &Rig, filter: &str, name: &str) -> Result<u64> {
    let stats = rig.router.json(&["filter", "stats", filter])?;
    let all = elements(&stats["counters"]).to_vec();
    Ok(all.iter().find(|c| c["name"] == name).and_then(|c| c["total"].as_u64()).unwrap_or(0))
}

fn total(rig: &Rig, filter: &str, what: &str) -> Result<u64> {
    Ok(rig.router.json(&["filter", "stats", filter])?["total"][what].as_u64().unwrap_or(0))
}

/// Opens connections from A to a port of B that is closed; how many were answered (refused).
fn connections(rig: &Rig, n: usize) -> Result<usize> {
    let to = SocketAddr::from((TwoHosts::B, 9));
    rig.net.a.run(move || {
        let answered = |_: &usize| match TcpStream::connect_timeout(&to, Duration::from_millis(40)) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
        };
        (0..n).filter(answered).count()
    })
}

fn a_syn_flood_is_held_back_and_a_swap_keeps_what_was_counted(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("syn-flood")?;
    check(connections(&rig, 30)? == 30, || "B did not answer all without a filter".into())?;
    // One worker's share of a limit depends on how many workers there are; nobody gets a token back within the test.
    let config = "rate = 1; burst = 64";
    rig.router.ok(&["filter", "load", "syn", "--module", &file, "--config", config])?;
    let let_through = connections(&rig, 120)?;
    check((1..=70).contains(&let_through), || format!("{let_through} of 120 connections were let through"))?;
    let limited = counter(&rig, "syn", "limited")? + counter(&rig, "syn", "limited_new")?;
    check(limited >= 50, || format!("{limited} were counted as limited"))?;
    check(rig.drops("filtered")? >= limited, || "the drops were not counted by the router".into())?;
    reaches(&rig.net.a, TwoHosts::B)?;
    // The next generation knows the source, which has no tokens left.
    rig.router.ok(&["filter", "swap", "syn", "--module", &file])?;
    let after = connections(&rig, 20)?;
    check(after <= 8, || format!("{after} connections were let through after a swap: state was lost"))?;
    let show = rig.router.ok(&["filter", "show", "syn"])?;
    check(show.contains("config: rate = 1; burst = 64"), || format!("the swap lost the configuration:\n{show}"))?;
    rig.router.ok(&["filter", "detach", "syn"])?;
    check(connections(&rig, 20)? == 20, || "connections fail without the filter".into())
}

/// A DNS query for an A record.
fn query(name: &str) -> Vec<u8> {
    let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        q.push(label.len() as u8);
        q.extend(label.as_bytes());
    }
    q.extend([0, 0, 1, 0, 1]);
    q
}

/// Sends ten queries from A to B; how many came.
fn queries(rig: &Rig, name: &str) -> Result<usize> {
    let receiver = rig.net.b.run(|| {
        let s = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?;
        s.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok::<_, std::io::Error>(s)
    })?;
    let receiver = receiver.map_err(|e| LabError::Failed(format!("port 53 of B: {e}")))?;
    let packet = query(name);
    let sent = rig.net.a.run(move || {
        let s = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        (0..10).try_for_each(|_| s.send_to(&packet, (TwoHosts::B, 53)).map(drop))
    })?;
    sent.map_err(|e| LabError::Failed(format!("sending queries: {e}")))?;
    let mut buffer = [0; 512];
    Ok(std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).take(10).count())
}

fn a_name_that_is_listed_while_the_filter_runs_is_blocked_at_once(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("dns-blocklist")?;
    let refused = rig.router.fails(&["filter", "load", "dns", "--module", &file])?;
    check(refused.contains("tables"), || format!("without --allow: {refused}"))?;
    rig.router.ok(&["filter", "table", "create", "blocklist", "exact"])?;
    rig.router.ok(&[
        "filter",
        "load",
        "dns",
        "--module",
        &file,
        "--allow",
        "tables,reject",
        "--table",
        "names=blocklist",
    ])?;
    let want = |step: &str, expected: [usize; 3]| -> Result<()> {
        let names = ["ads.example.com", "www.good.example.com", "example.org"];
        let mut got = [0; 3];
        for (got, name) in got.iter_mut().zip(names) {
            *got = queries(&rig, name)?;
        }
        check(got == expected, || format!("{step}: {got:?} queries came instead of {expected:?}"))
    };
    want("an empty table", [10, 10, 10])?;
    rig.router.ok(&["filter", "table", "add", "blocklist", "example.com", "good.example.com=1"])?;
    want("a name and an exception", [0, 10, 10])?;
    let list = rig.router.dir().write("list.txt", "# the other one\nexample.org  # all of it\n")?;
    rig.router.ok(&["filter", "table", "replace", "blocklist", "-f", &list.display().to_string()])?;
    want("another list", [10, 10, 0])?;
    let refused = rig.router.fails(&["filter", "table", "remove", "blocklist"])?;
    check(refused.contains("in use by dns"), || refused.clone())?;
    rig.router.ok(&["filter", "table", "delete", "blocklist", "example.org"])?;
    want("an empty table again", [10, 10, 10])?;
    check(counter(&rig, "dns", "blocked")? == 20, || "the filter counted otherwise".into())
}

fn a_table_of_a_file_follows_the_file(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("dns-blocklist")?;
    let config = format!(
        "{}[[table]]\nname = \"names\"\nkind = \"exact\"\nfile = \"names.txt\"\n\n\
         [[filter]]\nname = \"dns\"\nmodule = \"{file}\"\nallow = [\"tables\", \"reject\"]\n",
        rig.base()
    );
    rig.router.dir().write("names.txt", "ads.example.com\n")?;
    let path = rig.router.write_config(&config)?.display().to_string();
    rig.router.ok(&["apply", &path])?;
    check(queries(&rig, "ads.example.com")? == 0, || "the name of the file is not blocked".into())?;
    let generation = rig.router.json(&["filter", "show", "dns"])?["generation"].clone();
    rig.router.dir().write("names.txt", "tracker.example.com\n")?;
    let steps = rig.router.json(&["apply", &path])?["steps"].clone();
    check(elements(&steps).len() == 1, || format!("more than the table was touched: {steps}"))?;
    check(queries(&rig, "ads.example.com")? == 10, || "the old name is still blocked".into())?;
    check(queries(&rig, "tracker.example.com")? == 0, || "the new name is not blocked".into())?;
    check(rig.router.json(&["filter", "show", "dns"])?["generation"] == generation, || {
        "the filter was swapped".into()
    })?;
    rig.router.dir().write("names.txt", "tracker.example.com\nbad entry with words\n")?;
    let error = rig.router.fails(&["apply", &path])?;
    check(error.contains("names.txt:2"), || format!("the line is not named: {error}"))?;
    check(queries(&rig, "tracker.example.com")? == 0, || "a broken file changed the table".into())
}

fn a_shadow_is_compared_on_live_packets_and_promoted(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("dns-blocklist")?;
    rig.router.ok(&["filter", "table", "create", "names", "exact"])?;
    rig.router.ok(&["filter", "table", "add", "names", "ads.example.com"])?;
    let load = |more: &[&str]| {
        let mut args = vec!["filter", "load"];
        args.extend(more);
        args.extend(["--module", &file, "--allow", "tables,reject"]);
        rig.router.ok(&args)
    };
    // Port 54 in force: nothing is blocked. Port 53 in the shadow.
    load(&["dns", "--config", "ports = 54"])?;
    load(&["--shadow", "dns", "--config", "ports = 53"])?;
    check(queries(&rig, "ads.example.com")? == 10, || "the shadow dropped packets".into())?;
    let out = rig.router.dir().path().join("differences.pcapng");
    let diff = rig.router.json(&["filter", "diff", "dns", "-w", &out.display().to_string()])?;
    check(diff["counts"]["verdict"] == 10, || format!("{diff}"))?;
    check(diff["counts"]["packets"].as_u64() >= Some(10), || format!("{diff}"))?;
    let capture = std::fs::read(&out).unwrap_or_default();
    let comment = b"filter: pass; shadow: drop";
    check(capture.windows(comment.len()).filter(|w| w == comment).count() == 10, || "the comments are missing".into())?;
    rig.router.ok(&["filter", "promote", "dns"])?;
    check(queries(&rig, "ads.example.com")? == 0, || "the promoted filter does not block".into())?;
    rig.router.fails(&["filter", "diff", "dns"])?;
    rig.router.ok(&["filter", "rollback", "dns"])?;
    check(queries(&rig, "ads.example.com")? == 10, || "the rollback did not bring the old configuration back".into())?;
    load(&["--shadow", "dns", "--config", "ports = 53"])?;
    rig.router.ok(&["filter", "drop-shadow", "dns"])?;
    rig.router.fails(&["filter", "promote", "dns"]).map(drop)
}

fn a_wrong_module_is_refused_in_words_and_changes_nothing(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("syn-flood")?;
    rig.router.ok(&["filter", "load", "syn", "--module", &file])?;
    let before = rig.router.json(&["filter", "show", "syn"])?["generation"].clone();
    let dir = rig.router.dir();
    let text = dir.write("text.wasm", "(module)")?.display().to_string();
    for (args, word) in [
        (vec!["--module", text.as_str()], "text form"),
        (vec!["--module", file.as_str(), "--config", "rat = 3"], "rat"),
        (vec!["--module", file.as_str(), "--allow", "edits"], "edit"),
        (vec!["--module", file.as_str(), "--limit", "memory_page=3"], "memory_pages"),
        (vec!["--module", "/nowhere.wasm"], "/nowhere.wasm"),
    ] {
        let mut swap = vec!["filter", "swap", "syn"];
        swap.extend(args);
        let error = rig.router.fails(&swap)?;
        check(error.contains(word), || format!("{swap:?}: {error}"))?;
    }
    let config = format!("{}[[filter]]\nname = \"x\"\nmodule = \"{file}\"\nconfig = \"rat = 3\"\n", rig.base());
    let path = rig.router.write_config(&config)?.display().to_string();
    let error = rig.router.fails(&["check", &path])?;
    check(error.contains("error:") && error.contains("rat"), || format!("check: {error}"))?;
    let after = rig.router.json(&["filter", "show", "syn"])?["generation"].clone();
    check(before == after, || format!("the generation went from {before} to {after}"))
}

fn compiled_code_is_found_again(lab: Lab) -> Result<()> {
    let dir = TempDir::new("cache")?;
    let net = TwoHosts::new(lab)?;
    let config = format!("[filters]\ncache = \"{}\"\n\n{}", dir.path().join("wasm").display(), net.ports(""));
    let rig = Rig::with(net, &config)?;
    let file = module("syn-flood")?;
    rig.router.ok(&["filter", "load", "one", "--module", &file])?;
    rig.router.ok(&["filter", "load", "two", "--module", &file, "--config", "rate = 7"])?;
    let stats = rig.router.json(&["filter", "show", "two"])?["code_cache"].clone();
    check(stats["hits"] == 1 && stats["misses"] == 1 && stats["refused"] == 0, || format!("{stats}"))
}

fn swaps_of_modules_under_load_lose_no_packet(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let file = module("syn-flood")?;
    rig.router.ok(&["filter", "load", "syn", "--module", &file])?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, 4000, 4)?;
    let load = UdpSender::new(TwoHosts::B, 4000).flows(4).window(receiver.window()).start(&rig.net.a)?;
    for n in 0..40 {
        rig.router.ok(&["filter", "swap", "syn", "--module", &file, "--config", &format!("rate = {}", 10 + n)])?;
    }
    let sent = load.stop()?.sent;
    receiver.wait_for(sent, Duration::from_millis(500));
    let came = receiver.finish()?.total();
    let missed = rig.missed()?;
    check(sent > 1000 && came.duplicates == 0 && sent - came.received <= missed, || {
        format!("{} of {sent} packets came, {missed} missed: {:?}", came.received, rig.router.ok(&["netstat", "-d"]))
    })?;
    let generation = rig.router.json(&["filter", "show", "syn"])?["generation"].clone();
    check(generation == 41, || format!("generation {generation} after 40 swaps"))?;
    check(total(&rig, "syn", "packets")? >= came.received, || "the filter was not asked about all packets".into())
}

/// A filter that hangs on UDP port 6666 and traps on 6667, and one that passes all; both from `smpnet sdk new`.
fn bad_and_good(dir: &Path) -> Result<[String; 2]> {
    let bad = "match packet.udp().map(|u| u.destination_port()) {
                Some(6666) => loop { core::hint::spin_loop() },
                Some(6667) => core::arch::wasm32::unreachable(),
                _ => {}
            }
            if packet.tcp()";
    let mut made = Vec::new();
    for (name, body) in [("bad-one", bad), ("good-one", "if packet.tcp()")] {
        let folder = dir.join(name);
        let out = Command::new(binary("smpnet")?).current_dir(dir).args(["sdk", "new", "filter", name]).output();
        let out = out.map_err(|e| LabError::Failed(format!("smpnet sdk new: {e}")))?;
        check(out.status.success(), || String::from_utf8_lossy(&out.stderr).into_owned())?;
        let source = folder.join("src/lib.rs");
        let text = std::fs::read_to_string(&source).unwrap_or_default();
        check(text.contains("if packet.tcp()"), || "the template is another one".into())?;
        let wrote = std::fs::write(&source, text.replacen("if packet.tcp()", body, 1));
        wrote.map_err(|e| LabError::Failed(format!("{}: {e}", source.display())))?;
        let module = dir.join(format!("{name}.wasm"));
        rust_filter(&folder, &dir.join("target"), &format!("{}.wasm", name.replace('-', "_")), &module)?;
        made.push(module.display().to_string());
    }
    let [bad, good] = [made.remove(0), made.remove(0)];
    Ok([bad, good])
}

fn poke(from: &Host, port: u16) -> Result<()> {
    let sent = from.run(move || {
        let s = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        s.send_to(b"poke", (TwoHosts::B, port)).map(drop)
    })?;
    sent.map_err(|e| LabError::Failed(format!("sending to port {port}: {e}")))
}

fn a_filter_that_hangs_or_traps_gives_way_to_what_ran_before_while_traffic_flows(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let dir = TempDir::new("bad-filter")?;
    let [bad, good] = bad_and_good(dir.path())?;
    rig.router.ok(&["filter", "load", "f", "--module", &good, "--config", "port = 23", "--faults", "1/60"])?;
    reaches(&rig.net.a, TwoHosts::B)?;
    let receiver = UdpReceiver::start(&rig.net.b, TwoHosts::B, 4000, 4)?;
    let load = UdpSender::new(TwoHosts::B, 4000).flows(4).window(receiver.window()).start(&rig.net.a)?;
    for (port, words) in [(6666, "budget"), (6667, "unreachable")] {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A poke of before that comes late, on a busy machine, is another fault than the one that is waited for.
        while !fails_and_is_replaced(&rig, &bad, port, words)? {
            check(Instant::now() < deadline, || format!("port {port}: no fault says {words}"))?;
        }
    }
    let sent = load.stop()?.sent;
    receiver.wait_for(sent, Duration::from_millis(500));
    let came = receiver.finish()?.total();
    // What lay in a burst that failed passed by policy, so nothing is lost either.
    let missed = rig.missed()?;
    check(sent > 1000 && sent - came.received <= missed, || format!("{} of {sent} packets came", came.received))?;
    // Without anything before it, detach takes the filter off its hooks.
    rig.router.ok(&["filter", "load", "g", "--module", &bad, "--on-fault", "detach", "--priority", "5"])?;
    poke(&rig.net.a, 6667)?;
    rig.wait(&["filter", "show", "g"], Duration::from_secs(5), |f| f["state"] == "detached")?;
    let list = rig.router.ok(&["filter", "list"])?;
    check(list.contains("g: ") && list.contains("detached"), || list.clone())?;
    reaches(&rig.net.a, TwoHosts::B)
}

/// Swaps the bad filter in and pokes it until it fails and the good one is back. Whether it failed for the reason named.
fn fails_and_is_replaced(rig: &Rig, bad: &str, port: u16, words: &str) -> Result<bool> {
    // It may fail before anybody has looked at it.
    let bad_generation = rig.router.json(&["filter", "show", "f"])?["generation"].as_u64().map(|before| before + 1);
    rig.router.ok(&["filter", "swap", "f", "--module", bad])?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let restored = loop {
        poke(&rig.net.a, port)?;
        let now = rig.router.json(&["filter", "show", "f"])?;
        if now["generation"].as_u64() > bad_generation {
            break now;
        }
        check(Instant::now() < deadline, || format!("port {port}: nothing came back: {now}"))?;
        std::thread::sleep(Duration::from_millis(20));
    };
    check(restored["state"] == "running" && !restored["restored_from"].is_null(), || format!("{restored}"))?;
    check(restored["module"]["manifest"]["name"] == "good-one", || format!("{restored}"))?;
    let last = elements(&restored["faults"]).last().cloned().unwrap_or(Value::Null);
    check(last["trace"].to_string().contains("filter"), || format!("the trap is not symbolised: {last}"))?;
    Ok(last["line"].as_str().is_some_and(|l| l.contains(words)))
}

/// The commands of the README's tour, as a script. Remarks stay, for they are the shell's, too.
fn tour() -> Result<Vec<String>> {
    let readme = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(&readme).map_err(|e| LabError::Failed(format!("{}: {e}", readme.display())))?;
    let section = text.split("\n## ").find(|s| s.starts_with("Write a filter\n")).unwrap_or("").to_owned();
    let commands: Vec<String> = section.lines().filter_map(|l| l.strip_prefix("$ ")).map(str::to_owned).collect();
    check(commands.len() >= 10, || format!("the README has {} commands", commands.len()))?;
    Ok(commands)
}

fn the_tour_of_the_readme_takes_less_than_five_minutes(lab: Lab) -> Result<()> {
    let rig = Rig::start(lab, "")?;
    let dir = TempDir::new("tour")?;
    // A capture of what the tour's filter is about, as its reader would have one.
    let traffic = dir.path().join("traffic.pcapng");
    std::fs::write(&traffic, telnet()).map_err(|e| LabError::Failed(e.to_string()))?;
    let began = Instant::now();
    let mut script = String::from("set -e\n");
    for command in tour()? {
        script.push_str(&format!("{command}\n"));
        if command.starts_with("cd ") {
            script.push_str(&format!("cp '{}' .\n", traffic.display()));
        }
        if command.contains("filter load") {
            script.push_str("smpnet filter list\n");
        }
    }
    let program = binary("smpnet")?;
    let bin = program.parent().map_or_else(String::new, |p| p.display().to_string());
    let shell = cargo();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut sh = Command::new("sh");
    // What cargo told this test is not for the reader's cargo.
    shell.get_envs().filter(|(_, v)| v.is_none()).for_each(|(k, _)| _ = sh.env_remove(k));
    let out = sh
        .arg("-c")
        .arg(&script)
        .current_dir(dir.path())
        .env("PATH", format!("{bin}:{path}"))
        .env("SMPNET_SOCKET", rig.router.socket())
        .env_remove("CARGO_TARGET_DIR")
        // The test has no network; the crates are there, for this one was built with them.
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .map_err(|e| LabError::Failed(format!("sh: {e}")))?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    check(out.status.success(), || format!("{script}\n{said}"))?;
    let took = began.elapsed();
    println!("the tour took {:.1} s", took.as_secs_f64());
    check(took < Duration::from_secs(300), || format!("the tour took {} s", took.as_secs()))?;
    for word in
        ["test result: ok", "in order", "1 dropped", "over native", "loaded: generation 1", "swapped", "rolled back"]
    {
        check(said.contains(word), || format!("the tour never said \"{word}\":\n{said}"))?;
    }
    // What runs at the end is what was loaded first.
    let show = rig.router.json(&["filter", "show", "no-telnet"])?;
    check(show["config"]["config"] == "port = 23" && show["generation"] == 3, || format!("{show}"))
}

/// A pcap of two IP packets: TCP to port 23, and to port 22.
fn telnet() -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 101].iter().flat_map(|w| w.to_le_bytes()).collect();
    for port in [23u16, 22] {
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend(4000u16.to_be_bytes());
        ip.extend(port.to_be_bytes());
        ip.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0]);
        file.extend([1u32, 0, ip.len() as u32, ip.len() as u32].iter().flat_map(|w| w.to_le_bytes()));
        file.extend(ip);
    }
    file
}
