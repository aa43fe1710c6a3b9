//! gif(4), the generic tunnel interface: IPv4 packets inside IPv4 packets (RFC 2003), protocol 4.
//!
//! A packet that leaves through `gif0` gets an outer header from `local` to `remote` and is routed again; a packet that
//! arrives with those outer addresses, swapped, loses its outer header and arrives again, on `gif0`. Conventions are
//! NetBSD's: MTU 1280 by default, outer DF clear, outer TTL 30. With `pmtu = true` the outer DF is the inner one's: the core
//! learns the path MTU between the ends and tells it to the inner senders. ECN follows RFC 6040. How many tunnels a packet
//! may pass is counted by the core.

mod ecn;
mod header;
mod options;

use arc_swap::ArcSwap;
use options::Ends;
use smpnet_plugin::{
    Attachment, Burst, DropReason, EncapKey, Error, Host, IfDetails, IfKind, IfRequest, Packet, Worker, pkt_flags,
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU16, Ordering},
};

/// One gif interface.
pub struct Gif {
    host: Host,
    ifindex: u32,
    /// What workers read, once per burst; swapped as a whole.
    ends: ArcSwap<Ends>,
    /// What brings packets here; the lock also makes changes come one after the other.
    attachment: Mutex<Option<Attachment>>,
    /// Identification of outer headers, one counter per worker and cache line.
    ids: Box<[OuterId]>,
}

#[repr(align(64))]
struct OuterId(AtomicU16);

impl OuterId {
    /// The next identification; only its own worker calls this.
    fn next(&self) -> u16 {
        let id = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(id, Ordering::Relaxed);
        id
    }
}

impl IfKind for Gif {
    const NAME: &'static str = "gif";
    const SUMMARY: &'static str = "generic tunnel: IPv4 in IPv4";

    fn create(host: Host, req: &IfRequest<'_>) -> Result<(Self, IfDetails), Error> {
        let (ends, details) = options::parse(req)?;
        let attachment = Mutex::new(Some(attach(&host, req.ifindex, &ends)?));
        let ids = (0..req.workers.max(1)).map(|w| OuterId(AtomicU16::new((w as u16).wrapping_mul(0x2001)))).collect();
        Ok((Gif { host, ifindex: req.ifindex, ends: ArcSwap::from_pointee(ends), attachment, ids }, details))
    }

    fn configure(&self, req: &IfRequest<'_>) -> Result<IfDetails, Error> {
        let mut attachment = self.attachment.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, details) = options::parse(req)?;
        let old = self.ends.load_full();
        if old.key() != ends.key() {
            // The new addresses first: if they are taken, nothing has changed.
            let new = attach(&self.host, self.ifindex, &ends)?;
            self.ends.store(Arc::new(ends));
            *attachment = Some(new);
        } else {
            self.ends.store(Arc::new(ends));
        }
        Ok(details)
    }

    fn destroy(&self) {
        *self.attachment.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn output(&self, cx: &mut Worker<'_>, burst: &mut Burst) {
        let ends = self.ends.load();
        let id = &self.ids[cx.index() % self.ids.len()];
        cx.keep(self.ifindex, burst, |packet| encapsulate(packet, &ends, id));
        cx.ip_output(burst);
    }

    fn input(&self, cx: &mut Worker<'_>, burst: &mut Burst) {
        cx.keep(self.ifindex, burst, decapsulate);
        cx.if_input(self.ifindex, burst);
    }

    fn status(&self) -> serde_json::Value {
        let ends = self.ends.load();
        serde_json::json!({ "local": ends.local, "remote": ends.remote, "ttl": ends.ttl, "pmtu": ends.pmtu })
    }
}

fn attach(host: &Host, ifindex: u32, ends: &Ends) -> Result<Attachment, Error> {
    host.encap_attach(ifindex, ends.key())
        .map_err(|_| Error::from(format!("another tunnel already has local {} and remote {}", ends.local, ends.remote)))
}

fn encapsulate(packet: &mut Packet, ends: &Ends, id: &OuterId) -> Result<(), DropReason> {
    let inner_len = packet.len();
    if header::header_len(packet.data()).is_none() {
        return Err(DropReason::EncapBad);
    }
    if inner_len + header::OUTER > 0xffff {
        return Err(DropReason::Oversize);
    }
    let (tos, flags) = (ecn::encapsulate(packet.data()[1]), packet.data()[6]);
    let Some(room) = packet.push_front(header::OUTER) else { return Err(DropReason::NoBuffer) };
    let Some(outer) = room.first_chunk_mut::<{ header::OUTER }>() else { return Err(DropReason::NoBuffer) };
    header::write_outer(outer, tos, ends.ttl, inner_len as u16, id.next(), ends.local, ends.remote);
    if ends.pmtu {
        header::copy_df(outer, flags);
    }
    let h = packet.hdr_mut();
    h.flags = (h.flags & !CARRIED_OFF) | pkt_flags::LOCAL;
    (h.l2_off, h.l3_off, h.l4_off) = (0, h.data_off(), h.data_off() + header::OUTER as u16);
    (h.ether_type, h.l4_proto) = (0x0800, header::IPIP);
    Ok(())
}

fn decapsulate(packet: &mut Packet) -> Result<(), DropReason> {
    let outer = header::header_len(packet.data()).ok_or(DropReason::EncapBad)?;
    let outer_tos = packet.data()[1];
    if !packet.pull_front(outer) {
        return Err(DropReason::EncapBad);
    }
    let inner = header::header_len(packet.data()).ok_or(DropReason::EncapBad)?;
    let inner_tos = packet.data()[1];
    let tos = ecn::decapsulate(outer_tos, inner_tos).ok_or(DropReason::EncapBad)?;
    if tos != inner_tos {
        header::set_tos(&mut packet.data_mut()[..inner], tos);
    }
    let h = packet.hdr_mut();
    // What the device said of checksums was said of the outer packet.
    h.flags &= !CARRIED_OFF;
    (h.l2_off, h.l3_off, h.l4_off) = (0, h.data_off(), 0);
    h.ether_type = 0x0800;
    Ok(())
}

/// Flags that belong to one header and do not pass to another.
const CARRIED_OFF: u32 = pkt_flags::RX_L3_OK
    | pkt_flags::RX_L3_BAD
    | pkt_flags::RX_L4_OK
    | pkt_flags::RX_L4_BAD
    | pkt_flags::VLAN
    | pkt_flags::BCAST
    | pkt_flags::MCAST
    | pkt_flags::HASH;

impl Ends {
    fn key(&self) -> EncapKey {
        EncapKey::ipv4(header::IPIP, self.local, self.remote)
    }
}

smpnet_plugin::plugin! {
    name: "gif",
    summary: "generic tunnel interface: IPv4 in IPv4 (RFC 2003)",
    license: "MIT OR Apache-2.0",
    privileges: 0,
    pci: [],
    drivers: [],
    ifkinds: [Gif],
    filters: [],
}

#[cfg(test)]
mod tests {
    use super::*;
    use smpnet_plugin::testing;

    const LOCAL: [u8; 4] = [192, 0, 2, 1];
    const REMOTE: [u8; 4] = [198, 51, 100, 2];

    fn request(options: &str) -> IfRequest<'static> {
        let options = serde_json::from_str(options).unwrap();
        IfRequest { name: "gif0", ifindex: 7, options, workers: 4, mtu: 0 }
    }

    fn gif() -> Gif {
        let req = request(r#"{"local": "192.0.2.1", "remote": "198.51.100.2"}"#);
        Gif::create(testing::host(), &req).unwrap().0
    }

    /// An IPv4 packet of 28 bytes with this TOS byte.
    fn inner(tos: u8) -> [u8; 28] {
        let mut p = [0; 28];
        let head = p.first_chunk_mut().unwrap();
        header::write_outer(head, tos, 64, 8, 9, [10, 0, 0, 1].into(), [10, 0, 1, 1].into());
        p[20..].copy_from_slice(b"12345678");
        p
    }

    fn burst(bytes: &[u8]) -> Burst {
        let mut b = Burst::new();
        assert!(b.push(testing::packet(bytes)).is_ok());
        b
    }

    #[test]
    fn a_packet_that_leaves_gets_an_outer_header_and_is_routed() {
        let gif = gif();
        gif.output(&mut testing::worker(0), &mut burst(&inner(0xb9)));
        let out = testing::routed();
        assert_eq!(out.len(), 1);
        let data = out[0].data();
        assert_eq!((data.len(), data[1], data[8], data[9]), (48, 0xb9, 30, 4));
        assert_eq!((&data[12..16], &data[16..20]), (&LOCAL[..], &REMOTE[..]));
        assert_eq!(data[20..], inner(0xb9));
        assert_ne!(out[0].hdr().flags & pkt_flags::LOCAL, 0);
        drop(out);
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn a_packet_that_arrives_loses_its_outer_header_and_keeps_its_congestion_mark() {
        let gif = gif();
        let mut packet = vec![0; 20];
        header::write_outer(packet.first_chunk_mut().unwrap(), 3, 9, 28, 1, REMOTE.into(), LOCAL.into());
        packet.extend(inner(2));
        gif.input(&mut testing::worker(0), &mut burst(&packet));
        let got = testing::inputs(7);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].data().len(), 28);
        assert_eq!(got[0].data()[1], 3, "congestion experienced");
        assert_eq!(got[0].hdr().ether_type, 0x0800);
    }

    #[test]
    fn what_is_no_ipv4_packet_is_dropped_by_name() {
        let gif = gif();
        let mut packet = vec![0; 20];
        header::write_outer(packet.first_chunk_mut().unwrap(), 0, 9, 4, 1, REMOTE.into(), LOCAL.into());
        packet.extend([0x60, 0, 0, 0]);
        gif.input(&mut testing::worker(0), &mut burst(&packet));
        gif.output(&mut testing::worker(0), &mut burst(&[0x60; 40]));
        assert_eq!(testing::drops(7), [DropReason::EncapBad, DropReason::EncapBad]);
        assert_eq!(testing::outstanding(), 0);
    }

    #[test]
    fn new_ends_replace_the_old_ones_or_nothing_changes() {
        let gif = gif();
        let other = r#"{"local": "192.0.2.1", "remote": "198.51.100.3"}"#;
        let taken = Gif::create(testing::host(), &IfRequest { ifindex: 8, ..request(other) }).unwrap().0;
        let e = gif.configure(&request(other)).unwrap_err().to_string();
        assert!(e.contains("another tunnel already has local 192.0.2.1 and remote 198.51.100.3"), "{e}");
        assert_eq!(gif.status()["remote"], "198.51.100.2");
        taken.destroy();
        gif.configure(&request(other)).unwrap();
        assert_eq!(gif.status()["remote"], "198.51.100.3");
        assert_eq!(testing::attachments(), ["encap proto 4 local 192.0.2.1 remote 198.51.100.3 -> 7"]);
        gif.destroy();
        assert!(testing::attachments().is_empty());
    }
}
