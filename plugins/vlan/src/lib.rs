//! vlan(4): 802.1Q virtual LANs on an Ethernet interface.
//!
//! A frame that leaves through `vlan0` gets the tag and leaves through the parent; a frame of the parent with that tag
//! loses it and arrives on `vlan0`. Conventions are NetBSD's: ids 1 to 4094, one parent, the parent's address and MTU.
//! A frame that has a tag already is not tagged again: 802.1ad is for a later version.

mod options;
mod tag;

use arc_swap::ArcSwap;
use options::Trunk;
use smpnet_plugin::{
    Attachment, Burst, DropReason, Error, Host, IfDetails, IfKind, IfRequest, Packet, Worker, offload, pkt_flags,
};
use std::sync::{Arc, Mutex, PoisonError};

/// One vlan interface.
pub struct Vlan {
    host: Host,
    ifindex: u32,
    /// What workers read, once per burst; swapped as a whole.
    trunk: ArcSwap<Trunk>,
    /// What brings frames here; the lock also makes changes come one after the other.
    attachment: Mutex<Option<Attachment>>,
}

impl IfKind for Vlan {
    const NAME: &'static str = "vlan";
    const SUMMARY: &'static str = "802.1Q virtual LAN";

    fn create(host: Host, req: &IfRequest<'_>) -> Result<(Self, IfDetails), Error> {
        let (trunk, details) = options::parse(&host, req)?;
        let attachment = Mutex::new(Some(attach(&host, req.ifindex, &trunk)?));
        Ok((Vlan { host, ifindex: req.ifindex, trunk: ArcSwap::from_pointee(trunk), attachment }, details))
    }

    fn configure(&self, req: &IfRequest<'_>) -> Result<IfDetails, Error> {
        let mut attachment = self.attachment.lock().unwrap_or_else(PoisonError::into_inner);
        let (trunk, details) = options::parse(&self.host, req)?;
        let old = self.trunk.load_full();
        if (old.parent, old.id) != (trunk.parent, trunk.id) {
            // The new tag first: if it is taken, nothing has changed.
            let new = attach(&self.host, self.ifindex, &trunk)?;
            self.trunk.store(Arc::new(trunk));
            *attachment = Some(new);
        } else {
            self.trunk.store(Arc::new(trunk));
        }
        Ok(details)
    }

    fn destroy(&self) {
        *self.attachment.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn output(&self, cx: &mut Worker<'_>, burst: &mut Burst) {
        let trunk = self.trunk.load();
        cx.keep(self.ifindex, burst, |packet| add_tag(packet, &trunk));
        cx.if_output(trunk.parent, burst);
    }

    fn input(&self, cx: &mut Worker<'_>, burst: &mut Burst) {
        cx.keep(self.ifindex, burst, take_tag);
        cx.if_input(self.ifindex, burst);
    }

    fn status(&self) -> serde_json::Value {
        let t = self.trunk.load();
        serde_json::json!({ "parent": t.parent_name, "id": t.id, "priority": t.priority })
    }
}

fn attach(host: &Host, ifindex: u32, trunk: &Trunk) -> Result<Attachment, Error> {
    host.vlan_attach(trunk.parent, trunk.id, ifindex)
        .map_err(|_| Error::from(format!("{} already has a vlan with id {}", trunk.parent_name, trunk.id)))
}

fn add_tag(packet: &mut Packet, trunk: &Trunk) -> Result<(), DropReason> {
    if packet.hdr().flags & pkt_flags::VLAN != 0 || tag::is_tagged(packet.data()) {
        return Err(DropReason::TxUnsupported);
    }
    if trunk.parent_offloads & offload::TX_VLAN != 0 {
        let h = packet.hdr_mut();
        h.vlan_tci = trunk.tci();
        h.flags |= pkt_flags::VLAN;
        return Ok(());
    }
    if packet.data().len() < tag::ETHER_HEADER {
        return Err(DropReason::Runt);
    }
    if packet.push_front(tag::TAG).is_none() {
        return Err(DropReason::NoBuffer);
    }
    tag::insert(packet.data_mut(), trunk.tci());
    let h = packet.hdr_mut();
    h.l2_off = h.data_off();
    Ok(())
}

/// The core has moved an in-band tag into the header, or the device did; a tag that is still in the bytes is taken out.
fn take_tag(packet: &mut Packet) -> Result<(), DropReason> {
    let h = packet.hdr_mut();
    if h.flags & pkt_flags::VLAN != 0 {
        h.flags &= !pkt_flags::VLAN;
        h.vlan_tci = 0;
    } else if tag::is_tagged(packet.data()) {
        tag::remove(packet.data_mut());
        packet.pull_front(tag::TAG);
    }
    let h = packet.hdr_mut();
    h.flags &= !(pkt_flags::BCAST | pkt_flags::MCAST | pkt_flags::HASH);
    (h.l2_off, h.l3_off, h.l4_off) = (h.data_off(), 0, 0);
    if packet.data().len() < tag::ETHER_HEADER { Err(DropReason::Runt) } else { Ok(()) }
}

smpnet_plugin::plugin! {
    name: "vlan",
    summary: "802.1Q virtual LANs on Ethernet interfaces",
    license: "MIT OR Apache-2.0",
    privileges: 0,
    pci: [],
    drivers: [],
    ifkinds: [Vlan],
    filters: [],
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::testing;

    const PARENT: u32 = 3;

    fn request(options: &str, mtu: u32) -> IfRequest<'static> {
        let options = serde_json::from_str(options).unwrap();
        IfRequest { name: "vlan0", ifindex: 7, options, workers: 4, mtu }
    }

    fn vlan() -> Vlan {
        testing::add_interface(PARENT, "lan0");
        let req = request(r#"{"parent": "lan0", "id": 100, "priority": 5}"#, 0);
        Vlan::create(testing::host(), &req).unwrap().0
    }

    fn frame(tag: &[u8]) -> Vec<u8> {
        (0..12).chain(tag.iter().copied()).chain([0x08, 0x00]).chain(100..150).collect()
    }

    fn burst(bytes: &[u8]) -> Burst {
        let mut b = Burst::new();
        assert!(b.push(testing::packet(bytes)).is_ok());
        b
    }

    #[test]
    fn a_frame_that_leaves_gets_the_tag_and_leaves_through_the_parent() {
        vlan().output(&mut testing::worker(0), &mut burst(&frame(&[])));
        let out = testing::outputs(PARENT);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].data(), frame(&[0x81, 0x00, 0xa0, 100]));
        assert_eq!(out[0].hdr().l2_off, out[0].hdr().data_off());
    }

    #[test]
    fn a_frame_that_has_a_tag_is_not_tagged_again() {
        vlan().output(&mut testing::worker(0), &mut burst(&frame(&[0x88, 0xa8, 0, 9])));
        assert_eq!(testing::drops(7), [DropReason::TxUnsupported]);
    }

    #[test]
    fn a_frame_that_arrives_loses_its_tag_wherever_it_stands() {
        let vlan = vlan();
        vlan.input(&mut testing::worker(0), &mut burst(&frame(&[0x81, 0x00, 0x00, 100])));
        let mut b = burst(&frame(&[]));
        let h = b.as_mut_slice()[0].hdr_mut();
        (h.flags, h.vlan_tci) = (pkt_flags::VLAN | pkt_flags::BCAST, 100);
        vlan.input(&mut testing::worker(0), &mut b);
        for packet in testing::inputs(7) {
            assert_eq!(packet.data(), frame(&[]));
            assert_eq!(packet.hdr().flags, 0);
        }
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn the_mtu_is_the_parents_at_most() {
        let options = r#"{"parent": "lan0", "id": 101}"#;
        testing::add_interface(PARENT, "lan0");
        for (mtu, want) in [(41, false), (42, true), (1500, true), (1501, false)] {
            assert_eq!(Vlan::create(testing::host(), &request(options, mtu)).is_ok(), want, "{mtu}");
        }
    }

    #[test]
    fn a_tag_that_is_taken_is_refused_and_nothing_changes() {
        let vlan = vlan();
        let other = r#"{"parent": "lan0", "id": 200}"#;
        let taken = Vlan::create(testing::host(), &IfRequest { ifindex: 8, ..request(other, 0) }).unwrap().0;
        let e = vlan.configure(&request(other, 0)).unwrap_err().to_string();
        assert_eq!(e, "lan0 already has a vlan with id 200");
        assert_eq!(vlan.status()["id"], 100);
        taken.destroy();
        vlan.configure(&request(other, 0)).unwrap();
        assert_eq!(testing::attachments(), ["vlan 3 200 -> 7"]);
    }

    #[test]
    fn a_parent_that_is_not_there_is_named() {
        let req = request(r#"{"parent": "lan9", "id": 1}"#, 0);
        let e = Vlan::create(testing::host(), &req).map(|_| ()).unwrap_err().to_string();
        assert_eq!(e, "there is no interface lan9");
    }
}
