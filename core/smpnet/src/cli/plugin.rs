//! `smpnet plugin`.

use super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

/// List, show and load native plugins
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  smpnet plugin list
  smpnet plugin load ./libsmpnet_mydriver.so")]
pub struct PluginArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List plugins: those that were loaded and those that were refused
    List,
    /// Show everything known of a plugin
    Show {
        /// Its name
        name: String,
    },
    /// Load a plugin from a file
    Load {
        /// The shared library
        file: PathBuf,
    },
}

pub fn run(cx: &Context, args: &PluginArgs) -> Result<Output, Failure> {
    match &args.command {
        Command::List => {
            let all = cx.client.get("/v1/plugins")?;
            Ok(Output::new(list(&all), all))
        }
        Command::Show { name } => {
            let all = cx.client.get("/v1/plugins")?;
            let one = all.items().iter().find(|p| p.text("name") == name).cloned();
            let one = one.ok_or_else(|| Failure::new(format!("no plugin \"{name}\"")))?;
            let text = match &one {
                Value::Object(o) => o.iter().map(|(k, v)| format!("{k:>12}: {}\n", plain(v))).collect(),
                other => other.to_string(),
            };
            Ok(Output::new(text, one))
        }
        Command::Load { file } => {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            let done = cx.client.post("/v1/plugins", &json!({"file": file}))?;
            Ok(Output::new(format!("loaded {} {}", done.text("name"), done.text("version")), done))
        }
    }
}

pub(super) fn list(all: &Value) -> String {
    let rows: Vec<Vec<String>> = all
        .items()
        .iter()
        .map(|p| {
            let provides: Vec<String> =
                p.list("provides").iter().map(|v| format!("{} {}", v.text("what"), v.text("name"))).collect();
            let sha: String = p.text("sha256").chars().take(12).collect();
            vec![
                p.text("name").into(),
                p.text("version").into(),
                plain(&p["abi"]),
                provides.join(", "),
                p.text("state").into(),
                sha,
                p.text("file").into(),
            ]
        })
        .collect();
    let mut text = table(&["Name", "Version", "ABI", "Provides", "State", "SHA-256", "File"], &rows);
    for p in all.items().iter().filter(|p| !p.text("error").is_empty()) {
        text.push_str(&format!("{}: {}\n", trouble(p), p.text("error")));
    }
    text
}

/// What a plugin's error is about: a file that was not loaded, or something that it made and that failed.
fn trouble(plugin: &Value) -> &'static str {
    if plugin.text("state").starts_with("quarantined") { "quarantined" } else { "refused" }
}

fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "-".into(),
        Value::Array(a) => a.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(o) if o.contains_key("what") => format!("{} {}", v.text("what"), v.text("name")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_failed_is_told_from_one_that_was_refused() {
        let all = json!([
            {"name": "bad", "state": "refused", "error": "/p/libsmpnet_bad.so: not an ELF file"},
            {"name": "null", "state": "quarantined", "error": "lan0: panicked in rx_burst"},
            {"name": "vlan", "state": "loaded", "error": null},
        ]);
        let text = list(&all);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(lines, ["refused: /p/libsmpnet_bad.so: not an ELF file", "quarantined: lan0: panicked in rx_burst"]);
    }
}
