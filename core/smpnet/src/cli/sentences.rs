//! The counters of `netstat -s` as NetBSD's sentences (usr.bin/netstat/inet.c): number, noun in the right number, and what
//! happened to it.

use std::fmt::Write;

/// A sentence: the counter's name, and what follows the number, with `{s}` where a plural has its `s`. One that begins with
/// a tab is a part of the sum above it.
type Sentence = (&'static str, &'static str);

const IP: &[Sentence] = &[
    ("total", "total packet{s} received"),
    ("badsum", "bad header checksum{s}"),
    ("toosmall", "with size smaller than minimum"),
    ("tooshort", "with data size < data length"),
    ("toolong", "with length > max ip packet size"),
    ("badhlen", "with header length < data size"),
    ("badlen", "with data length < header length"),
    ("badoptions", "with bad options"),
    ("badvers", "with incorrect version number"),
    ("fragments", "fragment{s} received"),
    ("fragdropped", "fragment{s} dropped (dup or out of space)"),
    ("rcvmemdrop", "fragment{s} dropped (out of ipqent)"),
    ("badfrags", "malformed fragment{s} dropped"),
    ("fragtimeout", "fragment{s} dropped after timeout"),
    ("reassembled", "packet{s} reassembled ok"),
    ("delivered", "packet{s} for this host"),
    ("noproto", "packet{s} for unknown/unsupported protocol"),
    // The packets forwarded fast are told in the same line.
    ("forward", "packet{s} forwarded"),
    ("cantforward", "packet{s} not forwardable"),
    ("redirectsent", "redirect{s} sent"),
    ("nogif", "packet{s} no matching gif found"),
    ("nol2tp", "packet{s} no matching l2tp found"),
    ("noipsec", "packet{s} no matching ipsecif found"),
    ("localout", "packet{s} sent from this host"),
    ("rawout", "packet{s} sent with fabricated ip header"),
    ("odropped", "output packet{s} dropped due to no bufs, etc."),
    ("noroute", "output packet{s} discarded due to no route"),
    ("fragmented", "output datagram{s} fragmented"),
    ("ofragments", "fragment{s} created"),
    ("cantfrag", "datagram{s} that can't be fragmented"),
    ("badaddr", "datagram{s} with bad address in header"),
    ("pfildrop_in", "input packet{s} dropped by pfil"),
    ("pfildrop_out", "output packet{s} dropped by pfil"),
    ("ipsecdrop_in", "input packet{s} dropped by IPsec"),
    ("ipsecdrop_out", "output packet{s} dropped by IPsec"),
    ("ifdrop", "input packet{s} dropped due to interface state"),
    ("timxceed", "packet{s} dropped due to TTL exceeded"),
    ("ifnoaddr", "output packet{s} dropped (no IP address)"),
    ("rtreject", "output packet{s} discarded due to reject route"),
    ("bcastdenied", "output packet{s} dropped (broadcast prohibited)"),
];

const ICMP: &[Sentence] = &[
    ("error", "call{s} to icmp_error"),
    ("suppressed", "error{s} not generated because old message was icmp"),
    ("limited", "error{s} not generated because of rate limitation"),
    ("badcode", "message{s} with bad code fields"),
    ("tooshort", "message{s} < minimum length"),
    ("checksum", "bad checksum{s}"),
    ("badlen", "message{s} with bad length"),
    ("bmcastecho", "multicast echo request{s} ignored"),
    ("reflect", "message response{s} generated"),
    ("in_pmtu", "path MTU{s} learned"),
    ("in_relayed", "error{s} about tunnelled packets passed on to their senders"),
    ("in_unmatched", "error{s} about packets that were not sent from here"),
];

/// The histograms of ICMP: counter and message, as NetBSD names the types.
const ICMP_OUT: &[Sentence] = &[
    ("out_echoreply", "echo reply"),
    ("out_unreach", "destination unreachable"),
    ("out_redirect", "routing redirect"),
    ("out_timxceed", "time exceeded"),
    ("out_paramprob", "parameter problem"),
    ("out_tstampreply", "time stamp reply"),
];

const ICMP_IN: &[Sentence] = &[
    ("in_echoreply", "echo reply"),
    ("in_unreach", "destination unreachable"),
    ("in_redirect", "routing redirect"),
    ("in_echo", "echo"),
    ("in_timxceed", "time exceeded"),
    ("in_paramprob", "parameter problem"),
    ("in_tstamp", "time stamp"),
    ("in_other", "other"),
];

const ARP: &[Sentence] = &[
    ("sndtotal", "packet{s} sent"),
    ("sndreply", "\treply packet{s}"),
    ("sndrequest", "\trequest packet{s}"),
    ("rcvtotal", "packet{s} received"),
    ("rcvreply", "\treply packet{s}"),
    ("rcvrequest", "\tvalid request packet{s}"),
    ("rcvmcast", "\tbroadcast/multicast packet{s}"),
    ("rcvbadlen", "\tpacket{s} with bad length"),
    ("rcvzerotpa", "\tpacket{s} with null target IP address"),
    ("rcvzerospa", "\tpacket{s} with null source IP address"),
    ("rcvnoint", "\tcould not be mapped to interface"),
    ("rcvlocalsha", "\tpacket{s} sourced from a local hardware address"),
    ("rcvbcastsha", "\tpacket{s} with a broadcast source hardware address"),
    ("rcvdupspa", "\tduplicate{s} for a local IP address"),
    ("rcvoverperm", "\tattempt{s} to overwrite a static entry"),
    ("rcvoverint", "\tpacket{s} received on wrong interface"),
    ("rcvover", "\tentr{y} overwritten"),
    ("dfrtotal", "packet{s} deferred pending ARP resolution"),
    ("dfrsent", "\tsent"),
    ("dfrdropped", "\tdropped"),
    ("allocfail", "failure{s} to allocate llinfo"),
];

/// The statistics of a protocol; with `nonzero` only what happened at all. A counter that this version has no sentence for
/// is told by its name.
pub(super) fn protocol(name: &str, counters: &[(&str, u64)], nonzero: bool) -> String {
    let mut out = format!("{name}:\n");
    let value = |key: &str| counters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
    let sentences = match name {
        "ip" => IP,
        "icmp" => ICMP,
        "arp" => ARP,
        _ => &[],
    };
    for (key, rest) in sentences {
        let Some(n) = value(key).filter(|n| *n > 0 || !nonzero) else { continue };
        // Writing to a String cannot fail, here and below.
        let _ = match rest.strip_prefix('\t') {
            Some(rest) => write!(out, "\t\t{n} {}", inflected(rest, n)),
            None => write!(out, "\t{n} {}", inflected(rest, n)),
        };
        if *key == "forward" {
            let fast = value("fastforward").unwrap_or(0);
            let _ = write!(out, " ({fast} {})", inflected("packet{s} fast forwarded", fast));
        }
        out.push('\n');
    }
    let histograms: &[(&str, &[Sentence])] = match name {
        "icmp" => &[("Output histogram:", ICMP_OUT), ("Input histogram:", ICMP_IN)],
        _ => &[],
    };
    for (title, rows) in histograms {
        // As in NetBSD, a histogram has a row for what happened, and none at all when nothing did.
        let rows = rows.iter().filter_map(|(key, what)| Some((what, value(key).filter(|n| *n > 0)?)));
        for (i, (what, n)) in rows.enumerate() {
            if i == 0 {
                let _ = writeln!(out, "\t{title}");
            }
            let _ = writeln!(out, "\t\t{what}: {n}");
        }
    }
    let told = |key: &str| {
        let rows = histograms.iter().flat_map(|(_, rows)| rows.iter());
        key == "fastforward" || sentences.iter().chain(rows).any(|(k, _)| *k == key)
    };
    for (key, n) in counters.iter().filter(|(k, n)| !told(k) && (*n > 0 || !nonzero)) {
        let _ = writeln!(out, "\t{n} {}", key.replace('_', " "));
    }
    out
}

/// The words behind a number, in its number.
fn inflected(words: &str, n: u64) -> String {
    let (s, y) = if n == 1 { ("", "y") } else { ("s", "ies") };
    words.replace("{y}", y).replace("{s}", s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_in_netbsds_sentences_in_the_right_number() {
        let ip = [("total", 12), ("badsum", 0), ("forward", 1), ("fastforward", 2), ("delivered", 1), ("odd_one", 3)];
        assert_eq!(
            protocol("ip", &ip, false),
            "ip:\n\t12 total packets received\n\t0 bad header checksums\n\t1 packet for this host\n\
             \t1 packet forwarded (2 packets fast forwarded)\n\t3 odd one\n"
        );
        let arp = [("sndtotal", 1), ("sndrequest", 1), ("rcvover", 1), ("rcvtotal", 0)];
        assert_eq!(
            protocol("arp", &arp, false),
            "arp:\n\t1 packet sent\n\t\t1 request packet\n\t0 packets received\n\t\t1 entry overwritten\n"
        );
        assert!(protocol("arp", &[("rcvover", 2)], false).contains("2 entries overwritten"));
    }

    #[test]
    fn what_did_not_happen_is_left_out_when_asked_for_twice() {
        let ip = [("total", 12), ("badsum", 0), ("forward", 0), ("fastforward", 0), ("odd_one", 0)];
        assert_eq!(protocol("ip", &ip, true), "ip:\n\t12 total packets received\n");
    }

    #[test]
    fn icmp_has_histograms_of_what_happened() {
        let icmp = [("error", 3), ("out_unreach", 2), ("out_echoreply", 0), ("in_echo", 0)];
        assert_eq!(
            protocol("icmp", &icmp, false),
            "icmp:\n\t3 calls to icmp_error\n\tOutput histogram:\n\t\tdestination unreachable: 2\n"
        );
    }

    #[test]
    fn every_counter_of_the_stack_has_a_sentence() {
        let runtime = smpnet_runtime::RuntimeConfig {
            cpus: vec![None],
            pool: smpnet_runtime::PoolConfig { cells: 1024, workers: 1, ..Default::default() },
            ..Default::default()
        };
        let (runtime, _workers) = smpnet_runtime::Runtime::start_manual(runtime).unwrap();
        let all = smpnet_stack::Stack::new_manual(runtime).unwrap().protocol_stats();
        let raw = |name: &str| format!(" {}\n", name.replace('_', " "));
        for (protocol_name, counters) in [("ip", all.ip), ("icmp", all.icmp), ("arp", all.arp)] {
            let ones: Vec<(&str, u64)> = counters.iter().map(|(n, _)| (*n, 7)).collect();
            let text = protocol(protocol_name, &ones, false);
            for (name, _) in &ones {
                assert!(!text.contains(&format!("\t7{}", raw(name))), "{protocol_name} {name} has no sentence");
            }
        }
    }
}
