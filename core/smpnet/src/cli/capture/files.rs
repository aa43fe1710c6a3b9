//! Where a capture is written: a file, a pipe, or a ring of files.

use super::super::context::Failure;
use crate::capture::{EPB, IDB, SHB, blocks::Block};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A ring of files: how many, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Files that are kept.
    pub files: usize,
    /// Bytes of each.
    pub size: u64,
}

impl FromStr for Ring {
    type Err = String;

    fn from_str(s: &str) -> Result<Ring, String> {
        let wrong = || format!("`{s}` is not FILES:SIZE, such as 10:100M");
        let (files, bytes) = s.split_once(':').ok_or_else(wrong)?;
        let files = files.parse().ok().filter(|n| (1..=100_000).contains(n)).ok_or_else(wrong)?;
        let size = size(bytes)?;
        if size < 4096 {
            return Err(format!("`{s}`: a file of a ring has at least 4K"));
        }
        Ok(Ring { files, size })
    }
}

/// Bytes, with K, M or G.
pub fn size(s: &str) -> Result<u64, String> {
    let wrong = || format!("`{s}` is not a number of bytes, such as 512K or 100M");
    let (digits, unit) = match s.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => s.split_at(at),
        None => (s, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(wrong()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(wrong)
}

/// The output of a capture.
pub struct Files {
    out: BufWriter<Box<dyn Write>>,
    path: PathBuf,
    ring: Option<Ring>,
    /// What every file of a ring begins with: the section and its interfaces.
    head: Vec<u8>,
    written: u64,
    number: u64,
    kept: VecDeque<PathBuf>,
}

impl Files {
    /// Makes the (first) file; `-` is stdout.
    pub fn create(path: &Path, ring: Option<Ring>) -> Result<Files, Failure> {
        let stdout = path.as_os_str() == "-";
        if stdout && ring.is_some() {
            return Err(Failure::usage("a ring of files needs a file name: -w FILE --ring FILES:SIZE"));
        }
        let mut files = Files {
            out: BufWriter::with_capacity(1 << 16, Box::new(io::sink())),
            path: path.to_owned(),
            ring,
            head: Vec::new(),
            written: 0,
            number: 0,
            kept: VecDeque::new(),
        };
        if stdout {
            files.out = BufWriter::with_capacity(1 << 16, Box::new(io::stdout()));
        } else {
            files.open()?;
        }
        Ok(files)
    }

    /// Begins the next file.
    fn open(&mut self) -> Result<(), Failure> {
        self.number += 1;
        let path = match self.ring {
            None => self.path.clone(),
            Some(_) => numbered(&self.path, self.number),
        };
        let file = File::create(&path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        self.out = BufWriter::with_capacity(1 << 16, Box::new(file));
        self.written = 0;
        self.kept.push_back(path);
        if let Some(ring) = self.ring
            && self.kept.len() > ring.files
            && let Some(oldest) = self.kept.pop_front()
        {
            // Somebody may have moved it away.
            let _ = fs::remove_file(oldest);
        }
        Ok(())
    }

    /// Writes a block; false when nobody reads any more.
    pub fn block(&mut self, block: &Block<'_>) -> Result<bool, Failure> {
        let bytes = block.bytes();
        if let Some(ring) = self.ring {
            if matches!(block.kind(), SHB | IDB) {
                self.head.extend_from_slice(bytes);
            }
            if block.kind() == EPB && self.written + bytes.len() as u64 > ring.size && self.written > 0 {
                self.flush()?;
                self.open()?;
                let head = std::mem::take(&mut self.head);
                let goes_on = self.write(&head)?;
                self.head = head;
                if !goes_on {
                    return Ok(false);
                }
            }
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        self.written += bytes.len() as u64;
        let done = self.out.write_all(bytes);
        self.ended(done)
    }

    /// Hands on what is gathered; false when nobody reads any more.
    pub fn flush(&mut self) -> Result<bool, Failure> {
        let done = self.out.flush();
        self.ended(done)
    }

    fn ended(&self, done: io::Result<()>) -> Result<bool, Failure> {
        match done {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(e) => {
                let name = self.kept.back().unwrap_or(&self.path);
                Err(Failure::new(format!("{}: {e}", name.display())))
            }
        }
    }

    /// Removes the file of a capture that never began.
    pub fn remove_empty(&self) {
        for path in &self.kept {
            if fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// `cap.pcapng` becomes `cap.00001.pcapng`.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let number = format!("{number:05}");
    match path.extension() {
        Some(e) => path.with_extension(format!("{number}.{}", e.to_string_lossy())),
        None => path.with_extension(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Interface, PacketOptions, Pcapng, blocks::Splitter};
    use smpnet_stack::Link;

    #[test]
    fn sizes_and_rings_are_read() {
        assert_eq!(size("100").unwrap(), 100);
        assert_eq!(size("2k").unwrap(), 2048);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert!(size("x").is_err() && size("10T").is_err() && size("99999999999999999999G").is_err());
        assert_eq!("3:1M".parse(), Ok(Ring { files: 3, size: 1 << 20 }));
        assert!("3".parse::<Ring>().is_err() && "0:1M".parse::<Ring>().is_err() && "3:1K".parse::<Ring>().is_err());
    }

    #[test]
    fn a_ring_keeps_the_newest_files_and_each_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut p = Pcapng::new(0, "Linux", "");
        p.interface(Link::Ether, &Interface { name: "lan0".into(), ..Interface::default() });
        for n in 0..100 {
            p.packet(0, n, 1000, &[n as u8; 1000], &PacketOptions::default());
        }
        let mut files = Files::create(&dir.path().join("cap.pcapng"), Some(Ring { files: 3, size: 10_000 })).unwrap();
        let mut s = Splitter::default();
        s.feed(&p.out);
        while let Some(b) = s.next_block().unwrap() {
            assert!(files.block(&b).unwrap());
        }
        assert!(files.flush().unwrap());
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 3);
        assert!(names[2].ends_with("cap.00012.pcapng"), "{names:?}");
        let mut last = None;
        for name in names {
            let bytes = fs::read(&name).unwrap();
            assert!(bytes.len() <= 10_000);
            let mut reader = pcap_file::pcapng::PcapNgReader::new(&bytes[..]).unwrap();
            while let Some(b) = reader.next_block() {
                if let pcap_file::pcapng::Block::EnhancedPacket(e) = b.unwrap() {
                    assert!(last.is_none_or(|l| e.data[0] == l + 1), "no packet is missing between two files");
                    last = Some(e.data[0]);
                }
            }
        }
        assert_eq!(last, Some(99));
    }
}
