//! Filters swapped under full load. Times are for benches; what must hold on a busy machine too is asserted here.

use std::process::Command;

#[test]
fn swaps_under_full_load_lose_no_packet_mix_no_burst_and_leave_memory_as_it_was() {
    let out = Command::new(env!("CARGO_BIN_EXE_smpnet-bench"))
        .args(["--json", "swap", "--swaps", "200"])
        .output()
        .expect("smpnet-bench starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    for kind in ["bpf: all", "modules: all"] {
        let verdict = lines.iter().find(|l| l["bench"] == "swap" && l["case"] == kind);
        let verdict = verdict.unwrap_or_else(|| panic!("no {kind}: {text}{}", String::from_utf8_lossy(&out.stderr)));
        for what in ["lost", "bursts_of_two_generations"] {
            assert_eq!(verdict[what], 0, "{what}: {verdict}");
        }
        // Once for each time that the bench asks the worker what it did, at most; never for a swap, of which there are 200.
        assert!(verdict["sleeps"].as_i64().is_some_and(|n| n <= 2), "{verdict}");
        let grown = |what: &str| {
            let number = |when: &str| verdict[format!("{what}_{when}")].as_i64().expect("a number");
            number("after") - number("before")
        };
        assert!(grown("maps") <= 64 && grown("resident_kib") <= 2048, "{verdict}");
    }
}
