//! `smpnet sdk`: begins projects of filters and plugins.

mod project;
#[cfg(test)]
mod tests;

use super::context::{Failure, Output};
use clap::{Args, Subcommand, ValueEnum};
use project::{Kind, Project};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Begin a filter or a plugin of your own
#[derive(Debug, Args)]
#[command(after_help = "\
What it writes is complete: it builds, and has tests that pass.

Examples:
  smpnet sdk new filter no-telnet
  smpnet sdk new filter no-telnet --lang c --dir /tmp/no-telnet
  smpnet sdk new plugin mydriver")]
pub struct SdkArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a new project into a folder that does not exist yet
    New {
        /// What it is to be
        #[arg(value_enum)]
        what: What,
        /// Its name: lower-case letters, digits and hyphens
        name: String,
        /// The language of a filter
        #[arg(long, value_enum, default_value = "rust")]
        lang: Lang,
        /// The folder to be made [default: one of the project's name]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The folder `sdk` of smpnet's sources [default: the one that this program was built from]
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A packet filter in WebAssembly
    Filter,
    /// A native plugin: a driver
    Plugin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// Rust
    Rust,
    /// C, with clang
    C,
}

pub fn run(args: &SdkArgs) -> Result<Output, Failure> {
    let Command::New { what, name, lang, dir, sdk } = &args.command;
    let kind = match (what, lang) {
        (What::Filter, Lang::Rust) => Kind::FilterRust,
        (What::Filter, Lang::C) => Kind::FilterC,
        (What::Plugin, Lang::Rust) => Kind::Plugin,
        (What::Plugin, Lang::C) => {
            return Err(Failure::usage("there is no template for a plugin in C")
                .hint("sdk/include/README.md shows how its table is handed on from Rust".to_owned()));
        }
    };
    let dir = dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let sdk = if kind.needs_sdk() { Some(sources(sdk.as_deref(), kind)?) } else { None };
    let project = Project::new(kind, name, sdk.as_deref()).map_err(Failure::usage)?;
    let files = project.write(&dir).map_err(Failure::new)?;
    let next = kind.next_steps(&project);
    let mut text = format!("wrote {} into {}:\n", kind.describe(), dir.display());
    for file in &files {
        text.push_str(&format!("  {file}\n"));
    }
    text.push_str(&format!("next:\n  cd {}\n", dir.display()));
    for step in &next {
        text.push_str(&format!("  {step}\n"));
    }
    Ok(Output::new(text, json!({"dir": dir, "files": files, "next": next})))
}

/// The folder `sdk`, as an absolute path.
fn sources(given: Option<&Path>, kind: Kind) -> Result<PathBuf, Failure> {
    let built_from = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk");
    let dir = given.unwrap_or(Path::new(built_from));
    let crate_of = dir.join(kind.sdk_crate()).join("Cargo.toml");
    if !crate_of.is_file() {
        return Err(Failure::new(format!("the SDK is not at {}: there is no {}", dir.display(), crate_of.display()))
            .hint("name the folder `sdk` of smpnet's sources with --sdk".to_owned()));
    }
    dir.canonicalize().map_err(|e| Failure::new(format!("{}: {e}", dir.display())))
}
