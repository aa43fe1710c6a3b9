//! Files that somebody else made.

use smpnet_pcap::file::Capture;

/// A capture file, pcap or pcapng.
pub fn pcap_file(data: &[u8]) {
    if let Ok(capture) = Capture::parse(data.to_vec()) {
        for entry in &capture.entries {
            assert_eq!(capture.packet(*entry).len(), entry.wire_len as usize);
        }
    }
}

/// A plugin's file: what is known of it before it is loaded, which it never is here.
#[cfg(feature = "program")]
pub fn plugin_file(data: &[u8]) {
    match smpnet::loader::inspect(std::path::Path::new("fuzz.so"), data) {
        Ok(status) => assert!(!status.name.is_empty()),
        Err(e) => _ = (e.to_string(), e.code()),
    }
}
