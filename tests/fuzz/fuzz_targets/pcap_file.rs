//! Capture files from strangers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smpnet_pcap::file::Capture;

fuzz_target!(|data: &[u8]| {
    if let Ok(capture) = Capture::parse(data.to_vec()) {
        for entry in &capture.entries {
            assert_eq!(capture.packet(*entry).len(), entry.wire_len as usize);
        }
    }
});
