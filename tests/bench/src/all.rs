//! `all`: every benchmark in turn, each in a process of its own, as JSON lines, and what came of the budgets.

use crate::machine::Machine;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

/// The benchmarks, with what keeps all of them together under a quarter of an hour on two processors.
const BENCHES: [&[&str]; 12] = [
    &["forward", "--runs", "7"],
    &["forward", "--instructions", "--untimed", "--pfil", "none,empty,inet"],
    &["bpf"],
    &["filter"],
    &["steady"],
    &["swap", "--swaps", "500"],
    &["update"],
    &["scale"],
    &["latency"],
    &["host"],
    &["peer"],
    &["npf"],
];

/// Options of `all`.
#[derive(clap::Args)]
pub struct Args {
    /// Exits with 1 when a budget is missed, and not only with 2 when a benchmark failed.
    #[arg(long)]
    strict: bool,
    /// Only these benchmarks.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    only: Vec<String>,
}

/// What came of some benchmarks.
#[derive(Default)]
struct Sum {
    figures: u32,
    met: u32,
    missed: Vec<String>,
    /// Figures that are null, and why.
    unknown: BTreeMap<String, String>,
    failed: BTreeMap<String, String>,
}

/// Runs them. False when a budget is missed and that matters.
pub fn run(args: &Args, json: bool) -> Result<bool, Box<dyn Error>> {
    let start = Instant::now();
    let machine = serde_json::json!({ "bench": "machine", "machine": Machine::look() });
    println!("{machine}");
    if let Some(name) = args.only.iter().find(|name| BENCHES.iter().all(|b| b[0] != name.as_str())) {
        return Err(format!("there is no benchmark {name}").into());
    }
    let mut sum = Sum::default();
    for bench in BENCHES.iter().filter(|b| args.only.is_empty() || args.only.iter().any(|name| name == b[0])) {
        let began = Instant::now();
        if let Err(e) = sum.watch(bench, json) {
            sum.failed.insert(bench.join(" "), e.to_string());
        }
        eprintln!("{} took {:.0} s", bench.join(" "), began.elapsed().as_secs_f64());
    }
    sum.print(json, start.elapsed().as_secs_f64());
    if !sum.failed.is_empty() {
        return Err("not every benchmark could be run".into());
    }
    Ok(sum.missed.is_empty() || !args.strict)
}

impl Sum {
    /// Runs one and hands its lines on.
    fn watch(&mut self, bench: &[&str], json: bool) -> Result<(), Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--json"]).args(bench).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("no pipes".into());
        };
        let errors = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if json {
                println!("{line}");
            }
            match serde_json::from_str(&line) {
                Ok(value) => self.note(&value, json),
                Err(_) => eprintln!("{}: {line}", bench[0]),
            }
        }
        let status = child.wait()?;
        let errors = errors.join().unwrap_or_default();
        // 1 says that a budget is missed, which the lines say as well.
        match status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(format!("{status}: {}", errors.trim()).into()),
        }
    }

    /// Counts a figure.
    fn note(&mut self, figure: &Value, json: bool) {
        let text = |key: &str| figure[key].as_str().unwrap_or_default();
        let name = format!("{}/{}", text("bench"), text("case"));
        self.figures += 1;
        let verdict = match figure["met"].as_bool() {
            Some(true) => {
                self.met += 1;
                "met"
            }
            Some(false) => {
                self.missed.push(name.clone());
                "MISSED"
            }
            None => "-",
        };
        let null = |key: &str| figure.get(key).is_some_and(Value::is_null);
        if null("value") || null("ns_per_packet") && null("instructions_per_packet") {
            self.unknown.insert(name.clone(), text("note").to_owned());
        }
        if !json {
            let value = figure.get("value").or(figure.get("cycles_per_packet")).and_then(Value::as_f64);
            let unit = figure["unit"].as_str().unwrap_or("cycles");
            let value = value.map_or_else(|| "-".into(), |v| format!("{v:.2} {unit}"));
            println!("{name:<80} {value:>16} {verdict}");
        }
    }

    fn print(&self, json: bool, seconds: f64) {
        let line = serde_json::json!({
            "bench": "all", "case": "summary", "seconds": seconds, "figures": self.figures, "budgets_met": self.met,
            "budgets_missed": self.missed, "not_measured": self.unknown, "failed": self.failed,
        });
        if json {
            println!("{line}");
            return;
        }
        println!(
            "\n{} figures in {seconds:.0} s; {} budgets met, {} missed",
            self.figures,
            self.met,
            self.missed.len()
        );
        self.missed.iter().for_each(|name| println!("  missed: {name}"));
        self.unknown.iter().for_each(|(name, why)| println!("  not measured: {name}: {why}"));
        self.failed.iter().for_each(|(name, why)| println!("  failed: {name}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;
    use serde_json::json;

    #[test]
    fn budgets_are_counted_and_what_is_null_is_named_with_its_reason() {
        let mut sum = Sum::default();
        for figure in [
            json!({"bench": "a", "case": "1", "value": 1.0, "met": true}),
            json!({"bench": "a", "case": "2", "value": 2.0, "met": false}),
            json!({"bench": "a", "case": "3", "value": null, "met": null, "note": "no iperf3"}),
            json!({"bench": "b", "case": "4", "ns_per_packet": 3.0, "met": null}),
        ] {
            sum.note(&figure, true);
        }
        assert_eq!((sum.figures, sum.met, &sum.missed[..]), (4, 1, &["a/2".to_owned()][..]));
        assert_eq!(sum.unknown.into_iter().collect::<Vec<_>>(), [("a/3".to_owned(), "no iperf3".to_owned())]);
    }
}
