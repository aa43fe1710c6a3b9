//! The subset gives libpcap's verdict on every packet, optimised libpcap agrees with unoptimised, and the listing is
//! libpcap's own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Random, WasmFilter, Way};
use smpnet_bpf::pcap::Libpcap;
use smpnet_bpf::{Dlt, Engine, ExprError, Program, SNAPLEN, compile_expr, compile_expr_with, disasm, expr};

/// A random expression of the subset's language. Some are refused by libpcap (a protocol that cannot be on this link).
fn random_expression(random: &mut Random, ethernet: bool, depth: u32) -> String {
    if depth > 0 && random.chance(2) {
        let left = random_expression(random, ethernet, depth - 1);
        let right = random_expression(random, ethernet, depth - 1);
        let operator = random.pick(&["and", "or", "&&", "||"]);
        return match random.below(3) {
            0 => format!("{left} {operator} {right}"),
            1 => format!("({left}) {operator} ({right})"),
            _ => format!("not ({left} {operator} {right})"),
        };
    }
    let not = random.pick(&["", "", "", "not ", "! "]);
    let dir = random.pick(&["", "", "src ", "dst ", "src or dst ", "src and dst ", "dst or src "]);
    let port = random.pick(&["80", "443", "53", "0x50", "65535", "80 or 443", "22 and 80"]);
    let range = random.pick(&["1024-2047", "0-65535", "80-80", "2047-1024", "53"]);
    let proto = random.pick(&["tcp ", "udp ", "sctp ", "", "", ""]);
    let host = random.pick(&["10.0.0.1", "10.0.0.2", "192.168.2.100", "0.0.0.0", "10.1", "10.0.0.1 or 10.0.0.2"]);
    let net =
        random.pick(&["10.0.0.0/8", "10.1.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "10", "192.168.2", "10.0 mask 255.255"]);
    let family = random.pick(&["", "", "", "ip ", "arp ", "rarp "]);
    let primitive = match random.below(if ethernet { 12 } else { 10 }) {
        0 | 1 => random.pick(&["ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp"]).to_owned(),
        2 | 3 => format!("{proto}{dir}port {port}"),
        4 => format!("{proto}{dir}portrange {range}"),
        5 => format!("{family}{dir}host {host}"),
        6 => format!("{family}{dir}net {net}"),
        7 => {
            format!("{}proto {}", random.pick(&["ip ", "ip6 ", ""]), random.pick(&["6", "17", "\\tcp", "\\icmp", "44"]))
        }
        8 => format!("{} {}", random.pick(&["less", "greater"]), random.below(120)),
        9 => format!("{proto}{dir}port (80 or 443)"),
        10 => format!("ether proto {}", random.pick(&["0x800", "\\arp", "\\ip6", "0x88cc", "64", "1500"])),
        _ => format!(
            "ether {}02:0:0:0:0:{}",
            random.pick(&["host ", "src ", "dst ", "src or dst "]),
            1 + random.below(3)
        ),
    };
    format!("{not}{primitive}")
}

fn packets(random: &mut Random, ethernet: bool) -> Vec<(Vec<u8>, u32)> {
    (0..64)
        .map(|i| {
            let mut p = common::packet(random, ethernet);
            let wirelen = p.len() as u32;
            // Every second packet is truncated somewhere.
            if i % 2 == 1 {
                p.truncate(random.below(p.len() as u64 + 1) as usize);
            }
            (p, wirelen)
        })
        .collect()
}

#[test]
fn the_subset_gives_the_verdict_of_libpcap_on_every_packet() {
    let Some(pcap) = common::libpcap("comparison of the expression subset with libpcap") else { return };
    let mut compared = 0;
    let rounds = common::rounds(20_000, 400_000);
    for round in 0..rounds {
        let mut random = Random(round);
        let dlt = if round % 2 == 0 { Dlt::Raw } else { Dlt::En10mb };
        let text = random_expression(&mut random, dlt == Dlt::En10mb, 3);
        compared += u64::from(compare(pcap, &mut random, &text, dlt));
    }
    assert!(compared > rounds / 2, "only {compared} of {rounds} expressions could be compared");
}

fn compare(pcap: &Libpcap, random: &mut Random, text: &str, dlt: Dlt) -> bool {
    let subset = expr::compile(text, dlt, SNAPLEN);
    let plain = pcap.compile(text, dlt, SNAPLEN, false);
    let subset = match (subset, &plain) {
        (Ok(subset), Ok(_)) => subset,
        // Unoptimised libpcap does not notice this.
        (Err(expr::SubsetError::RejectsAll { .. }), Ok(plain)) => {
            for (p, wirelen) in packets(random, dlt == Dlt::En10mb) {
                assert_eq!(plain.run(&p, wirelen), 0, "{text} ({dlt})");
            }
            return true;
        }
        // Unoptimised programs are longer than 512 instructions now and then.
        (_, Err(smpnet_bpf::pcap::PcapError::Invalid { .. })) => return false,
        (Ok(_), Err(error)) => panic!("libpcap refuses what the subset takes: {text} ({dlt}): {error}"),
        (Err(error), _) => panic!("the subset refuses its own language: {text} ({dlt}): {error}"),
    };
    let plain = plain.unwrap();
    for (p, wirelen) in packets(random, dlt == Dlt::En10mb) {
        let (ours, theirs) = (subset.run(&p, wirelen), plain.run(&p, wirelen));
        assert_eq!(
            ours,
            theirs,
            "{text} ({dlt}), packet {p:02x?} of {wirelen}\nsubset:\n{}libpcap:\n{}",
            disasm(subset.insns()),
            disasm(plain.insns())
        );
    }
    true
}

#[test]
fn optimised_and_unoptimised_libpcap_agree_on_whole_packets_on_both_engines() {
    let Some(pcap) = common::libpcap("comparison of optimised with unoptimised libpcap programs") else { return };
    let engine = common::engine();
    for round in 0..common::rounds(400, 40_000) {
        let mut random = Random(round);
        let dlt = if round % 2 == 0 { Dlt::Raw } else { Dlt::En10mb };
        let text = random_expression(&mut random, dlt == Dlt::En10mb, 3);
        let compile = |optimize| pcap.compile(&text, dlt, SNAPLEN, optimize);
        // Optimised libpcap refuses an expression that rejects all packets.
        let (Ok(fast), Ok(plain)) = (compile(true), compile(false)) else { continue };
        let packets: Vec<Vec<u8>> = (0..64)
            .map(|_| {
                let mut p = common::packet(&mut random, dlt == Dlt::En10mb);
                // Where loads run out of the packet the optimiser may have removed the load: whole headers only.
                p.resize(p.len().max(200), 0);
                p
            })
            .collect();
        let burst: Vec<_> = packets.iter().map(|p| (p.as_slice(), p.len() as u32)).collect();
        let expected: Vec<u32> = burst.iter().map(|(p, w)| plain.run(p, *w)).collect();
        let interpreted: Vec<u32> = burst.iter().map(|(p, w)| fast.run(p, *w)).collect();
        assert_eq!(interpreted, expected, "{text} ({dlt})");
        assert_eq!(
            WasmFilter::new(&engine, &fast, Way::Cells).judge(&burst),
            expected,
            "wasm, optimised: {text} ({dlt})"
        );
        assert_eq!(
            WasmFilter::new(&engine, &plain, Way::Described).judge(&burst),
            expected,
            "wasm, plain: {text} ({dlt})"
        );
    }
}

/// Random expressions of the whole language: that of the subset, and what only libpcap knows.
fn any_expression(random: &mut Random, depth: u32) -> String {
    if depth > 0 && random.chance(2) {
        let (left, right) = (any_expression(random, depth - 1), any_expression(random, depth - 1));
        return match random.below(4) {
            0 => format!("{left} and {right}"),
            1 => format!("({left}) or ({right})"),
            2 => format!("({left}) and not ({right})"),
            _ => format!("not ({left} or {right})"),
        };
    }
    if random.chance(3) {
        return random_expression(random, true, 0);
    }
    let ports = |r: &mut Random, n: u64| {
        let list: Vec<String> =
            (0..n).map(|_| r.pick(&[80, 53, 443, 22, 123, 1024, 2047, 4500, 7, 9]).to_string()).collect();
        list.join(" or ")
    };
    let n = 1 + random.below(24);
    match random.below(16) {
        0 => format!("{} dst port ({})", random.pick(&["tcp", "udp", "sctp"]), ports(random, n)),
        1 => format!("src net 10.0.0.0/8 or src net 192.168.0.0/16 or dst net 10.0.{}.0/24", random.below(3)),
        2 => format!("ip6 host 2001:db8::{}", 1 + random.below(3)),
        3 => format!("ip6 {} net 2001:db8::/{}", random.pick(&["src", "dst"]), random.pick(&[32, 64, 126])),
        4 => format!("tcp[tcpflags] & ({}) != 0", random.pick(&["tcp-syn", "tcp-ack|tcp-fin", "tcp-rst", "tcp-push"])),
        5 => format!(
            "ip[{}:{}] {} {}",
            random.below(24),
            random.pick(&[1, 2, 4]),
            random.pick(&["=", ">", "<=", "!="]),
            random.below(300)
        ),
        6 => format!("ether[{}] & {} = {}", random.below(40), random.pick(&[1, 0xf0, 0x0f]), random.below(8)),
        7 => format!("icmp[icmptype] = {}", random.pick(&["icmp-echo", "icmp-echoreply", "icmp-unreach"])),
        8 => format!("len {} {}", random.pick(&[">", "<", "=", ">="]), random.below(220)),
        9 => format!(
            "vlan {} and {}",
            random.pick(&["", "5", "9"]),
            random.pick(&["ip", "udp", "tcp port 80", "host 192.168.2.1"])
        ),
        10 => format!("mpls {}", random.pick(&["", "100", "1024"])),
        11 => random
            .pick(&[
                "pppoes",
                "pppoed",
                "pppoes and ip",
                "stp",
                "ether multicast",
                "ether broadcast",
                "ip multicast",
                "ip6 multicast",
                "llc",
            ])
            .to_owned(),
        12 => format!("(ip[2:2] - ((ip[0] & 0xf) << 2)) {} {}", random.pick(&[">", "="]), random.below(80)),
        13 => format!("udp[{}:2] * 2 + {} > len / {}", random.below(8), random.below(100), 1 + random.below(5)),
        14 => format!("ip proto {} or ip6 proto {}", random.pick(&[1, 2, 47, 50, 89]), random.pick(&[58, 6, 44, 0])),
        _ => format!("ip[6:2] & 0x1fff {} 0", random.pick(&["=", "!="])),
    }
}

#[test]
fn expressions_of_libpcap_give_one_verdict_over_real_captures_on_every_engine() {
    let Some(pcap) = common::libpcap("expressions of libpcap over captures") else { return };
    // As captured, cut at a place that moves from frame to frame, and filled up.
    let mut frames = common::captured_frames();
    let whole = frames.len();
    assert!(whole > 100);
    let cut: Vec<_> =
        frames.iter().enumerate().map(|(i, (b, w))| (b[..(i * 7) % (b.len() + 1)].to_vec(), *w)).collect();
    let filled: Vec<_> = frames.iter().map(|(b, w)| ([b.as_slice(), &[0; 200]].concat(), *w)).collect();
    let filled_from = frames.len() + cut.len();
    frames.extend(cut);
    frames.extend(filled);
    let packets: Vec<common::Packet<'_>> = frames.iter().map(|(b, w)| (b.as_slice(), *w)).collect();

    let compared = std::sync::atomic::AtomicU64::new(0);
    let rounds = common::rounds(100, 10_000);
    common::on_all_cpus(|thread, threads| {
        let engine = common::engine();
        for round in (thread..rounds).step_by(threads as usize) {
            let mut random = Random(round);
            let (mut texts, mut programs) = (Vec::new(), Vec::new());
            for _ in 0..8 {
                let text = any_expression(&mut random, 3);
                let compile = |optimize| pcap.compile(&text, Dlt::En10mb, SNAPLEN, optimize);
                // libpcap refuses what matches nothing, and programs of more than 512 instructions are refused here.
                let (Ok(fast), Ok(plain)) = (compile(true), compile(false)) else { continue };
                texts.push(text);
                programs.extend([fast, plain]);
            }
            compared.fetch_add(texts.len() as u64, std::sync::atomic::Ordering::Relaxed);
            let mut batch = common::Batch::new(&engine, &programs, Way::Cells);
            let mut results = Vec::new();
            for (i, program) in programs.iter().enumerate() {
                let text = &texts[i / 2];
                let expected: Vec<u32> = packets.iter().map(|(p, w)| program.run(p, *w)).collect();
                let wasm: Vec<u32> = packets.chunks(64).flat_map(|burst| batch.judge(i, burst)).collect();
                assert_eq!(wasm, expected, "wasm: {text}\n{}", disasm(program.insns()));
                for ((p, w), expected) in packets.iter().zip(&expected) {
                    assert_eq!(pcap.bpf_filter(program, p, *w).unwrap_or(*expected), *expected, "libpcap: {text}");
                }
                results.push(expected);
            }
            for (pair, text) in results.chunks(2).zip(&texts) {
                // Where a packet ends early the optimiser may have removed the load that would have ended the program.
                assert_eq!(pair[0][filled_from..], pair[1][filled_from..], "optimised differs: {text}");
            }
        }
    });
    let compared = compared.into_inner();
    assert!(compared > rounds * 4, "only {compared} of {} expressions could be compared", rounds * 8);
}

#[test]
fn listings_are_those_of_libpcap() {
    let Some(pcap) = common::libpcap("comparison of listings with libpcap's bpf_image") else { return };
    let mut random = Random(3);
    for _ in 0..500 {
        let program = common::random_program(&mut random, 60);
        for (index, (line, &insn)) in disasm(program.insns()).lines().zip(program.insns()).enumerate() {
            let Some(expected) = pcap.bpf_image(insn, index as u16) else { return };
            if expected.contains("unimp") {
                // libpcap 1.10 executes `ldx #pktlen` but does not print it.
                assert_eq!(insn.code, 0x81);
                continue;
            }
            assert_eq!(line, expected);
        }
    }
}

#[test]
fn libpcap_compiles_and_names_its_errors() {
    let Some(pcap) = common::libpcap("libpcap's error messages") else { return };
    let compiled = compile_expr("vlan 5 and host 10.0.0.1", Dlt::En10mb).unwrap();
    assert_eq!(compiled.engine, Engine::Libpcap);
    let error = pcap.compile("tcp port", Dlt::Raw, SNAPLEN, true).unwrap_err().to_string();
    assert!(error.contains("syntax error"), "{error}");
    let error = pcap.compile("ip6 protochain 6", Dlt::Raw, SNAPLEN, true).unwrap_err().to_string();
    assert!(error.contains("ip6 protochain") && error.contains("backwards"), "{error}");
    assert!(pcap.compile("ip\0", Dlt::Raw, SNAPLEN, true).is_err());
    assert!(pcap.version().contains("libpcap"), "{pcap:?}");
}

#[test]
fn without_libpcap_the_subset_answers_and_says_so() {
    let compiled = compile_expr_with("udp port 5000", Dlt::Raw, Engine::Subset).unwrap();
    assert_eq!(compiled.engine, Engine::Subset);
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0x13, 0x88];
    assert_eq!(compiled.program.run(&packet, 28), SNAPLEN);
    packet[9] = 6;
    assert_eq!(compiled.program.run(&packet, 28), 0);
    let error = compile_expr_with("vlan 5", Dlt::En10mb, Engine::Subset).unwrap_err();
    assert!(matches!(error, ExprError::Subset(_)) && error.to_string().contains("libpcap0.8"), "{error}");
}

#[test]
fn random_bytes_and_words_never_panic() {
    const WORDS: &[&str] = &[
        "ip",
        "tcp",
        "port",
        "80",
        "(",
        ")",
        "not",
        "and",
        "or",
        "host",
        "10.0.0.1",
        "/",
        "8",
        "net",
        "mask",
        "src",
        "dst",
        "ether",
        "02:00:00:00:00:01",
        "proto",
        "\\tcp",
        "less",
        "portrange",
        "1-2",
        "::1",
        "é",
        "0x",
        "vlan",
    ];
    let mut random = Random(11);
    for _ in 0..common::rounds(50_000, 2_000_000) {
        let n = random.below(20) as usize;
        let text = if random.chance(2) {
            let words: Vec<&str> = (0..n).map(|_| random.pick(WORDS)).collect();
            words.join(random.pick(&[" ", " ", ""]))
        } else {
            String::from_utf8_lossy(&random.bytes(n)).into_owned()
        };
        for dlt in [Dlt::Raw, Dlt::En10mb] {
            if let Ok(program) = expr::compile(&text, dlt, SNAPLEN) {
                program.run(&[], 0);
            }
        }
        let _ = smpnet_bpf::load_program(&text);
        let length = 8 * random.below(12) as usize;
        let insns: Vec<_> = random
            .bytes(length)
            .chunks(8)
            .map(|c| smpnet_bpf::Insn {
                // Small numbers half of the time, so that some get past the decoder.
                code: u16::from(c[0]) & if c[1] & 1 == 0 { 0xff } else { 0x07 },
                jt: c[2] & 3,
                jf: c[3] & 3,
                k: if c[1] & 2 == 0 { u32::from(c[4] & 15) } else { u32::from_le_bytes([c[4], c[5], c[6], c[7]]) },
            })
            .collect();
        let _ = disasm(&insns);
        let text = smpnet_bpf::decimal(&insns);
        assert_eq!(smpnet_bpf::parse_decimal(&text).unwrap(), insns);
        if let Ok(program) = Program::new(insns) {
            program.run(&[1, 2, 3], 9);
            smpnet_bpf::compile_wasm(&program, &smpnet_bpf::CompileOptions { pool_pages: 1, cell_size: None });
        }
    }
}
