//! The options of a gif interface, checked.

use serde::Deserialize;
use smpnet_plugin::{Error, IfDetails, IfRequest, IfType};
use std::net::Ipv4Addr;

/// Smallest MTU, as in gif(4).
pub const MTU_MIN: u32 = 1280;
/// Largest MTU, as in gif(4).
pub const MTU_MAX: u32 = 8192;
/// Outer TTL unless the options say otherwise: NetBSD's `net.inet.ip.gifttl`.
const TTL: u8 = 30;

/// What a worker needs to know of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Outer source of what we send.
    pub local: Ipv4Addr,
    /// Outer destination of what we send.
    pub remote: Ipv4Addr,
    /// Outer time to live.
    pub ttl: u8,
    /// Outer packets must not be fragmented when the inner ones must not.
    pub pmtu: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    local: Ipv4Addr,
    remote: Ipv4Addr,
    #[serde(default = "default_ttl")]
    ttl: u8,
    #[serde(default)]
    pmtu: bool,
}

fn default_ttl() -> u8 {
    TTL
}

/// Reads the options and the MTU of a request.
pub fn parse(req: &IfRequest<'_>) -> Result<(Ends, IfDetails), Error> {
    let ends = check(req.parse()?)?;
    let mtu = if req.mtu == 0 { MTU_MIN } else { req.mtu };
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(format!("mtu {mtu} is out of range; a gif takes {MTU_MIN} to {MTU_MAX}").into());
    }
    Ok((ends, IfDetails { mtu_min: MTU_MIN, mtu_max: MTU_MAX, ..IfDetails::new(IfType::RawIp, mtu) }))
}

fn check(o: Options) -> Result<Ends, Error> {
    for (name, a) in [("local", o.local), ("remote", o.remote)] {
        if a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback() {
            return Err(format!("{name} = {a} is not a host's address").into());
        }
    }
    if o.local == o.remote {
        return Err(format!("local and remote are both {}; a tunnel has two ends", o.local).into());
    }
    if o.ttl == 0 {
        return Err("ttl = 0 would let no packet leave; 1 to 255".into());
    }
    Ok(Ends { local: o.local, remote: o.remote, ttl: o.ttl, pmtu: o.pmtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(json: &str) -> Result<Ends, String> {
        let o = serde_json::from_str(json).map_err(|e| e.to_string())?;
        check(o).map_err(|e| e.to_string())
    }

    #[test]
    fn two_addresses_make_a_tunnel() {
        let e = ends(r#"{"local": "192.0.2.1", "remote": "198.51.100.2"}"#).unwrap();
        assert_eq!(e, Ends { local: [192, 0, 2, 1].into(), remote: [198, 51, 100, 2].into(), ttl: 30, pmtu: false });
        assert!(ends(r#"{"local": "192.0.2.1", "remote": "198.51.100.2", "pmtu": true}"#).unwrap().pmtu);
    }

    #[test]
    fn what_cannot_be_a_tunnel_is_refused_by_name() {
        for (json, want) in [
            (r#"{"local": "192.0.2.1"}"#, "remote"),
            (r#"{"local": "192.0.2.1", "remote": "224.0.0.1"}"#, "remote = 224.0.0.1"),
            (r#"{"local": "0.0.0.0", "remote": "192.0.2.1"}"#, "local = 0.0.0.0"),
            (r#"{"local": "192.0.2.1", "remote": "192.0.2.1"}"#, "two ends"),
            (r#"{"local": "192.0.2.1", "remote": "192.0.2.2", "ttl": 0}"#, "ttl = 0"),
            (r#"{"local": "192.0.2.1", "remote": "192.0.2.2", "tll": 9}"#, "tll"),
        ] {
            let e = ends(json).unwrap_err();
            assert!(e.contains(want), "{json}: {e}");
        }
    }
}
