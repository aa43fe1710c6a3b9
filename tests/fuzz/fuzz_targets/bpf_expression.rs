//! Filter expressions from strangers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smpnet_bpf::{Dlt, Engine, compile_expr_with};

fuzz_target!(|text: &str| {
    for dlt in [Dlt::Raw, Dlt::En10mb] {
        // What it says of a text does not matter here, only that it says something.
        let _ = compile_expr_with(text, dlt, Engine::Subset);
    }
});
