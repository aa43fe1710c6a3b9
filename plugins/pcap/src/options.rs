//! The options of a pcap port, checked.

use crate::file::Link;
use serde::Deserialize;
use smpnet_plugin::MacAddr;
use std::path::PathBuf;

/// When packets are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    /// As far apart as they were captured.
    #[default]
    Original,
    /// At once.
    Fast,
}

/// The options of a port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// File to receive.
    pub read: Option<PathBuf>,
    /// File to send to.
    pub write: Option<PathBuf>,
    /// When packets are due.
    #[serde(default)]
    pub timing: Timing,
    /// How often the file is played; 0 for ever.
    #[serde(default = "once")]
    pub repeat: u32,
    link: Option<LinkName>,
    mac: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LinkName {
    Ethernet,
    Raw,
}

fn once() -> u32 {
    1
}

impl Options {
    /// Reads the options of the configuration.
    pub fn parse(json: serde_json::Value) -> Result<Options, String> {
        let o: Options = serde_json::from_value(json)
            .map_err(|e| format!("options: {e}; a pcap port takes read, write, timing, repeat, link and mac"))?;
        if o.read.is_none() && o.write.is_none() {
            return Err("options: a pcap port needs a file to read, a file to write, or both".into());
        }
        if o.read.is_some() && o.read == o.write {
            return Err("options: read and write name the same file, which would be emptied before it is read".into());
        }
        o.mac()?;
        Ok(o)
    }

    /// What packets begin with, for a port whose file to read begins with `file`.
    pub fn link(&self, file: Option<Link>) -> Result<Link, String> {
        let said = self.link.map(|l| if l == LinkName::Raw { Link::RawIp } else { Link::Ethernet });
        match (file, said) {
            (Some(file), Some(said)) if file != said => {
                Err(format!("options: link says {said:?}, but the file to read holds {file:?} packets"))
            }
            (file, said) => Ok(file.or(said).unwrap_or(Link::Ethernet)),
        }
    }

    /// The address in the options, if there is one.
    pub fn mac(&self) -> Result<Option<MacAddr>, String> {
        let Some(text) = &self.mac else { return Ok(None) };
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|b| (b.len() == 2).then(|| u8::from_str_radix(b, 16).ok()).flatten()).collect();
        match bytes.and_then(|b| <[u8; 6]>::try_from(b).ok()) {
            Some(bytes) if bytes[0] & 1 == 0 => Ok(Some(MacAddr { bytes })),
            _ => Err(format!("options: mac = {text:?} is not a station's address like 02:00:00:00:00:01")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Options, String> {
        Options::parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_file_to_read_is_played_once_as_captured() {
        let o = parse(r#"{"read": "a.pcap"}"#).unwrap();
        assert_eq!((o.timing, o.repeat), (Timing::Original, 1));
        assert_eq!(o.link(Some(Link::RawIp)), Ok(Link::RawIp));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (json, want) in [
            ("{}", "needs a file"),
            (r#"{"read": "a", "write": "a"}"#, "same file"),
            (r#"{"read": "a", "timng": "fast"}"#, "timng"),
            (r#"{"read": "a", "timing": "slow"}"#, "slow"),
            (r#"{"write": "a", "mac": "01:00:00:00:00:00"}"#, "not a station's"),
            (r#"{"write": "a", "mac": "02:00:00:00:00"}"#, "not a station's"),
        ] {
            let e = parse(json).unwrap_err();
            assert!(e.contains(want), "{json}: {e}");
        }
        let o = parse(r#"{"read": "a", "link": "raw"}"#).unwrap();
        assert!(o.link(Some(Link::Ethernet)).unwrap_err().contains("link says RawIp"));
    }
}
