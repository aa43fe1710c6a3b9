//! Neighbours: IPv4 addresses on a link and their Ethernet addresses.
//!
//! [`machine`] decides (pure, time comes in), [`table`] is what workers read, [`control`] is the owner of both: it takes
//! events of workers, and time, and returns what is to be done.

pub(crate) mod control;
pub(crate) mod dad;
pub(crate) mod machine;
pub(crate) mod table;
