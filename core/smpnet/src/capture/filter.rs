//! A capture filter: an expression, compiled for what the packets begin with.

use smpnet_bpf::{Dlt, ExprError, Program, compile_expr};
use smpnet_runtime::Cpu;
use smpnet_stack::{BpfFilter, Link, Seen};

/// An expression and its program. Judged by the interpreter, which needs nothing but the packet's bytes.
pub struct Expression {
    text: String,
    program: Program,
}

impl Expression {
    /// Compiles an expression (pcap-filter(7)).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(text: &str, link: Link) -> Result<Expression, ExprError> {
        let dlt = match link {
            Link::Ether => Dlt::En10mb,
            Link::Raw => Dlt::Raw,
        };
        Ok(Expression { text: text.to_owned(), program: compile_expr(text, dlt)?.program })
    }
}

impl BpfFilter for Expression {
    fn text(&self) -> &str {
        &self.text
    }

    fn judge(&self, _cpu: Cpu, packets: &[Seen<'_>], keep: &mut [u32]) {
        for (packet, keep) in packets.iter().zip(keep) {
            *keep = self.program.run(packet.bytes, packet.wire_len);
        }
    }

    fn accepts(&self, packet: &[u8]) -> bool {
        self.program.run(packet, packet.len() as u32) != 0
    }
}
