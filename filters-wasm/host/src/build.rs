//! From an operator's words to compiled code.

use crate::version::Artefact;
use crate::{FilterError, GeneratedEngine, Layer, Source, WasmError};
use sha2::{Digest, Sha256};
use smpnet_bpf::{CompileOptions, Program, compile_expr, compile_wasm};
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

/// Compiles a filter's code.
pub(crate) fn build(
    engine: &GeneratedEngine,
    name: &str,
    source: &Source,
    layer: Layer,
) -> Result<Arc<Artefact>, FilterError> {
    let options = CompileOptions { pool_pages: engine.pool_pages() };
    let (program, text) = match source {
        Source::Expr(text) => {
            let error = |reason: String| FilterError::Expression { name: name.into(), reason };
            let compiled =
                compile_expr(text, layer.dlt()).map_err(|e| error(crate::error::one_line(&e.to_string())))?;
            (Some(compiled.program), text.trim().to_owned())
        }
        Source::Program(program) => {
            (Some(program.clone()), format!("program of {} instructions", program.insns().len()))
        }
        Source::Wasm(bytes) => (None, format!("generated module of {} bytes", bytes.len())),
    };
    let compiled;
    let wasm = match (&program, source) {
        (None, Source::Wasm(bytes)) => bytes,
        (program, _) => {
            compiled = program.as_ref().map_or(Vec::new(), |p| compile_wasm(p, &options));
            &compiled
        }
    };
    let module = engine.compile(wasm).map_err(|e| wasm_error(name, e))?;
    let sha256 = Sha256::digest(wasm).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let reach = program.as_ref().map_or(usize::MAX, reach);
    let created = SystemTime::now();
    Ok(Arc::new(Artefact { module, program, reach, text, sha256, wasm_bytes: wasm.len(), created }))
}

/// How many bytes of a packet a program may look at.
fn reach(program: &Program) -> usize {
    match program.reach() {
        (fixed, false) => usize::try_from(fixed).unwrap_or(usize::MAX),
        (_, true) => usize::MAX,
    }
}

pub(crate) fn wasm_error(name: &str, source: WasmError) -> FilterError {
    FilterError::Wasm { name: name.into(), source }
}
