//! The options of a vlan interface, checked.

use serde::Deserialize;
use smpnet_plugin::{Error, Host, IfDetails, IfRequest, IfType, offload};

/// Smallest MTU, as in vlan(4).
const MTU_MIN: u32 = 42;

/// What a worker needs to know of a vlan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// The interface that carries the frames.
    pub parent: u32,
    /// Its name.
    pub parent_name: String,
    /// Its offloads.
    pub parent_offloads: u32,
    /// VLAN id, 1 to 4094.
    pub id: u16,
    /// Priority code point of frames sent, 0 to 7.
    pub priority: u8,
}

impl Trunk {
    /// Tag control information of frames sent.
    pub fn tci(&self) -> u16 {
        u16::from(self.priority) << 13 | self.id
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    parent: String,
    id: u32,
    #[serde(default)]
    priority: u8,
}

/// Reads the options and the MTU of a request.
pub fn parse(host: &Host, req: &IfRequest<'_>) -> Result<(Trunk, IfDetails), Error> {
    let o: Options = req.parse()?;
    let (id, priority) = check(&o)?;
    let found = host.if_lookup(&o.parent).and_then(|i| host.if_info(i));
    let info = found.ok_or_else(|| Error::from(format!("there is no interface {}", o.parent)))?;
    let parent = info.ifindex;
    if info.if_type != IfType::Ether as u32 {
        return Err(format!("{} is not an Ethernet interface; a vlan needs one", o.parent).into());
    }
    let mtu = if req.mtu == 0 { info.mtu } else { req.mtu };
    if !(MTU_MIN..=info.mtu).contains(&mtu) {
        return Err(format!("mtu {mtu} is out of range; {MTU_MIN} to the {} of {}", info.mtu, o.parent).into());
    }
    let trunk = Trunk { parent, parent_name: o.parent, parent_offloads: info.offloads, id, priority };
    let details = IfDetails {
        if_type: IfType::Ether,
        mtu,
        mtu_min: MTU_MIN,
        mtu_max: info.mtu,
        offloads: info.offloads & !(offload::RX_VLAN | offload::TX_VLAN),
        parent,
        mac: info.mac,
    };
    Ok((trunk, details))
}

fn check(o: &Options) -> Result<(u16, u8), Error> {
    if !(1..=4094).contains(&o.id) {
        return Err(format!("id = {} is out of range; vlan ids are 1 to 4094", o.id).into());
    }
    if o.priority > 7 {
        return Err(format!("priority = {} is out of range; 0 to 7", o.priority).into());
    }
    Ok((o.id as u16, o.priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(id: u32, priority: u8) -> Result<(u16, u8), String> {
        check(&Options { parent: "lan0".into(), id, priority }).map_err(|e| e.to_string())
    }

    #[test]
    fn ids_0_and_4095_are_reserved() {
        for id in [0, 4095, 4096, 65536] {
            assert!(checked(id, 0).unwrap_err().contains("1 to 4094"), "{id}");
        }
        assert_eq!(checked(1, 0), Ok((1, 0)));
        assert_eq!(checked(4094, 7), Ok((4094, 7)));
        assert!(checked(1, 8).unwrap_err().contains("priority"));
    }

    #[test]
    fn the_tag_holds_priority_and_id() {
        let t = Trunk { parent: 1, parent_name: "p".into(), parent_offloads: 0, id: 10, priority: 5 };
        assert_eq!(t.tci(), 0xa00a);
    }
}
