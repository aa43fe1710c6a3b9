//! See `npf_packets` in `targets/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smpnet_fuzz_targets::npf_packets(data));
