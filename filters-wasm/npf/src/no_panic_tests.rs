//! Nothing that changes or answers packets panics, whatever the bytes are, nor touches what follows the packet.

use crate::{
    checksum,
    config::{Normalize, Prefix, Return},
    nat::{Change, Side, icmp_error, npt66, pptp, rewrite},
    packet::{Packet, v4},
    procedure::normalize,
    reply,
    testing::random,
};
use proptest::prelude::*;

/// Bytes that are often a packet: of a family and a protocol that are looked at, often with a plausible first byte of the
/// upper protocol and ports of PPTP.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let protos = vec![0u8, 1, 6, 17, 33, 43, 44, 47, 58, 60, 132, 136];
    let kinds = vec![0u8, 1, 3, 8, 11, 128, 129, 6];
    let data = prop::collection::vec(prop_oneof![any::<u8>(), 0u8..8], 0..160);
    (data, any::<bool>(), prop::sample::select(protos), prop::sample::select(kinds), any::<bool>(), 0usize..4).prop_map(
        |(mut bytes, v6, proto, kind, pptp, behind)| {
            let len = bytes.len().saturating_sub(behind);
            let header = if v6 { 40 } else { 20 };
            if len < header {
                return bytes;
            }
            if v6 {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                bytes[6] = proto;
            } else {
                bytes[0] = 0x45 + u8::from(bytes[0] > 200);
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                bytes[6] &= 0x41;
                bytes[9] = proto;
            }
            let first = bytes[0];
            if let Some(body) = bytes.get_mut(header..header + 13) {
                body[0] = if proto == 6 && pptp { 6 } else { kind };
                body[12] = 0x50 | body[12] & 15;
                if pptp {
                    body[1] = 0xbb;
                }
                // A quote, where it is an error.
                body[8] = first;
            }
            bytes
        },
    )
}

fn all(bytes: &mut [u8], packet: &Packet, address: u128, id: u16) {
    let address = if packet.family == crate::config::Family::V4 { v4(address as u32) } else { address };
    for side in [Side::Src, Side::Dst] {
        let change = Change { side, address: Some(address), port_or_id: Some(id) };
        rewrite(bytes, packet, change);
        icmp_error::translate(bytes, packet, change, Some(address));
    }
    crate::nat::quoted::quoted(bytes, packet);
    pptp::rewrite(bytes, packet, pptp::Whose::Own, |_, id| Some(!id));
    pptp::rewrite(bytes, packet, pptp::Whose::Peer, |_, id| Some(!id));
    pptp::set_gre_call_id(bytes, packet, id);
    let how = Normalize { random_id: true, min_ttl: id as u8, max_mss: id, no_df: true };
    normalize(bytes, packet, &how, &mut random(address as u64));
    let prefix = |a: u128| Prefix::new(std::net::Ipv6Addr::from_bits(a).into(), (id % 65) as u8);
    if let (Some(inner), Some(outer)) = (prefix(packet.src), prefix(address))
        && let Some(npt) = npt66::Npt66::new(inner, outer)
    {
        npt.rewrite(bytes, packet, npt66::Way::Out);
    }
    for how in [Return::Any, Return::Icmp, Return::Rst] {
        if let Some(answer) = reply::answer(how, bytes, packet, None) {
            let packet = Packet::read(&answer).unwrap();
            assert!(checksum::is_right(&answer, &packet));
        }
    }
    checksum::is_right(bytes, packet);
    checksum::fill(bytes, packet);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_anything_panic(before in bytes(), address in any::<u128>(), id in any::<u16>()) {
        let Ok(packet) = Packet::read(&before) else { return Ok(()) };
        let mut bytes = before.clone();
        all(&mut bytes, &packet, address, id);
        prop_assert_eq!(&bytes[packet.len..], &before[packet.len..]);
    }

    #[test]
    fn a_packet_that_is_not_these_bytes_does_no_harm(
        before in bytes(), mut other in bytes(), address in any::<u128>(), id in any::<u16>(),
    ) {
        let Ok(packet) = Packet::read(&before) else { return Ok(()) };
        all(&mut other, &packet, address, id);
    }
}
