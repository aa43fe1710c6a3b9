//! See `npf_lines` in `targets/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smpnet_fuzz_targets::npf_lines(data));
