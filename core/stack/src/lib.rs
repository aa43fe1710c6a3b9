//! The network stack: interfaces, Ethernet, ARP, IPv4, ICMP, routing, flow cache.
