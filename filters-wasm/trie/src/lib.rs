//! Persistent maps for tables that many threads look into while one changes them.
//!
//! A clone is a version, and costs a count or two. A change of one version copies the nodes on the way to what is changed and
//! shares all else with the others, which stay what they were; nodes that no other version has are changed in place, so many
//! changes between two clones cost one copy. Look-ups take no lock and allocate nothing.
//!
//! ```
//! use smpnet_trie::PrefixMap;
//! let mut now = PrefixMap::default();
//! now.insert(0x0a00_0000u32, 8, "ten");
//! let before = now.clone();
//! now.insert(0x0a01_0000, 16, "ten and one");
//! assert_eq!(now.longest(0x0a01_0203), Some((16, &"ten and one")));
//! assert_eq!(before.longest(0x0a01_0203), Some((8, &"ten")));
//! ```
//!
//! The last one that lets go of a version frees what only that version had: let it be the thread that makes changes, by
//! keeping a clone there until the others have gone on.

#![forbid(unsafe_code)]

mod bits;
mod exact;
mod prefix;
#[cfg(test)]
mod tests;

pub use bits::Bits;
pub use exact::ExactMap;
pub use prefix::PrefixMap;
