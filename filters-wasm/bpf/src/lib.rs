//! Classic BPF: decoder, validator, reference interpreter, compiler to WebAssembly.
//!
//! An expression such as `tcp port 80` becomes a [`Program`], by libpcap when it is installed ([`pcap`]) or by the
//! part of its language that this crate knows itself ([`expr`]). A program is validated once, when it is made. It runs
//! on the interpreter ([`Program::run`]), or is compiled to a WebAssembly module that judges bursts of packets in the
//! packet pool ([`compile_wasm`]).
//!
//! Semantics are those of NetBSD and libpcap: loads out of range and divisions by 0 end the program with 0, `len` is the
//! length on the wire, shifts by 32 or more give 0, jumps go forward.

mod cli;
mod compile;
pub mod expr;
pub mod insn;
mod interp;
pub mod pcap;
mod program;
mod text;
mod validate;
pub mod wasm;

pub use cli::{LoadError, Output, OutputFormat, compile_command, load_program};
pub use compile::{Compiled, Dlt, Engine, ExprError, SNAPLEN, UnknownDlt, compile_expr, compile_expr_with};
pub use insn::Insn;
pub use program::{Program, gather};
pub use text::{ParseError, c_array, decimal, disassemble as disasm, parse_decimal};
pub use validate::{MAX_INSNS, ValidateError};
pub use wasm::{CompileOptions, compile_wasm};
