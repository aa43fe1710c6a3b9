//! Version of the ABI and the rules by which it changes.
//!
//! - **Major**: raised when something that exists changes its meaning, size or place. A plugin of another major version
//!   is refused.
//! - **Minor**: raised when something is added. Additions are: a field at the end of a table or descriptor that starts
//!   with `size`; a new table kind; a new constant. smpnet loads every plugin whose minor version is not above its own
//!   and reads only as many bytes of its tables as their `size` says. A plugin looks at `size` of what smpnet hands it
//!   before it uses a field that was added after version 1.0.
//! - [`PktHdr`](crate::PktHdr) never grows: its reserved bits and `scratch` are all there is.
//! - Structures have explicit padding, fixed-width integers, no `bool`, no enum with niches and no `usize`. A test holds
//!   every size and offset (`abi/tests/layout.rs`).

/// Major version of this ABI.
pub const ABI_MAJOR: u16 = 1;
/// Minor version of this ABI.
pub const ABI_MINOR: u16 = 0;
