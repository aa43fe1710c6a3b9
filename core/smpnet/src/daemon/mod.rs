//! The daemon: a router with a control API, from its file to its end.

mod capture;
mod change;
mod device;
mod endpoints;
mod filter_requests;
mod filters;
mod metrics;
mod notify;
mod npf;
mod npf_state;
mod npf_watch;
mod requests;
mod router;
mod run;
mod schemas;
mod show;
mod socket;
mod state;

pub use capture::{ENDED_TRAILER, LISTENER_HEADER};
pub use device::{Device, Wish};
pub use requests::understand;
pub use run::{Options, StartError, run};
pub use state::writable as writable_sysctl;

#[cfg(test)]
mod tests;
