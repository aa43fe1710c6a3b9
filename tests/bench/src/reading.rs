//! A figure that is not the cost of a packet: a rate, a share, a delay, a count. One JSON line for each, or a line for people.

use crate::report::word;
use serde::Serialize;
use serde_json::Value;

/// One figure. Fields that are unknown are null.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// Name of the benchmark.
    pub bench: &'static str,
    /// Name of the case in it.
    pub case: String,
    /// The figure.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// What it is compared with, measured in the same run.
    pub peer: Option<String>,
    /// That one's figure, in the same unit.
    pub peer_value: Option<f64>,
    /// The figure as a multiple of that one's.
    pub ratio: Option<f64>,
    /// What the project allows.
    pub budget: Option<Budget>,
    /// Whether it stayed within that; null without a budget, or when it was not measured.
    pub met: Option<bool>,
    /// Why a figure is null, and what else is to be known.
    pub note: Option<String>,
    /// What it was made of.
    pub detail: Value,
}

/// What the project allows: of the figure, or of its ratio to the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// The figure is not larger.
    AtMost(f64),
    /// The ratio is not smaller.
    RatioAtLeast(f64),
}

impl Reading {
    /// A figure that was measured.
    pub fn new(bench: &'static str, case: impl Into<String>, value: f64, unit: &'static str) -> Reading {
        let mut r = Reading::missing(bench, case, unit, "");
        (r.value, r.note) = (Some(value), None);
        r
    }

    /// A figure that was not measured, and why.
    pub fn missing(
        bench: &'static str,
        case: impl Into<String>,
        unit: &'static str,
        why: impl Into<String>,
    ) -> Reading {
        Reading {
            bench,
            case: case.into(),
            value: None,
            unit,
            peer: None,
            peer_value: None,
            ratio: None,
            budget: None,
            met: None,
            note: Some(why.into()),
            detail: Value::Null,
        }
    }

    /// Measured, or not and why.
    pub fn of(bench: &'static str, case: impl Into<String>, value: Result<f64, String>, unit: &'static str) -> Reading {
        match value {
            Ok(value) => Reading::new(bench, case, value, unit),
            Err(why) => Reading::missing(bench, case, unit, why),
        }
    }

    /// Puts a peer beside it.
    pub fn beside(mut self, peer: impl Into<String>, value: Option<f64>) -> Reading {
        (self.peer, self.peer_value) = (Some(peer.into()), value);
        self.ratio = self.value.zip(value).map(|(ours, theirs)| ours / theirs);
        self
    }

    /// Judges it.
    pub fn budget(mut self, budget: Budget) -> Reading {
        self.budget = Some(budget);
        self.met = match budget {
            Budget::AtMost(most) => self.value.map(|v| v <= most),
            Budget::RatioAtLeast(least) => self.ratio.map(|r| r >= least),
        };
        self
    }

    /// Adds what else is to be known.
    pub fn note(mut self, note: impl Into<String>) -> Reading {
        let note = note.into();
        self.note = Some(match self.note.take() {
            Some(before) if !before.is_empty() => format!("{before}; {note}"),
            _ => note,
        });
        self
    }

    /// Adds what it was made of.
    pub fn detail(mut self, detail: Value) -> Reading {
        self.detail = detail;
        self
    }

    /// Prints it.
    pub fn print(&self, json: bool) {
        if json {
            match serde_json::to_string(self) {
                Ok(line) => println!("{line}"),
                Err(e) => eprintln!("{}/{}: {e}", self.bench, self.case),
            }
            return;
        }
        let number = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.3}"));
        let mut text =
            format!("{:<66} {:>14} {}", format!("{}/{}", self.bench, self.case), number(self.value), self.unit);
        if let Some(peer) = &self.peer {
            text += &format!(", {peer} {}, {} times", number(self.peer_value), number(self.ratio));
        }
        let verdict = self.met.map_or(String::new(), |met| format!(": {}", word(met)));
        match self.budget {
            Some(Budget::AtMost(most)) => text += &format!(" (at most {most}{verdict})"),
            Some(Budget::RatioAtLeast(least)) => text += &format!(" (at least {least} times{verdict})"),
            None => {}
        }
        if let Some(note) = &self.note {
            text += &format!(" [{note}]");
        }
        println!("{text}");
    }
}

/// Prints them; true unless a budget is missed.
pub fn print(readings: &[Reading], json: bool) -> bool {
    readings.iter().for_each(|r| r.print(json));
    readings.iter().all(|r| r.met != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_of_the_figure_or_of_its_ratio_and_what_was_not_measured_is_not_judged() {
        let r = Reading::new("scale", "x", 19.0, "Mpps").beside("one worker", Some(10.0));
        assert_eq!(r.clone().budget(Budget::RatioAtLeast(1.9)).met, Some(true));
        assert_eq!(r.clone().budget(Budget::RatioAtLeast(2.0)).met, Some(false));
        assert_eq!(r.budget(Budget::AtMost(18.0)).met, Some(false));
        let missing = Reading::of("host", "x", Err("no iperf3".into()), "Gbit/s");
        let missing = missing.beside("kernel", Some(1.0)).budget(Budget::RatioAtLeast(0.5));
        assert_eq!((missing.met, missing.note.as_deref()), (None, Some("no iperf3")));
        assert!(serde_json::to_value(&missing).unwrap()["value"].is_null());
    }
}
