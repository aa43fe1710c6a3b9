//! `smpnet filter table`.

use super::super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use crate::{client::encode, config::write_entries};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Tables that modules look into: names, addresses, networks
#[derive(Debug, Args)]
#[command(after_help = "\
A file of entries has one a line: a key, and behind a blank a value, 0 when there is none; # begins a remark. Keys of an
exact table are text, or hex: and digits for any bytes; those of an ipv4 or ipv6 table are prefixes, of which the longest
counts. A change is one step for packets: they see all of it, or nothing of it yet.

Examples:
  smpnet filter table create names exact --file blocklist.txt
  smpnet filter table add names ads.example.com good.example.com=1
  smpnet filter table replace names --file blocklist.txt
  smpnet filter table create networks ipv4 --most 100000
  smpnet filter table show names")]
pub struct TableArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a table
    Create {
        /// Its name
        name: String,
        /// How keys are looked up: exact, ipv4 or ipv6
        kind: String,
        /// Fill it with the entries of a file (- is the standard input)
        #[arg(short = 'f', long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Most entries that it may have [default: 1048576]
        #[arg(long, value_name = "N")]
        most: Option<usize>,
    },
    /// Remove a table that no filter looks into
    Remove {
        /// The table
        name: String,
    },
    /// List tables
    List,
    /// Print the entries of a table, as a file that fills it
    Show {
        /// The table
        name: String,
    },
    /// Add entries, or change their values
    Add {
        /// The table
        name: String,
        /// Entries: KEY or KEY=VALUE
        #[arg(value_name = "KEY[=VALUE]", required_unless_present = "file")]
        entries: Vec<String>,
        /// The entries of a file (- is the standard input)
        #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "entries")]
        file: Option<PathBuf>,
    },
    /// Remove entries
    Delete {
        /// The table
        name: String,
        /// Their keys
        #[arg(value_name = "KEY", required_unless_present = "file")]
        keys: Vec<String>,
        /// The keys in a file (- is the standard input)
        #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "keys")]
        file: Option<PathBuf>,
    },
    /// Put the entries of a file in place of all that is there
    Replace {
        /// The table
        name: String,
        /// The file (- is the standard input)
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
    },
}

/// A file's text as a request for entries; `-` is the standard input.
fn entries(file: &Path) -> Result<Value, Failure> {
    let (name, text) = match file.to_str() {
        Some("-") => ("stdin".to_owned(), std::io::read_to_string(std::io::stdin())),
        _ => (file.display().to_string(), std::fs::read_to_string(file)),
    };
    let text = text.map_err(|e| Failure::new(format!("{name}: {e}")))?;
    Ok(json!({"text": text, "file": name}))
}

/// A file, or else words of the command line, as a request for entries.
fn given(file: &Option<PathBuf>, words: &[String]) -> Result<Value, Failure> {
    match file {
        Some(file) => entries(file),
        None => {
            let lines: Vec<String> = words.iter().map(|w| w.replacen('=', " ", 1)).collect();
            Ok(json!({"text": lines.join("\n"), "file": "entry "}))
        }
    }
}

pub fn run(cx: &Context, args: &TableArgs) -> Result<Output, Failure> {
    let path = |name: &str, more: &str| format!("/v1/tables/{}{more}", encode(name));
    match &args.command {
        Command::Create { name, kind, file, most } => {
            let mut body = file.as_deref().map_or_else(|| Ok(json!({})), entries)?;
            (body["name"], body["kind"]) = (json!(name), json!(kind));
            if let Some(most) = most {
                body["most"] = json!(most);
            }
            filled(cx.client.post("/v1/tables", &body)?)
        }
        Command::Remove { name } => Ok(Output::silent(cx.client.delete(&path(name, ""))?)),
        Command::List => {
            let all = cx.client.get("/v1/tables")?;
            let row = |t: &Value| {
                let numbers = ["entries", "most", "changes"].map(|k| t.number(k).to_string());
                [t.text("name").to_owned(), t.text("kind").to_owned()].into_iter().chain(numbers).collect()
            };
            let rows: Vec<Vec<String>> = all.items().iter().map(row).collect();
            Ok(Output::new(table(&["Name", "Kind", "Entries", "Most", "Changes"], &rows), all))
        }
        Command::Show { name } => {
            let one = cx.client.get(&path(name, ""))?;
            let text = write_entries(one.list("list").iter().map(|e| (e.text("key"), e.number("value"))));
            Ok(Output::new(text, one))
        }
        Command::Add { name, entries, file } => {
            filled(cx.client.post(&path(name, "/entries"), &given(file, entries)?)?)
        }
        Command::Delete { name, keys, file } => filled(cx.client.post(&path(name, "/delete"), &given(file, keys)?)?),
        Command::Replace { name, file } => filled(cx.client.put(&path(name, "/entries"), &entries(file)?)?),
    }
}

fn filled(r: Value) -> Result<Output, Failure> {
    let text = format!(
        "{}: {} entries ({} added, {} changed, {} removed)",
        r.text("table"),
        r.number("entries"),
        r.number("added"),
        r.number("changed"),
        r.number("removed")
    );
    Ok(Output::new(text, r))
}
