//! Names of all counters, in one place: the enum's order is the order in memory, and the names are what people see.

use smpnet_abi::DropReason;

/// Drop reasons.
pub(crate) const REASONS: usize = DropReason::ALL.len();

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$m:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        // The lists are NetBSD's, whole: what this stack has no event for stays 0 and is still shown.
        #[allow(dead_code)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum $name { $($(#[$m])* $variant,)* }

        impl $name {
            /// How many.
            pub(crate) const N: usize = [$($text,)*].len();
            /// Their names.
            pub(crate) const NAMES: [&'static str; Self::N] = [$($text,)*];
        }
    };
}

counters! {
    /// Counters of an interface (NetBSD's if_stats).
    IfCounter {
        Ipackets = "ipackets",
        Ierrors = "ierrors",
        Opackets = "opackets",
        Oerrors = "oerrors",
        Collisions = "collisions",
        Ibytes = "ibytes",
        Obytes = "obytes",
        Imcasts = "imcasts",
        Omcasts = "omcasts",
        Iqdrops = "iqdrops",
        Noproto = "noproto",
        /// ICMP errors that came back for packets of this tunnel.
        PathErrors = "path_errors",
    }
}

counters! {
    /// Counters of IPv4 (NetBSD's IP_STAT).
    IpStat {
        Total = "total",
        Badsum = "badsum",
        Tooshort = "tooshort",
        Toosmall = "toosmall",
        Badhlen = "badhlen",
        Badlen = "badlen",
        Fragments = "fragments",
        Fragdropped = "fragdropped",
        Fragtimeout = "fragtimeout",
        Forward = "forward",
        Fastforward = "fastforward",
        Cantforward = "cantforward",
        Redirectsent = "redirectsent",
        Noproto = "noproto",
        Delivered = "delivered",
        Localout = "localout",
        Odropped = "odropped",
        Reassembled = "reassembled",
        Fragmented = "fragmented",
        Ofragments = "ofragments",
        Cantfrag = "cantfrag",
        Badoptions = "badoptions",
        Noroute = "noroute",
        Badvers = "badvers",
        Rawout = "rawout",
        Badfrags = "badfrags",
        Rcvmemdrop = "rcvmemdrop",
        Toolong = "toolong",
        Nogif = "nogif",
        Badaddr = "badaddr",
        Nol2tp = "nol2tp",
        Noipsec = "noipsec",
        PfildropIn = "pfildrop_in",
        PfildropOut = "pfildrop_out",
        IpsecdropIn = "ipsecdrop_in",
        IpsecdropOut = "ipsecdrop_out",
        Ifdrop = "ifdrop",
        Timxceed = "timxceed",
        Ifnoaddr = "ifnoaddr",
        Rtreject = "rtreject",
        Bcastdenied = "bcastdenied",
    }
}

counters! {
    /// Counters of ICMP.
    IcmpStat {
        /// Errors that were asked for.
        Error = "error",
        /// Not sent: about a packet that no error may be sent about.
        Oldshort = "suppressed",
        /// Not sent: the limit.
        Limited = "limited",
        Badcode = "badcode",
        Tooshort = "tooshort",
        Checksum = "checksum",
        Badlen = "badlen",
        Reflect = "reflect",
        Bmcastecho = "bmcastecho",
        OutEchoReply = "out_echoreply",
        OutUnreach = "out_unreach",
        OutRedirect = "out_redirect",
        OutTimxceed = "out_timxceed",
        OutParamprob = "out_paramprob",
        OutTstampReply = "out_tstampreply",
        InEchoReply = "in_echoreply",
        InUnreach = "in_unreach",
        InRedirect = "in_redirect",
        InEcho = "in_echo",
        InTimxceed = "in_timxceed",
        InParamprob = "in_paramprob",
        InTstamp = "in_tstamp",
        InOther = "in_other",
        /// Errors that told a path MTU.
        InPmtu = "in_pmtu",
        /// Errors about a tunnel's packets that were passed on to the inner sender.
        InRelayed = "in_relayed",
        /// Errors about packets that cannot be ours.
        InUnmatched = "in_unmatched",
    }
}

counters! {
    /// Counters of ARP.
    ArpStat {
        SentTotal = "sndtotal",
        SentReply = "sndreply",
        SentRequest = "sndrequest",
        RcvTotal = "rcvtotal",
        RcvRequest = "rcvrequest",
        RcvReply = "rcvreply",
        RcvMcast = "rcvmcast",
        RcvBad = "rcvbadlen",
        RcvZeroTpa = "rcvzerotpa",
        RcvZeroSpa = "rcvzerospa",
        RcvNoInt = "rcvnoint",
        RcvLocalSha = "rcvlocalsha",
        RcvBcastSha = "rcvbcastsha",
        RcvDupSpa = "rcvdupspa",
        RcvOverPerm = "rcvoverperm",
        RcvOver = "rcvover",
        DfrTotal = "dfrtotal",
        DfrSent = "dfrsent",
        DfrDropped = "dfrdropped",
        AllocFail = "allocfail",
    }
}

counters! {
    /// Counters of the adjacencies.
    AdjStat {
        Hits = "hits",
        Misses = "misses",
        Stale = "stale",
        Evictions = "evictions",
        Inserts = "inserts",
    }
}

counters! {
    /// Counters of TCP that passes through.
    TcpStat {
        /// Segments that left as parts of larger packets.
        Coalesced = "coalesced",
        /// These packets.
        CoalescedPackets = "coalesced_packets",
    }
}

counters! {
    /// What entered and left the stack, for the conservation law.
    Account {
        Received = "received",
        Made = "made",
        FromPlugins = "from_plugins",
        Sent = "sent",
        Dropped = "dropped",
        Consumed = "consumed",
        ToPlugins = "to_plugins",
        /// Put into and taken out of waiting; the difference is what is held.
        HeldIn = "held_in",
        HeldOut = "held_out",
    }
}

/// Offsets of each group in the stack's one set of counters.
pub(crate) mod base {
    use super::*;
    pub(crate) const IP: usize = 0;
    pub(crate) const ICMP: usize = IP + IpStat::N;
    pub(crate) const ARP: usize = ICMP + IcmpStat::N;
    pub(crate) const ADJACENCY: usize = ARP + ArpStat::N;
    pub(crate) const TCP: usize = ADJACENCY + AdjStat::N;
    pub(crate) const ACCOUNT: usize = TCP + TcpStat::N;
    /// Drops that belong to no interface.
    pub(crate) const DROPS: usize = ACCOUNT + Account::N;
    pub(crate) const TOTAL: usize = DROPS + REASONS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_has_the_41_counters_of_netbsd_with_names_of_their_own() {
        assert_eq!(IpStat::N, 41);
        let mut names = IpStat::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 41);
        assert_eq!(IpStat::NAMES[IpStat::Bcastdenied as usize], "bcastdenied");
    }
}
