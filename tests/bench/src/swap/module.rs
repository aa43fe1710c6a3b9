//! A module as somebody else might write it: it reads the destination port of each packet, and takes all packets or none.

use smpnet_filter_abi as abi;
use smpnet_wasm::{ModuleSpec, Source};
use std::error::Error;

/// Where its ring lies in its memory.
const RING: usize = 1024;
/// Bytes of each packet that it sees.
const WINDOW: u32 = 128;

/// The module of a version that takes all packets, or none.
pub fn source(version: &str, takes: bool) -> Result<Source, Box<dyn Error>> {
    Ok(Source::Module(ModuleSpec::new(wat::parse_str(text(version, takes))?)))
}

/// Its text. Destination port 9 is that of every packet of the load, port 80 that of none; both as they stand in the packet, read
/// by a little-endian load.
fn text(version: &str, takes: bool) -> String {
    let ring = std::mem::offset_of!(abi::Ring, packets) + RING;
    let verdicts = std::mem::offset_of!(abi::Ring, verdicts) + RING;
    let (packet, verdict) = (size_of::<abi::Packet>(), size_of::<abi::Verdict>());
    let (cap_len, l4_off) = (std::mem::offset_of!(abi::Packet, cap_len), std::mem::offset_of!(abi::Packet, l4_off));
    let port: u16 = if takes { 9 } else { 80 };
    let port = port.swap_bytes();
    let drop = abi::verdict::DROP;
    let pages = (RING + abi::ring_bytes(WINDOW)).div_ceil(65_536);
    format!(
        r#"(module
  (memory (export "memory") {pages})
  (func (export "smpnet_ring") (result i32) (i32.const {RING}))
  (func (export "smpnet_filter") (param $n i32) (result i32) (local $i i32) (local $at i32) (local $l4 i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $at (i32.add (i32.const {ring}) (i32.mul (local.get $i) (i32.const {packet}))))
        (local.set $l4 (i32.load16_u offset={l4_off} (local.get $at)))
        (if (i32.le_u (i32.add (local.get $l4) (i32.const 4)) (i32.load16_u offset={cap_len} (local.get $at)))
          (then
            (if (i32.eq (i32.load16_u offset=2 (i32.add (i32.load (local.get $at)) (local.get $l4))) (i32.const {port}))
              (then (i32.store (i32.add (i32.const {verdicts}) (i32.mul (local.get $i) (i32.const {verdict})))
                (i32.const {drop}))))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $n))
  (@custom "smpnet.filter" "{{\"abi\":\"1.0\",\"name\":\"port\",\"version\":\"{version}\",\"window\":{WINDOW}}}"))"#
    )
}
