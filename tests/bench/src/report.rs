//! How figures are printed: one JSON line for each case, and a table for people.

use serde::Serialize;

/// One figure. Fields that are unknown are null.
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
    /// Instructions per packet as callgrind counts them.
    pub instructions_per_packet: Option<f64>,
    /// What the project allows, in cycles.
    pub budget_cycles: Option<f64>,
    /// What it is compared with, measured in the same run.
    pub peer: Option<String>,
    /// That one's nanoseconds per packet.
    pub peer_ns_per_packet: Option<f64>,
    /// What the project allows, as a multiple of the peer.
    pub budget_ratio: Option<f64>,
    /// Whether it stayed within that; null when one of the two was not measured.
    pub met: Option<bool>,
    /// Why a figure is null.
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
    let number = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
    println!("{:<44} {:>8} {:>8} {:>8} {:>8}  peer", "case", "ns/pkt", "cycles", "instr", "budget");
    for f in figures {
        let peer = peer_text(f);
        println!(
            "{:<44} {:>8} {:>8} {:>8} {:>8}  {peer}",
            format!("{}/{}", f.bench, f.case),
            number(f.ns_per_packet),
            number(f.cycles_per_packet),
            number(f.instructions_per_packet),
            number(f.budget_cycles),
        );
    }
}

fn peer_text(f: &Figure) -> String {
    let mut text = match (&f.peer, f.peer_ns_per_packet, f.ns_per_packet) {
        (Some(name), Some(peer), Some(ns)) => format!("{name} {peer:.1} ns, {:.2} times", ns / peer),
        (Some(name), Some(peer), None) => format!("{name} {peer:.1} ns"),
        (Some(name), None, _) => format!("{name} not measured"),
        (None, ..) => "-".into(),
    };
    if let Some(most) = f.budget_ratio {
        let verdict = f.met.map_or("", |met| if met { ": met" } else { ": MISSED" });
        text.push_str(&format!(" (at most {most}{verdict})"));
    }
    if let Some(note) = &f.note {
        text.push_str(&format!(" [{note}]"));
    }
    text
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
