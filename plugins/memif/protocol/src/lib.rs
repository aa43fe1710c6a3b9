//! What the two ends of a memif say to each other, without any of it done: messages, the dialogue as a function of them,
//! and descriptors with what of them may be believed. A crate of its own, so that it can be fuzzed: a program can link only
//! one plugin.

#![forbid(unsafe_code)]

pub mod desc;
pub mod error;
pub mod session;
pub mod wire;
