//! Scenarios of a whole router: literal frames go in by ports in memory, and what comes out is looked at.

mod arp;
mod capture;
mod coalesce;
mod express;
mod faults;
mod forward;
mod fragments;
mod frames;
mod hands;
mod local;
mod many;
mod ports;
mod rig;
mod settings;
mod tunnels;
