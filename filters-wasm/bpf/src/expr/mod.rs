//! The part of the pcap-filter language that needs no libpcap.
//!
//! | form | meaning |
//! |---|---|
//! | `ip`, `ip6`, `arp`, `rarp`, `tcp`, `udp`, `sctp`, `icmp`, `icmp6`, `igmp` | the protocol |
//! | `[ip\|arp\|rarp] [src\|dst\|src or dst\|src and dst] [host] A` | an IPv4 address |
//! | `[ip\|arp\|rarp] [src\|dst] net A/LEN`, `net A mask M`, `net A` | an IPv4 network |
//! | `[tcp\|udp\|sctp] [src\|dst] port N`, `portrange N-M` | a port, over IPv4 and IPv6 |
//! | `ip proto N`, `ip6 proto N`, `proto N` | a protocol number; `\tcp`, `\udp`, `\icmp` and so on as names |
//! | `ether proto N`, `ether [src\|dst\|host] MAC` | on EN10MB |
//! | `less N`, `greater N` | the length on the wire |
//! | `and` `&&`, `or` `\|\|`, `not` `!`, `( )` | `and` and `or` bind alike, from left to right; `not` binds tighter |
//!
//! As in libpcap a value after `and` or `or` repeats the qualifiers before it: `port 80 or 443`. The tests of a program
//! run in the order in which unoptimised libpcap runs them, so the verdict is the same for truncated packets too.
//! Everything else (names, IPv6 addresses, arithmetic, `vlan`, `mpls`, ...) is answered by an error that says so.

mod codegen;
mod lex;
mod node;
mod parse;

use crate::compile::Dlt;
use crate::{Program, ValidateError};

/// Why an expression is not compiled without libpcap. Columns count bytes from 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubsetError {
    /// Correct or not, only libpcap can tell.
    #[error(
        "column {column}: {what} needs libpcap, which is not used here: install the package libpcap0.8 (Debian, \
             Ubuntu) or libpcap (Fedora)"
    )]
    NeedsLibpcap {
        /// Where.
        column: usize,
        /// What needs it.
        what: String,
    },
    /// Not the grammar.
    #[error("column {column}: expected {expected}, found {found}")]
    Syntax {
        /// Where.
        column: usize,
        /// What could stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A value that is wrong where it stands.
    #[error("column {column}: {message}")]
    Value {
        /// Where.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// No packet of this link type can match.
    #[error("expression rejects all packets (link type {dlt})")]
    RejectsAll {
        /// The link type.
        dlt: Dlt,
    },
    /// Too many terms or too many instructions.
    #[error("the expression is too long: {0}")]
    TooLong(String),
}

/// Compiles an expression; an accepting program returns `snaplen`. The empty expression accepts everything.
///
/// # Errors
/// What is wrong and where.
pub fn compile(expr: &str, dlt: Dlt, snaplen: u32) -> Result<Program, SubsetError> {
    let tokens = lex::lex(expr)?;
    let tree = node::simplify(parse::parse(&tokens, dlt)?);
    if tree == node::Node::Const(false) {
        return Err(SubsetError::RejectsAll { dlt });
    }
    let insns = codegen::generate(&tree, snaplen);
    Program::new(insns).map_err(|error| match error {
        ValidateError::TooLong { .. } => SubsetError::TooLong(error.to_string()),
        // The generator makes forward jumps, known codes and no scratch words.
        other => SubsetError::Value { column: 1, message: other.to_string() },
    })
}

#[cfg(test)]
mod tests;
