//! See `pcap_file` in `targets/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smpnet_fuzz_targets::pcap_file(data));
