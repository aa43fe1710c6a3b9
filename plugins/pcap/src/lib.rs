//! pcap and pcapng files as ports.

mod file;
mod writer;
