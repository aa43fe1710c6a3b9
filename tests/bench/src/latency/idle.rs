//! What the daemon costs while nothing happens.

use crate::{
    machine::process_ns,
    reading::{Budget, Reading},
};
use smpnet_lab::{Daemon, Host, Lab, LabError};
use std::time::{Duration, Instant};

/// Its interfaces.
const INTERFACES: usize = 100;
/// Share of a processor that it may use, in percent.
const BUDGET: f64 = 1.0;

/// Watches an idle router for a while.
pub fn measure(time: Duration) -> Reading {
    let value = watch(time).map_err(|e| e.to_string().trim().replace('\n', "; "));
    Reading::of("latency", format!("processor time of an idle router with {INTERFACES} TAP interfaces"), value, "%")
        .budget(Budget::AtMost(BUDGET))
}

fn watch(time: Duration) -> Result<f64, LabError> {
    let lab = Lab::enter()?;
    let host = Host::new(lab, "idle")?;
    let interfaces: String = (0..INTERFACES)
        .map(|i| format!("[[interface]]\nname = \"tap{i}\"\ndriver = \"tap\"\naddresses = [\"10.0.{i}.1/24\"]\n\n"))
        .collect();
    let mut daemon = Daemon::start(&host, &format!("[sysctl]\n\"net.inet.ip.dad_count\" = 0\n\n{interfaces}"))?;
    // What it does once it is up is not idleness.
    std::thread::sleep(Duration::from_secs(3));
    let used = || process_ns(daemon.pid()).ok_or_else(|| LabError::Failed("the router ended".into()));
    let (before, start) = (used()?, Instant::now());
    std::thread::sleep(time);
    let share = (used()? - before) as f64 / start.elapsed().as_nanos() as f64 * 100.0;
    daemon.stop()?;
    Ok(share)
}
