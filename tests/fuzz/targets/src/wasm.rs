//! WebAssembly modules that claim to be generated ones.

use smpnet_runtime::{HugePages, Pool, PoolConfig};
use smpnet_wasm::{GeneratedEngine, verify};
use std::sync::{Mutex, OnceLock, PoisonError};

struct Host {
    // The engine maps it.
    _pool: Pool,
    engine: GeneratedEngine,
}

fn with_engine<R>(f: impl FnOnce(&GeneratedEngine) -> R) -> R {
    static HOST: OnceLock<Mutex<Host>> = OnceLock::new();
    let host = HOST.get_or_init(|| {
        let config = PoolConfig { cells: 64, huge_pages: HugePages::Never, ..PoolConfig::default() };
        let pool = Pool::new(&config).unwrap_or_else(|e| panic!("no memory for the pool of the fuzz target: {e}"));
        let engine = GeneratedEngine::new(pool.desc(), 1).unwrap_or_else(|e| panic!("no engine: {e}"));
        Mutex::new(Host { _pool: pool, engine })
    });
    f(&host.lock().unwrap_or_else(PoisonError::into_inner).engine)
}

/// A module, or (when the first byte is even) patches to a good one: pairs of a place and a byte. What the verifier accepts
/// must compile.
pub fn wasm_verify(data: &[u8]) {
    with_engine(|engine| {
        let pages = engine.pool_pages();
        let module = match data.split_first() {
            Some((kind, patches)) if kind.is_multiple_of(2) => patched(good(pages), patches),
            Some((_, module)) => module.to_vec(),
            None => return,
        };
        if verify(&module, pages).is_ok()
            && let Err(e) = engine.compile(&module)
        {
            panic!("the verifier accepts a module that does not compile: {e}");
        }
    });
}

/// A module that smpnet generates for a pool of so many pages.
pub(crate) fn good(pages: u32) -> Vec<u8> {
    let compiled = smpnet_bpf::compile_expr_with(
        "udp port 53 or (tcp and host 10.0.0.1)",
        smpnet_bpf::Dlt::Raw,
        smpnet_bpf::Engine::Subset,
    );
    let Ok(compiled) = compiled else { panic!("the expression of the fuzz target does not compile") };
    smpnet_bpf::compile_wasm(
        &compiled.program,
        &smpnet_bpf::CompileOptions { pool_pages: pages, cell_size: Some(2112) },
    )
}

fn patched(mut module: Vec<u8>, patches: &[u8]) -> Vec<u8> {
    for patch in patches.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % module.len();
        module[at] = patch[2];
    }
    module
}
