//! Interfaces at which all packets of a way and a family are decided on by the same rule: nothing is to be asked there.

use super::{
    decide::NONE,
    flatten::Flat,
    shape::{Shape, UPPER_TOP},
};

/// What is known so far of the packets of an interface and a way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// No rule was there for them.
    Nothing,
    /// This rule matches, and only others of the same segment can come after it.
    Holds(u32),
    /// Whether a rule matches is the packet's to say, unless another one of the same segment says more.
    Open,
    /// This rule decides.
    Settled(u32),
    /// It is the packet's to say.
    Varies,
}

/// For each gate the rule that decides on all packets, or [`NONE`]. `rules` may come in any order.
pub(super) fn always(rules: &[(u32, &Flat<'_>, Shape)], gates: u32, top: u128) -> Vec<u32> {
    let mut in_order: Vec<&(u32, &Flat<'_>, Shape)> = rules.iter().collect();
    in_order.sort_unstable_by_key(|(rule, ..)| *rule);
    let mut known = vec![(Known::Nothing, 0); gates as usize];
    for (rule, flat, shape) in in_order {
        let asks_nothing = asks_nothing(shape, top);
        for (first, last) in &shape.gate {
            let range = *first as usize..(*last as usize + 1).min(known.len());
            for (known, segment) in known.get_mut(range).unwrap_or_default() {
                let before = match *known {
                    Known::Holds(held) if *segment != flat.segment => Known::Settled(held),
                    Known::Open if *segment != flat.segment => Known::Varies,
                    same => same,
                };
                *known = match before {
                    Known::Settled(_) | Known::Varies => before,
                    // A limit that is asked may count who exceeds it.
                    _ if flat.dynamic || !flat.rule.limits.is_empty() => Known::Varies,
                    _ => match (asks_nothing, flat.rule.is_final) {
                        (true, true) => Known::Settled(*rule),
                        (true, false) => Known::Holds(*rule),
                        (false, true) => Known::Varies,
                        (false, false) => Known::Open,
                    },
                };
                *segment = flat.segment;
            }
        }
    }
    let decided = |(known, _): (Known, u32)| match known {
        Known::Holds(rule) | Known::Settled(rule) => rule,
        Known::Nothing | Known::Open | Known::Varies => NONE,
    };
    known.into_iter().map(decided).collect()
}

/// A rule matches whatever comes in at its gate.
fn asks_nothing(shape: &Shape, top: u128) -> bool {
    let all = [
        (&shape.src, top),
        (&shape.dst, top),
        (&shape.upper, UPPER_TOP),
        (&shape.sport, super::NO_PORT),
        (&shape.dport, super::NO_PORT),
    ];
    shape.check == 0 && all.iter().all(|(ranges, top)| ranges.as_slice() == [(0, *top)])
}
