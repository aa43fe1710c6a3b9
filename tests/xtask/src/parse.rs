//! Reads what cargo's tests print.

/// How many tests did what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, and steps that failed without saying which test did.
    pub failed: u64,
    /// Names of tests that failed.
    pub failures: Vec<String>,
    /// What was not tested, with the reasons.
    pub skipped: Vec<String>,
}

impl Counts {
    /// One that passed, or one that failed.
    pub fn one(ok: bool) -> Counts {
        Counts { passed: ok.into(), failed: (!ok).into(), ..Counts::default() }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures.iter().cloned());
        self.skipped.extend(other.skipped.iter().cloned());
    }
}

/// Counts the `test result:` lines of a run of `cargo test -- --show-output`.
///
/// A test that cannot be done here prints `SKIPPED: reason` and returns: the harness calls it passed, we do not.
pub fn tests(output: &str) -> Counts {
    let mut counts = Counts::default();
    let mut crate_name = String::new();
    let mut current = String::new();
    let mut called_passed = 0;
    for line in output.lines() {
        let line = line.trim_end();
        if let Some(rest) = line.trim_start().strip_prefix("Running ") {
            crate_name = rest.rsplit('/').next().unwrap_or(rest).trim_end_matches(')').to_string();
            if let Some(at) = crate_name.rfind('-') {
                crate_name.truncate(at);
            }
        } else if let Some(rest) = line.trim_start().strip_prefix("Doc-tests ") {
            crate_name = format!("{rest} (doc)");
        } else if let Some(name) = line.strip_prefix("---- ") {
            current = name.trim_end_matches(" ----").trim_end_matches(" stdout").to_string();
        } else if let Some(reason) = line.strip_prefix("SKIPPED: ") {
            counts.skipped.push(format!("{crate_name}: {current}: {reason}"));
            called_passed += 1;
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, word)) = rest.split_once(" ... ")
            && let Some(reason) = word.strip_prefix("ignored")
        {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() { "marked #[ignore] without a reason" } else { reason };
            counts.skipped.push(format!("{crate_name}: {name}: {reason}"));
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, word)) = rest.split_once(" ... ")
            && word.starts_with("FAILED")
        {
            counts.failures.push(format!("{crate_name}: {name}"));
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |what: &str| -> u64 {
                let before = rest.split(what).next().unwrap_or("").trim_end();
                before.rsplit([' ', '.', ';']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
            };
            counts.passed += number("passed");
            counts.failed += number("failed");
        }
    }
    counts.passed = counts.passed.saturating_sub(called_passed);
    counts
}

/// The part of a failed step's output that says why: what failed tests printed, else compiler errors and panics, else the
/// end. No more than `most` lines.
pub fn why(output: &str, most: usize) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let mut told = vec![];
    let mut failures = false;
    for line in &lines {
        // With --show-output the tests that passed have sections of their own, under "successes:".
        match line.trim_end() {
            "failures:" => failures = true,
            "successes:" => failures = false,
            l if l.starts_with("test result:") || l.trim_start().starts_with("Running ") => failures = false,
            // A program that died says so outside of every section.
            l if failures || l.contains("process didn't exit successfully") && l.contains("(signal: ") => {
                told.push(*line)
            }
            _ => {}
        }
    }
    if told.is_empty() {
        let first = lines.iter().position(|l| l.starts_with("error") || l.contains("panicked at"));
        let from = first.unwrap_or_else(|| lines.len().saturating_sub(most));
        told = lines[from..].to_vec();
    }
    told.truncate(most);
    told.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{tests, why};

    #[test]
    fn results_of_several_crates_are_summed_and_skipped_tests_named() {
        let text = "\
     Running unittests src/lib.rs (target/release/deps/smpnet_bpf-0123abcd)

running 3 tests
test a ... ok
test b ... ignored, needs a NIC
test c ... ok

successes:

---- c stdout ----
SKIPPED: needs libpcap0.8

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests smpnet_lab
test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s
";
        let counts = tests(text);
        assert_eq!((counts.passed, counts.failed), (5, 1));
        assert_eq!(counts.skipped, ["smpnet_bpf: b: needs a NIC", "smpnet_bpf: c: needs libpcap0.8"]);
    }
    #[test]
    fn a_failed_test_is_named_and_only_its_output_is_shown() {
        let text = "\
     Running tests/host.rs (target/release/deps/host-0123abcd)
test a ... ok
test b ... FAILED
test c ... FAILED (1.3 s)

successes:

---- a stdout ----
a million routes

successes:
    a

failures:

---- b stdout ----
thread 'b' panicked at tests/host.rs:1:2:

failures:
    b

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s
error: test failed, to rerun pass `-p smpnet --test host`
     Running tests/other.rs (target/release/deps/other-0123abcd)
error: test failed, to rerun pass `-p smpnet --test other`

Caused by:
  process didn't exit successfully: `target/release/deps/other-0123abcd` (signal: 11, SIGSEGV: invalid memory reference)
";
        assert_eq!(tests(text).failures, ["host: b", "host: c"]);
        let why = why(text, 80);
        assert!(why.contains("panicked at tests/host.rs") && why.contains("SIGSEGV"), "{why}");
        assert!(!why.contains("a million routes"), "{why}");
        assert_eq!(super::why("error: no\nmore", 1), "error: no");
    }
}
