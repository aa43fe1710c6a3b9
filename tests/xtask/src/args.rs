//! The command line.

/// What `cargo xtask` prints.
pub const HELP: &str = "\
The two commands of smpnet, and the chores

  cargo xtask demo [--json] [--keep] [--seconds N]
      two Linux hosts with smpnet between them; its filter is swapped 200 times under load and nothing is lost
        --json       print one JSON object instead of the table
        --keep       leave the laboratory running and say how to look around
        --seconds N  length of the load, 4 to 600 (default 10)

  cargo xtask test [--quick | --long]
      formatting, lints, unit, doc, layout, loom, miri and end-to-end tests, and the demo; a table at the end
        --quick      without loom and miri
        --long       and a million random filter programs, the fuzz targets, 30 seconds each, and ten minutes of full
                     load with 20 swaps a second

  cargo xtask soak [--json] [--seconds N]
      full load with 20 swaps a second (default 600 s): no packet lost, memory steady, every packet accounted for

  cargo xtask build-filters
      builds the example filters of sdk/examples into target/filters, and says how large they are

  cargo xtask fuzz [--seconds N] [TARGET]
      feeds the fuzz targets by coverage, each for N seconds (default 60); needs cargo-fuzz

  cargo xtask features
      writes the table of features in README.md from the FEATURES.toml files

  --no-build         with demo and soak: use what was built before
  --workers N        with demo and soak: workers of smpnet (default: as many as CPUs, at most 4)

Example:
  cargo xtask demo --keep";

/// Which command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print [`HELP`].
    Help,
    /// The demo.
    Demo,
    /// All tests.
    Test,
    /// The example filters.
    BuildFilters,
    /// The table of features.
    Features,
    /// The fuzz targets.
    Fuzz,
    /// The long run.
    Soak,
}

/// The command line, read.
#[derive(Clone, Debug)]
pub struct Args {
    /// Which command.
    pub command: Command,
    /// One JSON object instead of tables.
    pub json: bool,
    /// Leave the laboratory running.
    pub keep: bool,
    /// Length of the load in seconds.
    pub seconds: Option<u64>,
    /// More tests.
    pub long: bool,
    /// Fewer tests.
    pub quick: bool,
    /// Build nothing.
    pub no_build: bool,
    /// Workers of smpnet.
    pub workers: Option<u32>,
    /// The one fuzz target that is wanted.
    pub target: Option<String>,
}

impl Args {
    /// Reads the arguments after the program's name; the error is a text for the user.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
        let mut args = args;
        let command = match args.next().as_deref() {
            None | Some("help" | "--help" | "-h") => Command::Help,
            Some("demo") => Command::Demo,
            Some("test") => Command::Test,
            Some("build-filters") => Command::BuildFilters,
            Some("features") => Command::Features,
            Some("fuzz") => Command::Fuzz,
            Some("soak") => Command::Soak,
            Some(other) => return Err(format!("cargo xtask: there is no command \"{other}\"\n\n{HELP}")),
        };
        let mut out = Args {
            command,
            json: false,
            keep: false,
            seconds: None,
            long: false,
            quick: false,
            no_build: false,
            workers: None,
            target: None,
        };
        while let Some(arg) = args.next() {
            let fits = match arg.as_str() {
                "--help" | "-h" => true,
                "--seconds" => matches!(command, Command::Demo | Command::Soak | Command::Fuzz),
                "--json" | "--no-build" | "--workers" => matches!(command, Command::Demo | Command::Soak),
                "--keep" => command == Command::Demo,
                "--long" | "--quick" => command == Command::Test,
                name if !name.starts_with('-') => command == Command::Fuzz && out.target.is_none(),
                _ => false,
            };
            if !fits {
                return Err(format!("cargo xtask: \"{arg}\" does not belong here\n\n{HELP}"));
            }
            let mut number = |what: &str, least: u64, most: u64| {
                let value = args.next().and_then(|v| v.parse::<u64>().ok()).filter(|n| (least..=most).contains(n));
                value.ok_or_else(|| format!("cargo xtask: {what} takes a number from {least} to {most}"))
            };
            match arg.as_str() {
                "--json" => out.json = true,
                "--keep" => out.keep = true,
                "--long" => out.long = true,
                "--quick" => out.quick = true,
                "--no-build" => out.no_build = true,
                "--seconds" => out.seconds = Some(number("--seconds", 4, 86_400)?),
                "--workers" => out.workers = Some(number("--workers", 1, 64)? as u32),
                name if !name.starts_with('-') => out.target = Some(name.to_owned()),
                _ => out.command = Command::Help,
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, Command};

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read_and_those_of_another_command_refused() {
        let a = parse("demo --json --seconds 5").unwrap();
        assert_eq!((a.command, a.json, a.keep, a.seconds), (Command::Demo, true, false, Some(5)));
        assert!(parse("test --json").unwrap_err().contains("\"--json\" does not belong here"));
        assert!(parse("demo --seconds 1").unwrap_err().contains("from 4 to"));
        assert!(parse("dmo").unwrap_err().contains("no command \"dmo\""));
        let a = parse("fuzz frame --seconds 30").unwrap();
        assert_eq!((a.command, a.target.as_deref(), a.seconds), (Command::Fuzz, Some("frame"), Some(30)));
        assert!(parse("fuzz a b").unwrap_err().contains("\"b\" does not belong here"));
        assert_eq!(parse("").unwrap().command, Command::Help);
    }
}
