//! From an operator's words to compiled code.

use crate::engines::Engines;
use crate::version::{Artefact, Code};
use crate::{FilterError, Layer, ModuleSpec, Source, WasmError};
use sha2::{Digest, Sha256};
use smpnet_bpf::{Program, compile_expr, compile_wasm};
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

/// Compiles a filter's code.
pub(crate) fn build(
    engines: &Engines,
    name: &str,
    source: &Source,
    layer: Layer,
) -> Result<Arc<Artefact>, FilterError> {
    if let Source::Module(spec) = source {
        return module(engines, name, spec);
    }
    let engine = engines.generated(name)?;
    let options = engine.options();
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
        Source::Generated(wasm) => (None, format!("generated module of {} bytes", wasm.0.len())),
        Source::Module(_) => (None, String::new()),
    };
    let compiled;
    let wasm = match (&program, source) {
        (None, Source::Generated(wasm)) => &wasm.0,
        (program, _) => {
            compiled = program.as_ref().map_or(Vec::new(), |p| compile_wasm(p, &options));
            &compiled
        }
    };
    let module = engine.compile(wasm).map_err(|e| wasm_error(name, e))?;
    let sha256 = sha256(wasm);
    let code = Code::Generated(module);
    let reach = program.as_ref().map_or(usize::MAX, reach);
    let created = SystemTime::now();
    Ok(Arc::new(Artefact { code, program, reach, text, sha256, wasm_bytes: wasm.len(), created }))
}

/// A module of somebody else.
fn module(engines: &Engines, name: &str, spec: &ModuleSpec) -> Result<Arc<Artefact>, FilterError> {
    let engine = engines.guest(name)?;
    let code = engine.compile(spec, engines.cache().as_deref()).map_err(|e| wasm_error(name, e))?;
    let manifest = &code.info.manifest;
    let version = manifest.version.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
    Ok(Arc::new(Artefact {
        text: format!("module {}{version}", manifest.name),
        code: Code::Guest(Box::new(code)),
        program: None,
        reach: usize::MAX,
        sha256: sha256(&spec.wasm),
        wasm_bytes: spec.wasm.len(),
        created: SystemTime::now(),
    }))
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
