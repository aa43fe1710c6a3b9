//! A user-space, multi-core network stack and router: the program around the stack.
//!
//! - [`config`] reads the configuration file and says what is wrong with it, [`check`] with all that this machine knows;
//! - [`apply`] finds the difference to what runs, and makes it as one transaction;
//! - [`loader`] loads plugins, [`host`] is what they get from us, [`plugins`] knows where they are, [`native`] puts their
//!   packet filters on hooks;
//! - [`capture`] turns what listeners hear into pcapng, and takes such a stream apart again;
//! - [`daemon`] runs a router and serves the control API, whose machinery is [`api`];
//! - [`cli`] is the command line, which talks to a daemon by [`client`]; [`doctor`] looks at the machine.

mod answers;
pub mod api;
pub mod apply;
pub mod capture;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod host;
pub mod loader;
pub mod native;
pub mod plugins;
