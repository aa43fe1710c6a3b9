//! The longest prefix of an address: a persistent trie of four bits a level.
//!
//! Prefixes that end inside of a level are spread over its slots (controlled prefix expansion, Srinivasan and Varghese,
//! 1999), so that a lookup is one step a level and remembers the last value that it passed. A change copies the nodes on its
//! way and shares all else with the version before.

use smpnet_filter_abi::ABSENT;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Address bits, the first bit of the address first, and how many of them are the prefix. Bytes that an IPv4 address does
/// not have are 0.
pub(super) type Prefix = ([u8; 16], u8);

#[derive(Clone)]
pub(crate) struct Longest {
    default: u32,
    root: Arc<Node>,
}

#[derive(Clone, Default)]
struct Node {
    slots: [Slot; 16],
}

#[derive(Clone, Default)]
struct Slot {
    value: u32,
    /// Bits of this level that the prefix behind `value` has, 1 to 4; 0 when no prefix ends here.
    depth: u8,
    child: Option<Arc<Node>>,
}

impl Longest {
    pub(super) fn new() -> Longest {
        Longest { default: ABSENT, root: Arc::default() }
    }

    /// The value of the longest prefix of an address, or `ABSENT`.
    pub(super) fn get(&self, address: &[u8]) -> u32 {
        let (mut best, mut node) = (self.default, &self.root);
        for byte in address {
            for nibble in [byte >> 4, byte & 15] {
                let slot = &node.slots[usize::from(nibble)];
                if slot.depth != 0 {
                    best = slot.value;
                }
                match &slot.child {
                    Some(child) => node = child,
                    None => return best,
                }
            }
        }
        best
    }

    pub(super) fn insert(&mut self, (address, len): &Prefix, value: u32) {
        if *len == 0 {
            self.default = value;
            return;
        }
        let (levels, depth) = place(*len);
        let mut node = Arc::make_mut(&mut self.root);
        for level in 0..levels {
            let slot = &mut node.slots[nibble(address, level)];
            node = Arc::make_mut(slot.child.get_or_insert_default());
        }
        for slot in covered(node, address, levels, depth) {
            if slot.depth <= depth {
                (slot.value, slot.depth) = (value, depth);
            }
        }
    }

    /// Takes a prefix out; `left` are those that remain.
    pub(super) fn remove(&mut self, (address, len): &Prefix, left: &BTreeMap<Prefix, u32>) {
        if *len == 0 {
            self.default = ABSENT;
            return;
        }
        let (levels, depth) = place(*len);
        // What comes to light: the longest prefix that ends in the same level.
        let shorter = (1..depth).rev().find_map(|d| {
            let bits = len - depth + d;
            left.get(&(masked(address, bits), bits)).map(|v| (*v, d))
        });
        let fill = shorter.unwrap_or((0, 0));
        remove(Arc::make_mut(&mut self.root), address, 0, levels, depth, fill);
    }
}

/// Levels above the one that a prefix ends in, and how many bits of that one it has.
fn place(len: u8) -> (usize, u8) {
    let levels = usize::from(len - 1) / 4;
    (levels, len - 4 * levels as u8)
}

fn nibble(address: &[u8; 16], level: usize) -> usize {
    let byte = address[level / 2];
    usize::from(if level.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
}

/// The slots of a level that a prefix covers.
fn covered<'a>(node: &'a mut Node, address: &[u8; 16], level: usize, depth: u8) -> &'a mut [Slot] {
    let span = 1 << (4 - depth);
    let first = nibble(address, level) & !(span - 1);
    &mut node.slots[first..first + span]
}

fn remove(node: &mut Node, address: &[u8; 16], level: usize, last: usize, depth: u8, fill: (u32, u8)) {
    if level == last {
        for slot in covered(node, address, level, depth) {
            if slot.depth == depth {
                (slot.value, slot.depth) = fill;
            }
        }
        return;
    }
    let slot = &mut node.slots[nibble(address, level)];
    let Some(child) = &mut slot.child else { return };
    let inner = Arc::make_mut(child);
    remove(inner, address, level + 1, last, depth, fill);
    if inner.slots.iter().all(|s| s.depth == 0 && s.child.is_none()) {
        slot.child = None;
    }
}

/// An address with all bits behind the first `len` cleared.
pub(super) fn masked(address: &[u8; 16], len: u8) -> [u8; 16] {
    let bits = u128::from_be_bytes(*address);
    let mask = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) };
    (bits & mask).to_be_bytes()
}
