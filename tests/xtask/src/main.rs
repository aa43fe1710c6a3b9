//! The two commands of the README and the chores: `cargo xtask demo`, `cargo xtask test`, `cargo xtask soak`,
//! `cargo xtask fuzz`.

#![forbid(unsafe_code)]

mod account;
mod args;
mod build;
mod demo;
mod features;
mod fuzz;
mod kernel;
mod lookaround;
mod packages;
mod parse;
mod progress;
mod scene;
mod soak;
mod steps;
mod table;
mod test;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let result = match args.command {
        args::Command::Help => {
            println!("{}", args::HELP);
            Ok(true)
        }
        args::Command::Demo => demo::run(&args),
        args::Command::BuildFilters => build::filters(),
        args::Command::Features => features::run(),
        args::Command::Fuzz => fuzz::run(&args),
        args::Command::Soak => soak::run(&args),
        args::Command::Test => test::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("\nxtask: {e}");
            ExitCode::FAILURE
        }
    }
}
