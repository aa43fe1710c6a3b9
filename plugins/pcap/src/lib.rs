//! pcap and pcapng files as ports: what a file holds is received, what is sent goes to a file.
//!
//! It needs no privilege and no device, so a router between two files is the smallest use of smpnet.
//!
//! | option | meaning |
//! |---|---|
//! | `read` | the file that is received: pcap or pcapng, Ethernet or raw IP |
//! | `write` | the file that what is sent goes to: pcap when its name ends so, else pcapng |
//! | `timing` | `"original"` (default): as far apart as when captured; `"fast"`: as fast as the router takes them |
//! | `repeat` | how often the file is played; 1 by default, 0 for ever |
//! | `link` | `"ethernet"` or `"raw"` for a port that only writes; a port that reads has the file's |
//! | `mac` | address of an Ethernet port; a locally administered one by default |

pub mod file;
mod options;
mod player;
mod port;
mod writer;

pub use port::PcapPort;

smpnet_plugin::plugin! {
    name: "pcap",
    summary: "pcap and pcapng files as ports",
    license: "MIT OR Apache-2.0",
    privileges: 0,
    pci: [],
    drivers: [PcapPort],
    ifkinds: [],
    filters: [],
}
