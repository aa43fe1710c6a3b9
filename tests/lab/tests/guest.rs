//! Guests: another Linux kernel as a peer.

use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use smpnet_lab::{Guest, Host, Lab, Ping, Result, check, mac, run_tests, tests};

fn main() -> ExitCode {
    run_tests(&tests![
        a_guest_runs_scripts_and_tells_how_they_ended,
        a_guest_and_a_host_reach_each_other_over_a_cable,
        a_guest_ends_with_the_thread_that_booted_it,
        a_module_that_no_kernel_has_skips_the_test,
    ])
}

fn a_guest_runs_scripts_and_tells_how_they_ended(lab: Lab) -> Result<()> {
    let host = Host::new(lab, "H")?;
    let mut peer = Guest::new().nic(&host, "tap0", mac(1, 2)).boot()?;
    println!("ready in {:.1} s", peer.boot_time.as_secs_f64());
    let ran = peer.sh("echo one; echo two >&2; printf three; exit 7")?;
    check((ran.code, ran.lines.as_slice()) == (7, &["one".into(), "two".into(), "three".into()]), || {
        format!("{ran:?}")
    })?;
    let all = peer.ok("seq 1 2000")?;
    check(all.len() == 2000 && all[1999] == "2000", || format!("{} lines", all.len()))?;
    let long: String =
        (0..500).map(|i| format!("echo line {i} of a script that is longer than any buffer\n")).collect();
    check(peer.ok(&long)?.len() == 500, || "a long script was cut".into())?;
    let error = peer.ok("cat /nowhere").expect_err("there is no such file").to_string();
    check(error.contains("can't open '/nowhere'"), || error)?;
    drop(peer);
    check(!host.has_link("tap0"), || "the cable outlived the guest".into())
}

fn a_guest_and_a_host_reach_each_other_over_a_cable(lab: Lab) -> Result<()> {
    let host = Host::new(lab, "H")?;
    let mut peer = Guest::new().program("ip").nic(&host, "tap0", mac(1, 2)).boot()?;
    host.add_addr("tap0", [10, 0, 0, 1].into(), 24)?;
    peer.ok("ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up")?;
    for payload in [56, 1472, 20_000] {
        let report = Ping::to([10, 0, 0, 2].into()).payload(payload).run(&host)?;
        check(report.clean(), || format!("{payload} bytes: {report:?}"))?;
    }
    let neighbour = host.neighbour("tap0", [10, 0, 0, 2].into())?;
    check(neighbour.as_ref().is_some_and(|n| n.mac == Some(mac(1, 2))), || format!("{neighbour:?}"))?;
    peer.ok("ping -c 3 -i 0.1 10.0.0.1").map(drop)
}

fn a_guest_ends_with_the_thread_that_booted_it(lab: Lab) -> Result<()> {
    let _ = lab;
    // As when the process is killed: nobody drops the guest.
    let booted = std::thread::spawn(|| Guest::new().boot().map(|peer| ManuallyDrop::new(peer).pid()));
    let pid = booted.join().expect("booting does not panic")?;
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|s| s.trim().chars().next())
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    // Dead, and not yet waited for: its parent is this process.
    while !matches!(state(), None | Some('Z')) {
        check(Instant::now() < deadline, || format!("QEMU (process {pid}) is left over"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn a_module_that_no_kernel_has_skips_the_test(lab: Lab) -> Result<()> {
    let _ = lab;
    match Guest::new().module("no_such_module").boot() {
        Err(e) => {
            check(e.to_string().contains("no_such_module") || e.to_string().contains("not installed"), || e.to_string())
        }
        Ok(_) => check(false, || "it booted".into()),
    }
}
