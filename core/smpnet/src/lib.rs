//! A user-space, multi-core network stack and router: the program around the stack.
//!
//! - [`config`] reads the configuration file and says what is wrong with it;
//! - [`apply`] finds the difference to what runs, and makes it as one transaction;
//! - [`client`] talks to the control API of a daemon.

pub mod apply;
pub mod client;
pub mod config;
