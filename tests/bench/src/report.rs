//! How figures are printed: one JSON line for each case, and a table for people.

use serde::Serialize;

/// What one packet costs. Fields that are unknown are null.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// Name of the benchmark.
    pub bench: String,
    /// Name of the case in it.
    pub case: String,
    /// Nanoseconds per packet on one core, the generator's cost subtracted.
    pub ns_per_packet: Option<f64>,
    /// The same in cycles of the time-stamp counter.
    pub cycles_per_packet: Option<f64>,
    /// The same in cycles of the core, which may be faster or slower than that counter.
    pub core_cycles_per_packet: Option<f64>,
    /// Instructions per packet as callgrind counts them.
    pub instructions_per_packet: Option<f64>,
    /// Misses of the first-level data cache per packet, as callgrind simulates it.
    pub d1_misses_per_packet: Option<f64>,
    /// Misses of the last-level cache per packet, as callgrind simulates it.
    pub ll_misses_per_packet: Option<f64>,
    /// Cache misses per packet as the processor counts them.
    pub hardware_cache_misses_per_packet: Option<f64>,
    /// What the project allows, in cycles of the time-stamp counter.
    pub budget_cycles: Option<f64>,
    /// What the case costs over the one that it is measured in turn with, in cycles of the time-stamp counter.
    pub added_cycles: Option<f64>,
    /// What the project allows of that.
    pub budget_added_cycles: Option<f64>,
    /// What it is compared with, measured in the same run.
    pub peer: Option<String>,
    /// That one's nanoseconds per packet.
    pub peer_ns_per_packet: Option<f64>,
    /// What the project allows, as a multiple of the peer.
    pub budget_ratio: Option<f64>,
    /// Whether it stayed within its budget; null without one, or when it was not measured.
    pub met: Option<bool>,
    /// Why a figure is null, and what else is to be known.
    pub note: Option<String>,
}

/// Prints figures as JSON lines on standard output, or as a table.
pub fn print(figures: &[Figure], json: bool) {
    if json {
        for f in figures {
            match serde_json::to_string(f) {
                Ok(line) => println!("{line}"),
                Err(e) => eprintln!("{}/{}: {e}", f.bench, f.case),
            }
        }
        return;
    }
    let number = |v: Option<f64>, digits| v.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"));
    println!(
        "{:<58} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>7}  budget, peer",
        "case", "ns/pkt", "cycles", "core", "instr", "D1", "LL", "added"
    );
    for f in figures {
        println!(
            "{:<58} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>7}  {}",
            format!("{}/{}", f.bench, f.case),
            number(f.ns_per_packet, 1),
            number(f.cycles_per_packet, 1),
            number(f.core_cycles_per_packet, 1),
            number(f.instructions_per_packet, 1),
            number(f.d1_misses_per_packet, 2),
            number(f.ll_misses_per_packet, 3),
            number(f.added_cycles, 1),
            words(f),
        );
    }
}

/// Whether a budget is met, in a word.
pub fn word(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn words(f: &Figure) -> String {
    let mut parts = Vec::new();
    let verdict = f.met.map_or(String::new(), |met| format!(": {}", word(met)));
    if let Some(most) = f.budget_cycles {
        parts.push(format!("at most {most} cycles{verdict}"));
    }
    if let Some(most) = f.budget_added_cycles {
        parts.push(format!("at most {most:.1} cycles added{verdict}"));
    }
    match (&f.peer, f.peer_ns_per_packet, f.ns_per_packet) {
        (Some(name), Some(peer), Some(ns)) => parts.push(format!("{name} {peer:.1} ns, {:.2} times", ns / peer)),
        (Some(name), Some(peer), None) => parts.push(format!("{name} {peer:.1} ns")),
        (Some(name), None, _) => parts.push(format!("{name} not measured")),
        (None, ..) => {}
    }
    if let Some(most) = f.budget_ratio {
        parts.push(format!("at most {most} times{verdict}"));
    }
    if let Some(note) = &f.note {
        parts.push(format!("[{note}]"));
    }
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

/// The middle of some measurements.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_null() {
        let f = Figure { bench: "forward".into(), case: "x".into(), ns_per_packet: Some(1.5), ..Figure::default() };
        let json: serde_json::Value = serde_json::to_value(f).unwrap();
        assert_eq!(json["ns_per_packet"], 1.5);
        assert!(json["peer"].is_null() && json["instructions_per_packet"].is_null());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
