//! The golden layout of the ABI: sizes, alignments and offsets of everything that crosses the boundary, as version
//! 1.0 has them on 64-bit machines. Plugins in the field were compiled against these numbers.

use smpnet_abi::*;
use std::mem::{align_of, offset_of, size_of};

const RULES: &str = "\n\nA layout of the plugin ABI has changed. Plugins in the field were compiled against the old one. \
The rules (abi/src/version.rs):\n\
- a field added at the end of a table or descriptor that starts with `size`: raise ABI_MINOR and add the new numbers \
here;\n\
- anything that moved, went away, changed its size or its meaning: raise ABI_MAJOR (every plugin must be rebuilt), or \
undo it;\n\
- PktHdr never grows.\n\
Then write the C header anew: cargo run -p smpnet-abi --example header\n";

/// Compares one structure with its golden numbers. The pattern names every field, so a field that is missing here does
/// not compile.
macro_rules! golden {
    ($ty:ident: size $size:literal, align $align:literal { $($field:ident: $offset:literal),* $(,)? }) => {{
        #[allow(dead_code, clippy::unused_unit)]
        fn every_field_is_listed(value: $ty) {
            let $ty { $($field: _),* } = value;
        }
        let mut wrong = Vec::new();
        let mut check = |what: &str, is: usize, golden: usize| {
            if is != golden {
                wrong.push(format!("{} {what}: {is}, was {golden}", stringify!($ty)));
            }
        };
        check("size", size_of::<$ty>(), $size);
        check("alignment", align_of::<$ty>(), $align);
        $(check(concat!("offset of ", stringify!($field)), offset_of!($ty, $field), $offset);)*
        wrong
    }};
}

#[test]
fn no_structure_has_moved() {
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend(golden!(PktHdr: size 64, align 64 { next: 0, pkt_len: 4, data_off: 8, data_len: 10, rcvif: 12, l2_off: 16, l3_off: 18, l4_off: 20, ether_type: 22, flow_hash: 24, vlan_tci: 28, l4_proto: 30, nsegs: 31, flags: 32, gso_size: 36, csum_start: 38, csum_offset: 40, rx_queue: 42, mark: 44, scratch: 48 }));
    wrong.extend(golden!(PoolDesc: size 40, align 8 { size: 0, cell_size: 4, base: 8, bytes: 16, cells: 24, data_off: 28, fd: 32, page_size: 36 }));
    wrong.extend(golden!(Text: size 16, align 8 { ptr: 0, len: 8, _pad: 12 }));
    wrong.extend(golden!(ErrBuf: size 16, align 8 { ptr: 0, cap: 8, len: 12 }));
    wrong.extend(golden!(PciId: size 8, align 2 { vendor: 0, device: 2, subvendor: 4, subdevice: 6 }));
    wrong.extend(golden!(Manifest: size 720, align 4 { magic: 0, size: 8, abi_major: 12, abi_minor: 14, kinds: 16, privileges: 20, name: 24, version: 56, license: 80, summary: 112, pci: 208 }));
    wrong.extend(golden!(MacAddr: size 6, align 1 { bytes: 0 }));
    wrong.extend(golden!(PortConfig: size 56, align 8 { size: 0, ifindex: 4, name: 8, options: 24, rx_queues: 40, tx_queues: 42, workers: 44, mtu: 48, _pad: 52 }));
    wrong.extend(golden!(PortInfo: size 48, align 8 { size: 0, flags: 4, port: 8, rx_queues: 16, tx_queues: 18, mtu: 20, mtu_max: 24, offloads: 28, mac: 32, rss_table: 38, rss_key: 40, _pad: 42 }));
    wrong.extend(golden!(LinkState: size 16, align 4 { state: 0, full_duplex: 4, speed: 8, _pad: 12 }));
    wrong.extend(golden!(PortStats: size 56, align 8 { rx_packets: 0, rx_bytes: 8, rx_missed: 16, rx_errors: 24, tx_packets: 32, tx_bytes: 40, tx_errors: 48 }));
    wrong.extend(golden!(NamedCounter: size 48, align 8 { name: 0, value: 40 }));
    wrong.extend(golden!(DriverTable: size 184, align 8 { size: 0, flags: 4, name: 8, summary: 24, open: 40, close: 48, set_up: 56, rx_burst: 64, tx_burst: 72, event_fd: 80, rx_arm: 88, rx_disarm: 96, link_state: 104, stats: 112, counters: 120, set_promisc: 128, set_multicast: 136, set_mac: 144, set_mtu: 152, set_offloads: 160, set_rss: 168, status: 176 }));
    wrong.extend(
        golden!(IfConfig: size 48, align 8 { size: 0, ifindex: 4, name: 8, options: 24, workers: 40, mtu: 44 }),
    );
    wrong.extend(golden!(IfKindInfo: size 48, align 8 { size: 0, if_type: 4, handle: 8, mtu: 16, mtu_min: 20, mtu_max: 24, offloads: 28, parent: 32, mac: 36, _pad: 42 }));
    wrong.extend(golden!(IfKindTable: size 88, align 8 { size: 0, flags: 4, name: 8, summary: 24, create: 40, destroy: 48, configure: 56, output: 64, input: 72, status: 80 }));
    wrong.extend(golden!(FilterConfig: size 40, align 8 { size: 0, workers: 4, name: 8, options: 24 }));
    wrong.extend(golden!(FilterTable: size 72, align 8 { size: 0, flags: 4, name: 8, summary: 24, create: 40, destroy: 48, filter: 56, status: 64 }));
    wrong.extend(golden!(IfInfo: size 48, align 4 { size: 0, ifindex: 4, if_type: 8, flags: 12, mtu: 16, offloads: 20, mac: 24, _pad: 30, name: 32 }));
    wrong.extend(golden!(EncapKey: size 36, align 2 { version: 0, protocol: 1, _pad: 2, remote: 4, local: 20 }));
    wrong.extend(golden!(CounterDesc: size 48, align 8 { size: 0, stride: 4, base: 8, owner: 16, name: 32 }));
    wrong.extend(golden!(HostServices: size 216, align 8 { size: 0, abi_major: 4, abi_minor: 6, workers: 8, _pad: 12, pool: 16, pkt_alloc: 24, pkt_free: 32, pkt_drop: 40, if_input: 48, if_output: 56, ip_output: 64, now_ns: 72, callout: 80, callout_stop: 88, work: 96, encap_attach: 104, encap_detach: 112, vlan_attach: 120, vlan_detach: 128, ether_attach: 136, ether_detach: 144, if_lookup: 152, if_info: 160, link_event: 168, fault: 176, counter: 184, sysctl: 192, sysctl_remove: 200, log: 208 }));
    wrong.extend(golden!(TableEntry: size 16, align 8 { kind: 0, _pad: 4, table: 8 }));
    wrong.extend(golden!(Description: size 64, align 8 { name: 0, version: 16, summary: 32, built_with: 48 }));
    assert!(wrong.is_empty(), "{}{RULES}", wrong.join("\n"));
}
