//! Generic tunnel interface: IPv4 in IPv4.
