//! Capture files being written: pcapng, or pcap with nanoseconds when the name ends in `.pcap`.

use crate::file::Link;
use pcap_file::{
    DataLink, Endianness, PcapError, TsResolution,
    pcap::PcapHeader,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::EnhancedPacketBlock,
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use std::{
    borrow::Cow,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

/// Bytes gathered before they are written out.
const BUFFER: usize = 1 << 20;

/// A capture file being written.
pub enum Writer {
    /// pcap with nanosecond time stamps, in this machine's byte order.
    Pcap(BufWriter<File>),
    /// pcapng.
    PcapNg(PcapNgWriter<BufWriter<File>>),
}

impl Writer {
    /// Makes the file, or empties it, and writes its header. `interface` becomes the name of the pcapng interface.
    pub fn create(path: &Path, link: Link, interface: &str) -> Result<Writer, String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let file = File::create(path).map_err(|e| named(&e))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        if path.extension().is_some_and(|e| e == "pcap") {
            let header = PcapHeader {
                version_major: 2,
                version_minor: 4,
                ts_correction: 0,
                ts_accuracy: 0,
                snaplen: 262_144,
                datalink: link.datalink(),
                ts_resolution: TsResolution::NanoSecond,
                endianness: Endianness::native(),
            };
            header.write_to(&mut out).map_err(|e| named(&e))?;
            return Ok(Writer::Pcap(out));
        }
        let mut writer = PcapNgWriter::with_endianness(out, Endianness::native()).map_err(|e| named(&e))?;
        writer.write_pcapng_block(describe(link.datalink(), interface)).map_err(|e| named(&e))?;
        Ok(Writer::PcapNg(writer))
    }

    /// Appends a packet that was sent at `time` since 1970.
    pub fn packet(&mut self, time: Duration, bytes: &[u8]) -> std::io::Result<()> {
        let len = bytes.len() as u32;
        match self {
            Writer::Pcap(w) => {
                // The record header: seconds, nanoseconds, bytes kept, bytes on the wire.
                for field in [time.as_secs() as u32, time.subsec_nanos(), len, len] {
                    w.write_all(&field.to_ne_bytes())?;
                }
                w.write_all(bytes)
            }
            Writer::PcapNg(w) => w
                .write_pcapng_block(EnhancedPacketBlock {
                    interface_id: 0,
                    timestamp: time,
                    original_len: len,
                    data: Cow::Borrowed(bytes),
                    options: Vec::new(),
                })
                .map(|_| ())
                .map_err(|e| match e {
                    PcapError::IoError(e) => e,
                    e => std::io::Error::other(e),
                }),
        }
    }

    /// Writes out what was gathered.
    pub fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Writer::Pcap(w) => w.flush(),
            Writer::PcapNg(w) => w.get_mut().flush(),
        }
    }
}

/// The description of the one interface of a file. Its time stamps are nanoseconds (`if_tsresol` 9).
fn describe(link: DataLink, name: &str) -> InterfaceDescriptionBlock<'static> {
    InterfaceDescriptionBlock {
        linktype: link,
        snaplen: 0,
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())),
            InterfaceDescriptionOption::IfTsResol(9),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Capture;

    #[test]
    fn what_was_written_is_read_back_in_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        for (name, link) in [("a.pcap", Link::Ethernet), ("b.pcapng", Link::RawIp)] {
            let path = dir.path().join(name);
            let mut w = Writer::create(&path, link, "out0").unwrap();
            for i in 0..5u8 {
                w.packet(Duration::new(9, u32::from(i) + 1), &[i; 70][..60 + usize::from(i)]).unwrap();
            }
            w.flush().unwrap();
            let c = Capture::read(&path).unwrap();
            assert_eq!((c.link, c.entries.len()), (link, 5));
            for (i, e) in c.entries.iter().enumerate() {
                assert_eq!(e.time_ns, 9_000_000_001 + i as u64);
                assert_eq!(c.packet(*e), &vec![i as u8; 60 + i][..]);
            }
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let e = Writer::create(Path::new("/nonexistent/x.pcap"), Link::RawIp, "x").map(|_| ()).unwrap_err();
        assert!(e.starts_with("/nonexistent/x.pcap: "), "{e}");
    }
}
