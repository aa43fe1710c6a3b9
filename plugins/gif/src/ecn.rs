//! ECN across a tunnel, RFC 6040 in normal mode: the outer header carries the inner one's field in, and congestion that
//! the outer header met is carried over to the inner one.

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0;
/// ECN-capable, codepoint 1.
pub const ECT1: u8 = 1;
/// Congestion experienced.
pub const CE: u8 = 3;

/// The outer TOS byte for an inner one: its DSCP and its ECN field (RFC 6040, section 4.1).
pub fn encapsulate(inner_tos: u8) -> u8 {
    inner_tos
}

/// The inner TOS byte after decapsulation, or `None` when the packet must be dropped: it met congestion but its sender
/// cannot be told (RFC 6040, section 4.2, figure 4).
pub fn decapsulate(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    let (outer, inner) = (outer_tos & 3, inner_tos & 3);
    let ecn = match (inner, outer) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (CE, _) | (_, CE) => CE,
        (_, ECT1) => ECT1,
        (inner, _) => inner,
    };
    Some(inner_tos & !3 | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decapsulation_follows_figure_4_of_rfc_6040() {
        const ECT0: u8 = 2;
        const DROP: u8 = 0xff;
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [NOT_ECT, NOT_ECT, NOT_ECT, DROP]),
            (ECT0, [ECT0, ECT0, ECT1, CE]),
            (ECT1, [ECT1, ECT1, ECT1, CE]),
            (CE, [CE, CE, CE, CE]),
        ];
        for (inner, row) in table {
            for (outer, want) in [NOT_ECT, ECT0, ECT1, CE].into_iter().zip(row) {
                let got = decapsulate(0xb8 | outer, 0x28 | inner);
                assert_eq!(got, (want != DROP).then_some(0x28 | want), "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn encapsulation_copies_the_whole_byte() {
        for tos in 0..=255 {
            assert_eq!(encapsulate(tos), tos);
        }
    }
}
