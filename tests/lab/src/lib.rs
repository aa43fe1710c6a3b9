//! Network-namespace laboratory: hosts, links, senders and receivers.
