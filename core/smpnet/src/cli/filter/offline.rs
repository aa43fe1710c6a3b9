//! What `check`, `test` and `bench` have in common: a module, its tables and packets, without a daemon.

use super::super::{bpf_capture_file::CaptureFile, context::Failure};
use super::source::{ModuleOptions, read_module};
use crate::config::{capabilities, limits, parse_entries, table_name};
use clap::{Args, ValueEnum};
use smpnet_bpf::Dlt;
use smpnet_filter_abi::layer;
use smpnet_wasm::{
    Capabilities, ModuleLimits, ModuleSpec, Tables,
    guest::{ModuleInfo, RunPacket, Runner, inspect},
};
use std::path::{Path, PathBuf};

/// A module and what goes with it.
#[derive(Debug, Args)]
pub struct ModuleArgs {
    /// The module
    pub file: PathBuf,
    #[command(flatten)]
    pub own: ModuleOptions,
    /// Entries of a table of the manifest, from a file; may come several times. The other tables are empty
    #[arg(long, value_name = "NAME=FILE", value_parser = table_name)]
    pub table: Vec<(String, String)>,
}

/// What packets begin with where the filter is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum At {
    /// The IP header, as `filter load --attach inet`
    Inet,
    /// The Ethernet header, as `filter load --attach ether`
    Ether,
}

impl At {
    /// As modules are told about a packet.
    pub fn layer(self, packet: &RunPacket) -> u32 {
        match (self, packet.bytes.first().map(|b| b >> 4)) {
            (At::Inet, Some(6)) => layer::INET6,
            (At::Inet, _) => layer::INET,
            (At::Ether, _) => layer::ETHER,
        }
    }
}

impl ModuleArgs {
    /// The module with its configuration and limits. It may do all that it asks for, unless --allow says what.
    pub fn spec(&self) -> Result<ModuleSpec, Failure> {
        let mut spec = ModuleSpec::new(read_module(&self.file)?);
        spec.config = self.own.config()?.unwrap_or_default();
        spec.limits = limits(&ModuleLimits::default(), &self.own.limits()).map_err(Failure::usage)?;
        spec.allow = match self.own.allow.as_slice() {
            [] => Capabilities::all(),
            names => capabilities(names.iter().map(String::as_str)).map_err(Failure::usage)?,
        };
        Ok(spec)
    }

    /// A runner with the tables that the module looks into.
    pub fn runner(&self) -> Result<Runner, Failure> {
        let wrong = |e: String| Failure::new(format!("{}: {e}", self.file.display()));
        let spec = self.spec()?;
        let info = inspect(&spec.wasm, &spec.limits).map_err(|e| wrong(e.to_string()))?;
        let tables = self.tables(&info)?;
        Runner::new(&spec, &tables).map_err(|e| wrong(e.to_string()))
    }

    /// The tables of the manifest, filled from files.
    fn tables(&self, info: &ModuleInfo) -> Result<Tables, Failure> {
        let tables = Tables::default();
        let uses = &info.manifest.tables;
        for t in uses {
            tables.create(&t.name, t.kind, None).map_err(|e| Failure::new(e.to_string()))?;
        }
        for (name, file) in &self.table {
            let Some(t) = uses.iter().find(|t| t.name == *name) else {
                let names: Vec<&str> = uses.iter().map(|t| t.name.as_str()).collect();
                let hint = crate::config::did_you_mean(name, &names);
                return Err(Failure::usage(format!("the module looks into no table \"{name}\"")).hint(hint));
            };
            let text = std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{file}: {e}")))?;
            let entries =
                parse_entries(t.kind, &text).map_err(|(line, e)| Failure::new(format!("{file}:{line}: {e}")))?;
            let entries: Vec<_> = entries.into_iter().collect();
            tables.replace(name, &entries).map_err(|e| Failure::new(e.to_string()))?;
        }
        Ok(tables)
    }
}

/// A packet of a file as a filter sees it.
pub struct Seen {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The packet; `None` when the filter is not asked about it.
    pub packet: Option<RunPacket>,
    /// Nanoseconds since 1970.
    pub ns: u64,
    /// Bytes before those that the filter sees, in the file's packet.
    pub before: usize,
}

/// A capture and what filters see of it.
pub struct Packets {
    /// The file.
    pub capture: CaptureFile,
    /// What its packets begin with; `None` without packets.
    pub dlt: Option<Dlt>,
    /// In the order of the file.
    pub seen: Vec<Seen>,
}

impl Packets {
    /// Reads a capture.
    pub fn read(file: &Path, at: At) -> Result<Packets, Failure> {
        let capture = CaptureFile::read(file).map_err(Failure::new)?;
        let wrong = |e: &str| Failure::new(format!("{}: {e}", file.display()));
        let dlt = capture.dlt().map_err(|e| wrong(&e))?;
        if (dlt, at) == (Some(Dlt::Raw), At::Ether) {
            return Err(wrong("its packets begin with an IP header, and --attach ether wants Ethernet frames"));
        }
        let one = |(i, p): (usize, super::super::bpf_capture_file::Captured<'_>)| {
            let before = match (dlt, at) {
                (Some(Dlt::En10mb), At::Inet) => ip_header(p.bytes),
                _ => Some(0),
            };
            let packet = before.map(|b| RunPacket {
                bytes: p.bytes[b..].to_vec(),
                wire_len: p.wirelen.saturating_sub(b as u32),
                rcvif: 1,
                ..RunPacket::default()
            });
            Seen { number: i + 1, packet, ns: p.ns, before: before.unwrap_or(0) }
        };
        let seen = capture.captured().enumerate().map(one).collect();
        Ok(Packets { capture, dlt, seen })
    }
}

/// Where the IP header of a frame begins, behind its tags; `None` for frames of other protocols.
fn ip_header(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match frame.get(at..at + 2)? {
            [0x81, 0x00] | [0x88, 0xa8] => at += 4,
            [0x08, 0x00] | [0x86, 0xdd] => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_header_lies_behind_the_tags_and_other_frames_have_none() {
        let frame = |types: &[u8]| [&[0; 12], types, &[0; 20]].concat();
        assert_eq!(ip_header(&frame(&[8, 0])), Some(14));
        assert_eq!(ip_header(&frame(&[0x81, 0, 0, 5, 0x86, 0xdd])), Some(18));
        assert_eq!(ip_header(&frame(&[8, 6])), None);
        assert_eq!(ip_header(&[0; 13]), None);
    }
}
