//! What an operator can change while packets flow: plain numbers that workers load.

use std::sync::atomic::AtomicU32;

macro_rules! tunables {
    ($($field:ident = $default:literal, $min:literal ..= $max:literal, $path:literal, $doc:literal;)*) => {
        /// The numbers.
        pub(crate) struct Tunables {
            $(#[doc = $doc] pub $field: AtomicU32,)*
            /// How many filters want reassembled packets.
            pub reass_for_filters: AtomicU32,
        }

        impl Tunables {
            pub(crate) fn new() -> Tunables {
                Tunables { $($field: AtomicU32::new($default),)* reass_for_filters: AtomicU32::new(0) }
            }

            /// Path, one line, least, most and the number itself.
            pub(crate) fn each(&self) -> Vec<(&'static str, &'static str, u32, u32, &AtomicU32)> {
                vec![$(($path, $doc, $min, $max, &self.$field),)*]
            }
        }
    };
}

tunables! {
    forwarding = 1, 0..=1, "net.inet.ip.forwarding", "forward packets between interfaces";
    redirect = 1, 0..=1, "net.inet.ip.redirect", "send ICMP redirects";
    ttl = 64, 1..=255, "net.inet.ip.ttl", "time to live of packets made here";
    express = 1, 0..=1, "net.inet.ip.express", "take packets with a known way out the straight way; 0 sends all over the general path";
    allowsrcrt = 0, 0..=1, "net.inet.ip.allowsrcrt", "take packets with a source route; 0 refuses them";
    forwsrcrt = 1, 0..=1, "net.inet.ip.forwsrcrt", "send packets on by their source route, where allowsrcrt is set";
    directed_broadcast = 0, 0..=1, "net.inet.ip.directed-broadcast", "forward broadcasts into connected networks";
    maxadjacencies = 16384, 0..=4194304, "net.inet.ip.maxadjacencies", "next hops whose way each worker keeps prepared; 0 keeps none";
    mtudisc = 1, 0..=1, "net.inet.ip.mtudisc", "learn path MTUs from ICMP for what this router itself sends";
    mtudisctimeout = 600, 1..=86400, "net.inet.ip.mtudisctimeout", "seconds that a path MTU is remembered";
    maxfragpackets = 200, 0..=65535, "net.inet.ip.maxfragpackets", "datagrams that may be incomplete at once";
    coalesce = 1, 0..=1, "net.inet.tcp.coalesce", "join TCP segments that leave together by a port that cuts them again";
    dad_count = 3, 0..=16, "net.inet.ip.dad_count", "RFC 5227 probes before a new address is used";
    max_nest = 4, 0..=15, "net.inet.ip.encapnest", "tunnels and vlans that a packet may pass on its way out";
    bmcastecho = 0, 0..=1, "net.inet.icmp.bmcastecho", "answer echo requests to broadcasts and the all-hosts group";
    returndatabytes = 548, 8..=548, "net.inet.icmp.returndatabytes", "bytes behind the IP header that errors quote at most";
    errppslimit = 1000, 0..=1000000, "net.inet.icmp.errppslimit", "ICMP errors sent per second at most";
    maxqueuelen = 16, 1..=1024, "net.inet.arp.maxqueuelen", "packets that wait for one unresolved neighbour";
}
