//! What `smpnet bpf compile` prints: text and bytes from expressions and files, without touching any of them itself.

use crate::compile::{Compiled, Dlt, ExprError, compile_expr};
use crate::text::{self, ParseError};
use crate::wasm::{CompileOptions, compile_wasm};
use crate::{Program, ValidateError};

/// How a program is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutputFormat {
    /// `-d`: one instruction a line, for people.
    #[default]
    Listing,
    /// `-dd`: a C array.
    CArray,
    /// `-ddd`: decimal numbers, which [`load_program`] reads back.
    Decimal,
    /// A WebAssembly module for a pool of this size.
    Wasm(CompileOptions),
}

/// What a command made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// For the terminal.
    Text(String),
    /// For a file.
    Bytes(Vec<u8>),
}

impl OutputFormat {
    /// Shows a program in this form.
    pub fn render(self, program: &Program) -> Output {
        match self {
            OutputFormat::Listing => Output::Text(text::disassemble(program.insns())),
            OutputFormat::CArray => Output::Text(text::c_array(program.insns())),
            OutputFormat::Decimal => Output::Text(text::decimal(program.insns())),
            OutputFormat::Wasm(options) => Output::Bytes(compile_wasm(program, &options)),
        }
    }
}

/// `smpnet bpf compile EXPR --dlt DLT` with an output format: the output, and the program with the engine that made it.
///
/// # Errors
/// As [`compile_expr`].
pub fn compile_command(expr: &str, dlt: Dlt, format: OutputFormat) -> Result<(Output, Compiled), ExprError> {
    let compiled = compile_expr(expr, dlt)?;
    Ok((format.render(&compiled.program), compiled))
}

/// Why a program file was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The text is not the form of `-ddd`.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The program breaks a rule.
    #[error(transparent)]
    Validate(#[from] ValidateError),
}

/// Reads and validates the text of a program file, as `-ddd` prints it.
///
/// # Errors
/// The line that cannot be read, or the instruction that breaks a rule.
pub fn load_program(text: &str) -> Result<Program, LoadError> {
    Ok(Program::new(text::parse_decimal(text)?)?)
}
