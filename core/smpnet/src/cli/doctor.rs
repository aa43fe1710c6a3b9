//! `smpnet doctor`.

use super::context::{Failure, Output};
use crate::config::DEFAULT_CACHE;
use crate::doctor::{Level, examine};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Look at this machine and say what to do about each finding
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is 1 when a finding is \"fail\".

Examples:
  smpnet doctor
  smpnet doctor --json | jq '.[] | select(.level != \"ok\")'")]
pub struct DoctorArgs {
    /// A further folder with plugins
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// The folder of compiled filters, when the configuration names another ([filters] cache)
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CACHE)]
    cache: PathBuf,
}

pub fn run(args: &DoctorArgs) -> Result<Output, Failure> {
    let findings = examine(&args.plugins, &args.cache);
    let mut text = String::new();
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    for f in &findings {
        let level = match f.level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        text.push_str(&format!("{level}  {:width$}  {}\n", f.check, f.found));
        if let Some(advice) = &f.advice {
            text.push_str(&format!("      {:width$}  -> {advice}\n", ""));
        }
    }
    let failed = findings.iter().any(|f| f.level == Level::Fail);
    Ok(Output::new(text, json!(findings)).code(u8::from(failed)))
}
