//! The options of the driver in the configuration.

use crate::{
    channel::SocketName,
    error::MemifError,
    ring::Ring,
    wire::{LOG2_SIZE_MAX, SECRET_MAX},
};
use serde::{Deserialize, Serialize};
use smpnet_plugin::{MacAddr, PortRequest, serde_json};

/// Which end of the connection a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It connects, and owns the memory.
    Client,
    /// It listens.
    Server,
}

/// `options = { ... }` of an interface with `driver = "memif"`.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Where the server listens: a path, or `@name` for an abstract socket. Interfaces of one router that are servers may
    /// share it.
    pub socket: String,
    /// `"client"` or `"server"`.
    pub role: Role,
    /// Which interface behind the socket; both ends give the same number.
    pub id: u32,
    /// Queues of each direction, 1 to 64; as many as the router wants if it is not given. A connection has as many as the
    /// end with fewer.
    pub queues: Option<usize>,
    /// Entries of each ring: a power of two from 32 to 16384. The client decides.
    pub ring_size: u32,
    /// Bytes of each buffer: a multiple of 64 from 256 to 32768. The client decides. Longer packets take several.
    pub buffer_size: u32,
    /// What the client must know, at most 23 bytes; nothing if it is empty. It is no protection against whoever can read
    /// this file, or watch the socket: permissions of the socket's folder are.
    #[serde(skip_serializing)]
    pub secret: String,
    /// Only `"ethernet"`.
    pub mode: String,
    /// The interface's own address; made of its name if it is not given.
    #[serde(skip_serializing)]
    pub mac: Option<MacAddr>,
    /// Largest packet of the network layer.
    pub mtu: u32,
    /// For a client: packets are not copied, because the server gets the whole packet memory of this router to read and
    /// write, all packets of all interfaces and what the router notes about them. A server that is broken or malicious can
    /// then do with this router what it likes.
    pub zero_copy: bool,
    /// For a server: take memory of the client that the client could cut off, and so end this router.
    pub unsealed: bool,
}

const KEYS: &[&str] = &[
    "socket",
    "role",
    "id",
    "queues",
    "ring_size",
    "buffer_size",
    "secret",
    "mode",
    "mac",
    "mtu",
    "zero_copy",
    "unsealed",
];

/// The options as they stand in the file.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    socket: String,
    role: String,
    id: u32,
    queues: Option<usize>,
    ring_size: u32,
    buffer_size: u32,
    secret: String,
    mode: String,
    mac: Option<String>,
    mtu: u32,
    zero_copy: bool,
    unsealed: bool,
}

impl Default for Written {
    fn default() -> Self {
        Written {
            socket: String::new(),
            role: String::new(),
            id: 0,
            queues: None,
            ring_size: 1024,
            buffer_size: 2048,
            secret: String::new(),
            mode: "ethernet".into(),
            mac: None,
            mtu: 1500,
            zero_copy: false,
            unsealed: false,
        }
    }
}

impl Options {
    /// Those of a request, checked.
    pub fn of(req: &PortRequest<'_>) -> Result<Self, MemifError> {
        Options::read(&req.options)
    }

    fn read(json: &serde_json::Value) -> Result<Self, MemifError> {
        let wrong = |text: String| MemifError::Option(text);
        for key in json.as_object().into_iter().flat_map(|o| o.keys()) {
            if !KEYS.contains(&key.as_str()) {
                return Err(wrong(format!("unknown key \"{key}\"{}", advice(key, KEYS))));
            }
        }
        let written: Written = match json.is_null() {
            true => Written::default(),
            false => serde_json::from_value(json.clone()).map_err(|e| wrong(e.to_string()))?,
        };
        if written.socket.is_empty() {
            return Err(wrong(
                "socket is missing: socket = \"/run/memif.sock\", or \"@name\" for an abstract one".into(),
            ));
        }
        SocketName::new(&written.socket)?;
        let role = match written.role.as_str() {
            "client" => Role::Client,
            "server" => Role::Server,
            "" => return Err(wrong("role is missing: role = \"client\" (connects) or \"server\" (listens)".into())),
            other => {
                let roles = ["client", "server"];
                return Err(wrong(format!("role must be \"client\" or \"server\"{}", advice(other, &roles))));
            }
        };
        let mac = written.mac.as_deref().map(parse_mac).transpose()?;
        let options = Options {
            socket: written.socket,
            role,
            id: written.id,
            queues: written.queues,
            ring_size: written.ring_size,
            buffer_size: written.buffer_size,
            secret: written.secret,
            mode: written.mode,
            mac,
            mtu: written.mtu,
            zero_copy: written.zero_copy,
            unsealed: written.unsealed,
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), MemifError> {
        let rules = [
            (self.queues.is_none_or(|q| (1..=64).contains(&q)), "queues must be 1 to 64"),
            (
                self.ring_size.is_power_of_two() && (32..=1 << LOG2_SIZE_MAX).contains(&self.ring_size),
                "ring_size must be a power of two from 32 to 16384",
            ),
            (
                self.buffer_size.is_multiple_of(64) && (256..=32768).contains(&self.buffer_size),
                "buffer_size must be a multiple of 64 from 256 to 32768",
            ),
            (
                self.secret.len() <= SECRET_MAX && !self.secret.contains('\0'),
                "secret must have at most 23 bytes, none of them NUL",
            ),
            (self.mode == "ethernet", "mode must be \"ethernet\": no other is known to this driver"),
            ((68..=MTU_MAX).contains(&self.mtu), "mtu must be 68 to 65500"),
            (
                !self.zero_copy || self.role == Role::Client,
                "zero_copy is for role = \"client\": the client owns the memory, and a server copies once",
            ),
            (
                !self.unsealed || self.role == Role::Server,
                "unsealed is for role = \"server\": a client uses its own memory only",
            ),
        ];
        match rules.iter().find(|(good, _)| !good) {
            Some((_, rule)) => Err(MemifError::Option((*rule).into())),
            None => Ok(()),
        }
    }

    /// Checks what a client of so many rings makes of its memory.
    pub fn check_layout(&self, rings: usize) -> Result<(), MemifError> {
        let ring = Ring::bytes(self.log2_ring_size()) + u64::from(self.ring_size) * u64::from(self.buffer_size);
        if rings as u64 * ring > u64::from(u32::MAX) - (1 << 20) {
            let text = format!("{rings} rings of {} buffers of {} bytes", self.ring_size, self.buffer_size);
            return Err(MemifError::Option(format!(
                "{text} are more than 4 GiB; make ring_size or buffer_size smaller"
            )));
        }
        Ok(())
    }

    /// Entries of a ring, as a power of two.
    pub fn log2_ring_size(&self) -> u8 {
        self.ring_size.trailing_zeros() as u8
    }
}

/// Largest MTU: a frame is at most 65,535 bytes long.
pub const MTU_MAX: u32 = 65_500;

fn parse_mac(text: &str) -> Result<MacAddr, MemifError> {
    let wrong =
        || MemifError::Option(format!("mac \"{text}\" is no Ethernet address of a station (02:00:00:00:00:01)"));
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
        return Err(wrong());
    }
    Ok(MacAddr { bytes })
}

/// The nearest right name, or all of them.
fn advice(wrong: &str, known: &[&str]) -> String {
    let score = |n: &str| strsim::jaro_winkler(wrong, n);
    match known.iter().max_by(|a, b| score(a).total_cmp(&score(b))) {
        Some(best) if score(best) > 0.7 => format!(" (did you mean \"{best}\"?)"),
        _ => format!("; there are {}", known.join(", ")),
    }
}

/// A locally administered unicast address made of `seed` (FNV-1a), the same for the same seed.
pub fn local_mac(seed: &str) -> MacAddr {
    let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let b = hash.to_be_bytes();
    MacAddr { bytes: [b[0] & 0xfc | 0x02, b[1], b[2], b[3], b[4], b[5]] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(json: serde_json::Value) -> String {
        Options::read(&json).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_other_implementations() {
        let o = Options::read(&json!({"socket": "/run/memif.sock", "role": "server"})).unwrap();
        assert_eq!((o.id, o.ring_size, o.buffer_size, o.mtu, o.queues), (0, 1024, 2048, 1500, None));
        assert!(!o.zero_copy && !o.unsealed && o.secret.is_empty());
    }

    #[test]
    fn every_mistake_names_what_is_right() {
        let with = |key: &str, value: serde_json::Value| {
            let mut o = json!({"socket": "@m", "role": "client"});
            o[key] = value;
            error(o)
        };
        assert_eq!(
            error(json!({})),
            "options: socket is missing: socket = \"/run/memif.sock\", or \"@name\" for an abstract one"
        );
        assert_eq!(
            error(json!({"socket": "@m"})),
            "options: role is missing: role = \"client\" (connects) or \"server\" (listens)"
        );
        assert_eq!(with("ringsize", json!(5)), "options: unknown key \"ringsize\" (did you mean \"ring_size\"?)");
        assert_eq!(
            with("role", json!("sever")),
            "options: role must be \"client\" or \"server\" (did you mean \"server\"?)"
        );
        assert_eq!(with("ring_size", json!(1000)), "options: ring_size must be a power of two from 32 to 16384");
        assert_eq!(with("ring_size", json!(32768)), "options: ring_size must be a power of two from 32 to 16384");
        assert_eq!(with("buffer_size", json!(100)), "options: buffer_size must be a multiple of 64 from 256 to 32768");
        assert!(with("secret", json!("x".repeat(24))).contains("at most 23 bytes"));
        assert!(with("mode", json!("ip")).contains("mode must be"));
        assert!(with("mac", json!("01:00:00:00:00:00")).contains("no Ethernet address of a station"));
        assert!(with("mac", json!("2:0:0:0:0:0")).contains("no Ethernet address of a station"));
        assert!(with("socket", json!("x".repeat(108))).contains("1 to 107 bytes"));
        assert!(with("zero_copy", json!("yes")).contains("boolean"));
        assert!(with("unsealed", json!(true)).contains("role = \"server\""));
        assert!(error(json!({"socket": "@m", "role": "server", "zero_copy": true})).contains("role = \"client\""));
    }

    #[test]
    fn a_layout_beyond_four_gigabytes_is_refused() {
        let o = Options::read(&json!({"socket": "@m", "role": "client", "ring_size": 16384, "buffer_size": 32768}))
            .unwrap();
        assert!(o.check_layout(4).is_ok() && o.check_layout(8).is_err());
    }
}
