//! Random configurations print and parse to themselves; random texts do no harm.

use super::{meaning::ROUTER, *};
use crate::{config::*, packet::proto, params::PARAMS};
use proptest::{collection::vec, option, prelude::*};
use std::time::Duration;

/// The tables that every random configuration has: their types, and whether they have a file.
const TABLES: &[(TableKind, bool)] =
    &[(TableKind::Ipset, false), (TableKind::Lpm, true), (TableKind::Const, true), (TableKind::IpPort, true)];

fn files() -> Held {
    Held::new(&[
        ("1", "10.0.0.0/8\n10.1.0.0/16\n2001:db8::/32\n"),
        ("2", "10.0.0.1\n2001:db8::1\n"),
        ("3", "10.0.0.1 tcp 80\n2001:db8::1 udp 53\n"),
    ])
}

fn tables() -> impl Strategy<Value = Vec<Table>> {
    let one = |i: usize| {
        let (kind, file) = TABLES[i];
        (option::of(time()), any::<bool>()).prop_map(move |(timeout, counters)| Table {
            name: format!("t-{i}"),
            kind,
            source: if file { TableSource::File(i.to_string()) } else { TableSource::Empty },
            entries: entries(i),
            timeout: timeout.filter(|_| kind != TableKind::Const),
            counters,
            at: Place::default(),
        })
    };
    (one(0), one(1), one(2), one(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn entries(table: usize) -> Vec<TableEntry> {
    let entry = |address: &str, len, service| {
        let prefix = Prefix::new(address.parse().unwrap(), len).unwrap();
        TableEntry { prefix, service }
    };
    match table {
        1 => vec![entry("10.0.0.0", 8, None), entry("10.1.0.0", 16, None), entry("2001:db8::", 32, None)],
        2 => vec![entry("10.0.0.1", 32, None), entry("2001:db8::1", 128, None)],
        3 => vec![entry("10.0.0.1", 32, Some((6, 80))), entry("2001:db8::1", 128, Some((17, 53)))],
        _ => Vec::new(),
    }
}

fn time() -> impl Strategy<Value = Duration> {
    (1..5000u64, prop::sample::select(vec![1u64, 1000, 60_000, 3_600_000]))
        .prop_map(|(n, unit)| Duration::from_millis(n * unit))
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "web server", "ü", "x-1", "#;{}", "0", "all", "$x", "<t>"]).prop_map(str::to_owned)
}

fn interface() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["eth0", "eth0.100", "br-lan", "veth_x@1", "in", "ö", "{", "0x1"]).prop_map(str::to_owned)
}

fn directions() -> impl Strategy<Value = Directions> {
    prop::sample::select(vec![Directions::Any, Directions::In, Directions::Out, Directions::Forward])
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(a, len)| Prefix::new(std::net::IpAddr::V4(a.into()), len).unwrap());
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(a, len)| Prefix::new(std::net::IpAddr::V6(a.into()), len).unwrap());
    prop_oneof![v4, v6]
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        4 => prefix().prop_map(Address::Prefix),
        1 => (0..TABLES.len()).prop_map(|i| Address::Table(TableId(i))),
        1 => (interface(), option::of(any::<bool>())).prop_map(|(name, v6)| Address::Interface {
            name,
            family: v6.map(|v6| if v6 { Family::V6 } else { Family::V4 }),
            fixed: v6.is_some(),
        }),
    ]
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    vec((any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }), 0..3)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (any::<bool>(), vec(address(), 0..4), ports()).prop_map(|(not, addresses, ports)| Endpoint {
        not: not && !addresses.is_empty(),
        addresses,
        ports,
    })
}

fn protos() -> impl Strategy<Value = Vec<Proto>> {
    let plain = any::<u8>().prop_map(|number| Proto { number, options: ProtoOptions::None });
    let tcp = (1..=255u8, 1..=255u8)
        .prop_map(|(value, mask)| Proto { number: proto::TCP, options: ProtoOptions::TcpFlags { value, mask } });
    let icmp = (any::<bool>(), any::<u8>(), option::of(any::<u8>())).prop_map(|(v6, kind, code)| Proto {
        number: if v6 { proto::ICMPV6 } else { proto::ICMP },
        options: ProtoOptions::Icmp { kind, code },
    });
    vec(prop_oneof![plain, tcp, icmp], 0..4)
}

/// A match that is not refused: ports only where some protocol has them, and addresses of the family.
fn matching() -> impl Strategy<Value = Match> {
    (option::of(any::<bool>()), protos(), endpoint(), endpoint()).prop_map(|(v6, mut protos, from, to)| {
        if !protos.is_empty() && (!from.ports.is_empty() || !to.ports.is_empty()) {
            protos.push(Proto { number: proto::UDP, options: ProtoOptions::None });
        }
        let mut family = v6.map(|v6| if v6 { Family::V6 } else { Family::V4 });
        if !from.addresses.is_empty() || !to.addresses.is_empty() {
            family = None;
        }
        Match { family, protos, opening: false, from, to }
    })
}

fn ether() -> impl Strategy<Value = EtherMatch> {
    let end = || option::of((any::<bool>(), any::<[u8; 6]>()).prop_map(|(not, address)| EtherAddress { not, address }));
    (end(), end(), option::of(any::<u16>())).prop_map(|(from, to, ether_type)| EtherMatch { from, to, ether_type })
}

fn limit(states: bool) -> impl Strategy<Value = Limit> {
    let rate = (1..=u32::MAX, time(), any::<u32>()).prop_map(|(count, per, burst)| LimitOf::Rate {
        count,
        per,
        burst: burst.max(count),
    });
    let of = (any::<bool>(), 1..=u32::MAX, rate)
        .prop_map(move |(s, n, rate)| if s && states { LimitOf::States(n) } else { rate });
    let per = option::of((1..=32u8, 1..=128u8).prop_map(|(v4, v6)| SourceBits { v4, v6 }));
    let overload = option::of((0..2usize, option::of(time())).prop_map(|(i, time)| (TableId(i), time)));
    (of, per, overload).prop_map(|(of, per_source, overload)| Limit { of, per_source, overload })
}

fn rule(layer2: bool) -> impl Strategy<Value = Rule> {
    let filter = prop_oneof![
        6 => matching().prop_map(Filter::Match),
        1 => Just(Filter::Pcap("tcp port 80".into())),
    ];
    let action = prop::sample::select(vec![
        Action::Pass,
        Action::Block(Return::Nothing),
        Action::Block(Return::Any),
        Action::Block(Return::Rst),
        Action::Block(Return::Icmp),
    ]);
    let state = prop::sample::select(vec![None, Some(Stateful::Interface), Some(Stateful::All)]);
    let gate = (directions(), any::<bool>(), option::of(interface()));
    let labels = (
        option::of(word()),
        option::of(0..2usize),
        any::<bool>(),
        option::of((any::<bool>(), word())),
        option::of(word()),
    );
    let limits = (vec(limit(true), 0..2), vec(limit(false), 0..2));
    (action, state, gate, filter, ether(), labels, limits).prop_map(
        move |(action, state, (directions, is_final, interface), filter, ether, labels, (with_states, without))| {
            let (name, apply, log, tagged, tag) = labels;
            let action = if layer2 && action != Action::Pass { Action::Block(Return::Nothing) } else { action };
            let state = state.filter(|_| !layer2);
            let mut filter = if layer2 { Filter::Ether(ether) } else { filter };
            if let Filter::Match(matching) = &mut filter {
                matching.opening = state.is_some() && resolve::implied_opening(&matching.protos);
            }
            Rule {
                id: RuleId::default(),
                name,
                action,
                state,
                directions,
                is_final,
                interface,
                filter,
                apply: apply.map(ProcedureId),
                log,
                tagged: tagged.map(|(not, name)| Tagged { not, name }),
                tag,
                limits: if state.is_some() && action == Action::Pass { with_states } else { without },
                at: Place::default(),
            }
        },
    )
}

fn group(layer2: bool) -> impl Strategy<Value = Group> {
    let rules = move || vec(rule(layer2).prop_map(Item::Rule), 0..4);
    let head = move || (word(), directions(), option::of(interface()));
    let made = move |(name, directions, interface): (String, _, _), items| {
        let at = Place::default();
        Group { name: Some(name), directions, interface, layer2, items, at }
    };
    (head(), rules(), option::of((head(), rules()))).prop_map(move |(outer, mut items, inner)| {
        items.extend(inner.map(|(head, items)| Item::Group(made(head, items))));
        made(outer, items)
    })
}

fn map() -> impl Strategy<Value = Map> {
    let arrow = prop::sample::select(vec![Arrow::Out, Arrow::In, Arrow::Both]);
    (0..6, arrow, interface(), any::<bool>(), (prefix(), any::<u128>()), ports(), matching(), any::<bool>()).prop_map(
        |(shape, arrow, interface, no_ports, (inner, bits), ports, mut filter, has_filter)| {
            let v6 = Family::of(inner.address) == Family::V6;
            let other = |len| {
                let address =
                    if v6 { std::net::IpAddr::V6(bits.into()) } else { std::net::IpAddr::V4((bits as u32).into()) };
                Prefix::new(address, len).unwrap()
            };
            let side = |prefix| Segment { addresses: vec![Address::Prefix(prefix)], ports: None };
            let host = if v6 { 128 } else { 32 };
            let (is_static, algo, arrow, inner, outer) = match shape {
                0 => (
                    false,
                    None,
                    Arrow::Out,
                    side(inner),
                    Segment { ports: ports.first().copied(), ..side(other(host)) },
                ),
                1 => {
                    let range = ports.first().copied();
                    let inner = Segment { ports: range, ..side(Prefix::host(inner.address)) };
                    (
                        false,
                        None,
                        Arrow::In,
                        inner,
                        Segment { ports: range, ..side(other(inner_len(inner_bits(v6), bits))) },
                    )
                }
                2 => (bits % 2 == 0, None, arrow, side(Prefix::host(inner.address)), side(other(host))),
                3 => (bits % 2 == 0, Some(MapAlgo::Netmap), arrow, side(inner), side(other(inner.len))),
                4 if v6 && inner.len <= 64 => (true, Some(MapAlgo::Npt66), arrow, side(inner), side(other(inner.len))),
                _ => {
                    let pool =
                        Segment { addresses: vec![Address::Table(TableId(0)), Address::Prefix(other(4))], ports: None };
                    (false, Some(MapAlgo::IpHash), Arrow::Out, side(inner), pool)
                }
            };
            let no_ports = no_ports && inner.ports.is_none() && outer.ports.is_none();
            if !has_filter {
                filter = Match { protos: filter.protos, ..Match::default() };
            } else if filter.family.is_some() {
                filter.family = Some(if v6 { Family::V6 } else { Family::V4 });
            }
            let (id, at) = (RuleId::default(), Place::default());
            let endpoint_independent = !no_ports && !is_static && arrow == Arrow::Out && algo.is_none() && bits % 3 > 0;
            let hairpin = endpoint_independent && bits % 3 == 1;
            Map {
                id,
                interface,
                is_static,
                algo,
                no_ports,
                endpoint_independent,
                hairpin,
                arrow,
                inner,
                outer,
                filter,
                has_filter,
                at,
            }
        },
    )
}

fn inner_bits(v6: bool) -> u8 {
    if v6 { 128 } else { 32 }
}

/// Some length up to that of an address.
fn inner_len(most: u8, bits: u128) -> u8 {
    (bits % (u128::from(most) + 1)) as u8
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let normalize =
        (any::<bool>(), any::<u8>(), any::<u16>(), any::<bool>()).prop_map(|(random_id, min_ttl, max_mss, no_df)| {
            Call::Normalize(Normalize { random_id, min_ttl, max_mss, no_df })
        });
    let rate = (1..=u64::MAX, any::<u64>(), any::<u64>())
        .prop_map(|(bitrate, normal_burst, extended_burst)| Call::RateLimit { bitrate, normal_burst, extended_burst });
    vec(
        prop_oneof![
            interface().prop_map(|interface| Call::Log { interface }),
            interface().prop_map(|interface| Call::Route { interface }),
            word().prop_map(|module| Call::Wasm { module }),
            (0.0..=100.0f64).prop_map(|p| Call::RndBlock(RndBlock::Percentage(p))),
            (1..=u32::MAX).prop_map(|n| Call::RndBlock(RndBlock::Mod(n))),
            normalize,
            rate,
        ],
        0..4,
    )
}

fn config() -> impl Strategy<Value = Config> {
    let groups = vec(any::<bool>().prop_flat_map(group), 0..3);
    let params = vec((0..PARAMS.len(), any::<u32>()), 0..4);
    (params, tables(), (calls(), calls()), vec(map(), 0..3), groups, group(false)).prop_map(
        |(params, tables, (a, b), maps, mut groups, last)| {
            let mut config = Config { tables, ..Config::default() };
            for (i, value) in params {
                let param = &PARAMS[i];
                // Those that come in pairs have to stay in order.
                if !param.name.starts_with("portmap") && !param.name.starts_with("gc") {
                    config.params.set(param.key, value.clamp(param.min, param.max));
                }
            }
            let procedure = |name: &str, calls| Procedure { name: name.into(), calls, at: Place::default() };
            config.procedures = vec![procedure("one", a), procedure("two", b)];
            config.maps = maps.into_iter().map(MapItem::Map).collect();
            let ruleset = |name: &str| Ruleset {
                name: name.into(),
                directions: Directions::In,
                interface: None,
                at: Place::default(),
            };
            config.maps.push(MapItem::Ruleset(ruleset("map:x")));
            groups.push(Group { name: None, directions: Directions::Any, interface: None, ..last });
            groups[0].items.push(Item::Ruleset(ruleset("dynamic")));
            config.groups = groups;
            number(&mut config);
            config
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_configurations_print_and_parse_to_themselves(config in config()) {
        let printed = print(&config);
        let again = match parse("npf.conf", &printed, &files()) {
            Ok(parsed) => parsed.config.without_places(),
            Err(e) => return Err(TestCaseError::fail(format!("{e}\nof:\n{printed}"))),
        };
        prop_assert_eq!(&again, &config, "printed:\n{}", printed);
        prop_assert!(again.same(&config));
    }

    #[test]
    fn no_text_does_harm(changes in vec((any::<prop::sample::Index>(), 0..40usize, 0..PIECES.len(), 0..4u8), 1..12)) {
        let mut text = ROUTER.to_owned();
        for (at, length, piece, kind) in changes {
            let start = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            match kind {
                0 => text.replace_range(start..end, ""),
                1 => {
                    let copy = text[start..end].to_owned();
                    text.insert_str(start, &copy);
                }
                2 => text.replace_range(start..end, PIECES[piece]),
                _ => text.insert_str(start, PIECES[piece]),
            }
        }
        match parse("npf.conf", &text, &NoFiles) {
            Err(found) => prop_assert!(found.errors().count() > 0 && !found.to_string().is_empty()),
            Ok(parsed) => {
                let printed = print(&parsed.config);
                match parse("npf.conf", &printed, &NoFiles) {
                    Ok(again) => prop_assert!(again.config.same(&parsed.config), "{}", printed),
                    Err(e) => return Err(TestCaseError::fail(format!("{e}\nof:\n{printed}"))),
                }
            }
        }
        let _ = (parse_rule(&text, &Config::default()), parse_map(&text, &Config::default()));
    }
}

/// What is put into a text.
const PIECES: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "\"",
    "\n",
    ";",
    ",",
    "$",
    "$x",
    "<",
    "<t>",
    "<-",
    "->",
    "<->",
    "!",
    "=",
    "/",
    ":",
    "\\\n",
    "\\",
    "#",
    "\0",
    "\u{feff}",
    "ä",
    "0x",
    "-",
    "99999999999999999999",
    "::/0",
    "10.1/16",
    "%",
    "pass ",
    "group \"x\" {",
    "from ",
    "port ",
    "limit rate 1/1s ",
    "include \"x\"",
    "pcap-filter \"",
    "proto { tcp flags S/SA } ",
    "table ",
    "map ",
    "tagged ! \"x\" ",
    "ifaddrs(",
    "static algo npt66 ",
    "\t",
    "\r\n",
];
