//! The packet path at work, instruction by instruction.

use std::process::Command;

#[test]
fn the_packet_path_neither_allocates_nor_locks_nor_enters_the_kernel() {
    let out = Command::new(env!("CARGO_BIN_EXE_smpnet-bench"))
        .args(["--json", "steady", "--flows", "256"])
        .output()
        .expect("smpnet-bench starts");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let seen: serde_json::Value = serde_json::from_str(text.trim()).expect("one line of JSON");
    assert_eq!(seen["packets"], 1024);
    for what in ["allocations", "syscalls", "locked"] {
        assert_eq!(seen[what], 0, "{what}: {seen}");
    }
}
