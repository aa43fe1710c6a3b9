//! Proves that a module keeps the contract of generated modules before anything of it is compiled.
//!
//! The packet pool is mapped read-only, but that alone does not make a module harmless: `memory.fill` and `memory.copy`
//! run in the host, where a write to a read-only page ends the process. So the pool is never written by construction.
//! Memory indices are immediates of the instructions; looking at every instruction once is a complete check. The list of
//! allowed instructions is positive: what a later WebAssembly adds is refused until it is looked at here.

use smpnet_bpf::wasm::{MODULE_ABI, MODULE_ABI_CELLS};
use std::collections::HashMap;
use wasmparser::{
    ExternalKind, FunctionBody, Import, Imports, MemoryType, Operator, Parser, Payload, TypeRef, ValType, Validator,
    WasmFeatures,
};

/// Module and name under which the packet pool is imported.
pub const POOL_IMPORT: (&str, &str) = ("smpnet", "pool");
/// Value of the exported global `abi` of a module whose packets are described.
pub const GENERATED_ABI: i32 = MODULE_ABI as i32;
/// The same of one that finds packets in their cells.
const GENERATED_ABI_CELLS: i32 = MODULE_ABI_CELLS as i32;
/// Longest module that is looked at, in bytes. A classic BPF program of 4,096 instructions needs a tenth of it.
pub const MODULE_MAX: usize = 4 << 20;
/// WebAssembly features beyond the first version that generated modules may use.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::SIMD);

/// How a module breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not WebAssembly, or not valid.
    #[error("invalid WebAssembly: {0}")]
    Invalid(String),
    /// Longer than [`MODULE_MAX`].
    #[error("{0} bytes are too many, {MODULE_MAX} are allowed")]
    TooLong(usize),
    /// Something else than the pool is imported.
    #[error("imports {0}, only the memory smpnet.pool is there")]
    Import(String),
    /// The pool is not imported.
    #[error("does not import the memory smpnet.pool")]
    NoPool,
    /// The pool is imported with another type than it has.
    #[error("imports smpnet.pool as {got}, it is a 32-bit memory of exactly {pages} pages")]
    PoolType {
        /// What the module says.
        got: String,
        /// Pages of the pool.
        pages: u32,
    },
    /// The memory shared with the host is missing or of another type.
    #[error("memory 1 must be one page, fixed, 32-bit and the only one defined: {0}")]
    IoMemory(String),
    /// An export is missing or of another type.
    #[error("does not export {0}")]
    Missing(&'static str),
    /// An export that the contract does not have.
    #[error("exports {0}, which is not of the contract")]
    Export(String),
    /// Made for another version of the contract.
    #[error("is of ABI {0:#x}, this smpnet runs {GENERATED_ABI:#x}")]
    Abi(i32),
    /// A section that generated modules do not have.
    #[error("has a {0}")]
    Section(&'static str),
    /// Writes to the packet pool.
    #[error("function {function} writes to the packet pool ({op})")]
    WritesPool {
        /// Index of the function.
        function: u32,
        /// The instruction.
        op: String,
    },
    /// An instruction on whole ranges of memory; the host would execute it.
    #[error("function {function} uses the bulk instruction {op}")]
    Bulk {
        /// Index of the function.
        function: u32,
        /// The instruction.
        op: String,
    },
    /// Grows a memory.
    #[error("function {0} grows a memory")]
    Grows(u32),
    /// An instruction that generated modules do not use.
    #[error("function {function} uses {op}")]
    Operator {
        /// Index of the function.
        function: u32,
        /// The instruction.
        op: String,
    },
    /// A loop elsewhere than once in `filter`, or functions that call each other in a circle.
    #[error("function {0} may run without end")]
    Unbounded(u32),
}

/// Checks that `module` keeps the contract of generated modules over a pool of `pool_pages` WebAssembly pages.
///
/// Bounded running time is proved only in so far: one loop, in `filter` itself, and no recursion. That the loop ends is the
/// generator's promise, so modules must come from a compiler of this process and never from a user.
pub fn verify(module: &[u8], pool_pages: u32) -> Result<(), VerifyError> {
    if module.len() > MODULE_MAX {
        return Err(VerifyError::TooLong(module.len()));
    }
    let mut facts = Facts::default();
    for payload in Parser::new(0).parse_all(module) {
        facts.payload(payload.map_err(invalid)?, pool_pages)?;
    }
    // Everything above only reads; this proves that the module is well-typed in the pinned feature set.
    Validator::new_with_features(FEATURES).validate_all(module).map_err(invalid)?;
    facts.conclude()
}

fn invalid(e: wasmparser::Error) -> VerifyError {
    VerifyError::Invalid(crate::error::one_line(&e.to_string()))
}

/// What the sections said.
#[derive(Default)]
struct Facts {
    pool: bool,
    io: bool,
    /// Signatures, in the order of the type section: true for (i32) -> ().
    filter_type: Vec<bool>,
    /// Type of each function; none is imported, so these are all.
    functions: Vec<u32>,
    /// Constant value of each global, if it is an immutable i32 constant.
    globals: Vec<Option<i32>>,
    exports: HashMap<String, (ExternalKind, u32)>,
    bodies: u32,
    loops: HashMap<u32, u32>,
    calls: HashMap<u32, Vec<u32>>,
}

impl Facts {
    fn payload(&mut self, payload: Payload<'_>, pool_pages: u32) -> Result<(), VerifyError> {
        match payload {
            Payload::Version { encoding: wasmparser::Encoding::Module, .. }
            | Payload::CustomSection(_)
            | Payload::CodeSectionStart { .. }
            | Payload::End(_) => {}
            Payload::Version { .. } => return Err(VerifyError::Section("component")),
            Payload::TypeSection(types) => {
                for ty in types.into_iter_err_on_gc_types() {
                    let ty = ty.map_err(invalid)?;
                    self.filter_type.push(ty.params() == [ValType::I32] && ty.results().is_empty());
                }
            }
            Payload::ImportSection(imports) => {
                for group in imports {
                    match group.map_err(invalid)? {
                        Imports::Single(_, import) => self.import(import, pool_pages)?,
                        Imports::Compact1 { module, .. } | Imports::Compact2 { module, .. } => {
                            return Err(VerifyError::Import(format!("a group of module {module:?}")));
                        }
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::MemorySection(memories) => {
                for ty in memories {
                    let ty = ty.map_err(invalid)?;
                    if self.io || !fixed(&ty, 1) {
                        return Err(VerifyError::IoMemory(format!("it defines {}", memory_text(&ty))));
                    }
                    self.io = true;
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global.map_err(invalid)?;
                    let constant = match global.init_expr.get_operators_reader().read() {
                        Ok(Operator::I32Const { value }) if !global.ty.mutable => Some(value),
                        _ => None,
                    };
                    self.globals.push(constant);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    self.exports.insert(export.name.to_owned(), (export.kind, export.index));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let function = self.bodies;
                self.bodies += 1;
                self.body(function, &body)?;
            }
            Payload::TableSection(_) => return Err(VerifyError::Section("table")),
            Payload::ElementSection(_) => return Err(VerifyError::Section("table element")),
            Payload::DataSection(_) | Payload::DataCountSection { .. } => {
                return Err(VerifyError::Section("data segment"));
            }
            Payload::StartSection { .. } => return Err(VerifyError::Section("start function")),
            Payload::TagSection(_) => return Err(VerifyError::Section("exception tag")),
            _ => return Err(VerifyError::Section("section of an unknown kind")),
        }
        Ok(())
    }

    fn import(&mut self, import: Import<'_>, pool_pages: u32) -> Result<(), VerifyError> {
        let text = || format!("{}.{}", import.module.escape_debug(), import.name.escape_debug());
        if self.pool || (import.module, import.name) != POOL_IMPORT {
            return Err(VerifyError::Import(text()));
        }
        match import.ty {
            TypeRef::Memory(ty) if fixed(&ty, pool_pages) => self.pool = true,
            TypeRef::Memory(ty) => return Err(VerifyError::PoolType { got: memory_text(&ty), pages: pool_pages }),
            _ => return Err(VerifyError::PoolType { got: "something else".into(), pages: pool_pages }),
        }
        Ok(())
    }

    fn body(&mut self, function: u32, body: &FunctionBody<'_>) -> Result<(), VerifyError> {
        for op in body.get_operators_reader().map_err(invalid)? {
            let op = op.map_err(invalid)?;
            match class(&op) {
                Class::Plain => {}
                Class::Store(0) => return Err(VerifyError::WritesPool { function, op: name(&op) }),
                Class::Store(_) => {}
                Class::Loop => *self.loops.entry(function).or_default() += 1,
                Class::Call(callee) => self.calls.entry(function).or_default().push(callee),
                Class::Grow => return Err(VerifyError::Grows(function)),
                Class::Bulk => return Err(VerifyError::Bulk { function, op: name(&op) }),
                Class::Other => return Err(VerifyError::Operator { function, op: name(&op) }),
            }
        }
        Ok(())
    }

    fn conclude(self) -> Result<(), VerifyError> {
        if !self.pool {
            return Err(VerifyError::NoPool);
        }
        if !self.io {
            return Err(VerifyError::IoMemory("it defines none".into()));
        }
        if self.exports.get("io") != Some(&(ExternalKind::Memory, 1)) {
            return Err(VerifyError::Missing("memory 1 as io"));
        }
        let filter = match self.exports.get("filter") {
            Some(&(ExternalKind::Func, f)) if self.is_filter_type(f) => f,
            _ => return Err(VerifyError::Missing("a function filter of one i32 that returns nothing")),
        };
        let abi = match self.exports.get("abi") {
            Some(&(ExternalKind::Global, g)) => self.globals.get(g as usize).copied().flatten(),
            _ => None,
        };
        match abi {
            None => return Err(VerifyError::Missing("a constant i32 global abi")),
            Some(GENERATED_ABI | GENERATED_ABI_CELLS) => {}
            Some(other) => return Err(VerifyError::Abi(other)),
        }
        if let Some(extra) = self.exports.keys().find(|k| !["io", "filter", "abi"].contains(&k.as_str())) {
            return Err(VerifyError::Export(extra.escape_debug().to_string()));
        }
        if let Some((&function, _)) = self.loops.iter().find(|&(&f, &n)| f != filter || n > 1) {
            return Err(VerifyError::Unbounded(function));
        }
        self.no_recursion()
    }

    fn is_filter_type(&self, function: u32) -> bool {
        let ty = self.functions.get(function as usize);
        ty.and_then(|&t| self.filter_type.get(t as usize)).copied().unwrap_or(false)
    }

    /// Removes functions that call nobody until none is left; what remains calls in circles.
    fn no_recursion(mut self) -> Result<(), VerifyError> {
        loop {
            let before = self.calls.len();
            let callers: Vec<u32> = self.calls.keys().copied().collect();
            self.calls.retain(|_, callees| callees.iter().any(|c| callers.contains(c)));
            if self.calls.len() == before {
                return self.calls.into_keys().min().map_or(Ok(()), |f| Err(VerifyError::Unbounded(f)));
            }
        }
    }
}

/// A 32-bit, unshared memory of exactly `pages` pages of the usual size.
fn fixed(ty: &MemoryType, pages: u32) -> bool {
    let (pages, usual) = (u64::from(pages), ty.page_size_log2.is_none_or(|n| n == 16));
    !ty.memory64 && !ty.shared && usual && ty.initial == pages && ty.maximum == Some(pages)
}

pub(crate) fn memory_text(ty: &MemoryType) -> String {
    let bits = if ty.memory64 { 64 } else { 32 };
    let shared = if ty.shared { ", shared" } else { "" };
    let most = ty.maximum.map_or("any number".into(), |m| m.to_string());
    format!("a {bits}-bit memory of {} to {most} pages{shared}", ty.initial)
}

/// The instruction's name, without its operands.
pub(crate) fn name(op: &Operator<'_>) -> String {
    let text = format!("{op:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

pub(crate) enum Class {
    /// Touches no memory, or only reads.
    Plain,
    /// Writes to the memory of that index.
    Store(u32),
    Loop,
    Call(u32),
    Grow,
    Bulk,
    Other,
}

pub(crate) fn class(op: &Operator<'_>) -> Class {
    use Operator::*;
    match op {
        Unreachable
        | Nop
        | Block { .. }
        | If { .. }
        | Else
        | End
        | Br { .. }
        | BrIf { .. }
        | BrTable { .. }
        | Return
        | Drop
        | Select
        | LocalGet { .. }
        | LocalSet { .. }
        | LocalTee { .. }
        | GlobalGet { .. }
        | GlobalSet { .. }
        | I32Const { .. }
        | I64Const { .. }
        | MemorySize { .. } => Class::Plain,
        I32Load { .. }
        | I32Load8S { .. }
        | I32Load8U { .. }
        | I32Load16S { .. }
        | I32Load16U { .. }
        | I64Load { .. }
        | I64Load8S { .. }
        | I64Load8U { .. }
        | I64Load16S { .. }
        | I64Load16U { .. }
        | I64Load32S { .. }
        | I64Load32U { .. } => Class::Plain,
        I32Eqz | I32Eq | I32Ne | I32LtS | I32LtU | I32GtS | I32GtU | I32LeS | I32LeU | I32GeS | I32GeU | I64Eqz
        | I64Eq | I64Ne | I64LtS | I64LtU | I64GtS | I64GtU | I64LeS | I64LeU | I64GeS | I64GeU => Class::Plain,
        I32Clz | I32Ctz | I32Popcnt | I32Add | I32Sub | I32Mul | I32DivS | I32DivU | I32RemS | I32RemU | I32And
        | I32Or | I32Xor | I32Shl | I32ShrS | I32ShrU | I32Rotl | I32Rotr => Class::Plain,
        I64Clz | I64Ctz | I64Popcnt | I64Add | I64Sub | I64Mul | I64DivS | I64DivU | I64RemS | I64RemU | I64And
        | I64Or | I64Xor | I64Shl | I64ShrS | I64ShrU | I64Rotl | I64Rotr => Class::Plain,
        I32WrapI64 | I64ExtendI32S | I64ExtendI32U | I32Extend8S | I32Extend16S | I64Extend8S | I64Extend16S
        | I64Extend32S => Class::Plain,
        // Of the vector instructions those that compare a value with many constants.
        V128Const { .. } | I16x8Splat | I32x4Splat | I16x8Eq | I32x4Eq | V128And | V128Or | V128AnyTrue => Class::Plain,
        I32Store { memarg }
        | I32Store8 { memarg }
        | I32Store16 { memarg }
        | I64Store { memarg }
        | I64Store8 { memarg }
        | I64Store16 { memarg }
        | I64Store32 { memarg } => Class::Store(memarg.memory),
        Loop { .. } => Class::Loop,
        Call { function_index } => Class::Call(*function_index),
        MemoryGrow { .. } => Class::Grow,
        MemoryFill { .. }
        | MemoryCopy { .. }
        | MemoryInit { .. }
        | DataDrop { .. }
        | TableCopy { .. }
        | TableInit { .. }
        | TableFill { .. } => Class::Bulk,
        _ => Class::Other,
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
