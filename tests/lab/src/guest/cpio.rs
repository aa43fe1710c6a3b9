//! The archive that the kernel unpacks into its first file system: cpio, "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive in memory.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Cpio {
    /// A file at `path` (without the first slash), and the folders above it.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    /// A folder, and those above it.
    pub fn folder(&mut self, path: &str) {
        if path.is_empty() || self.folders.iter().any(|f| f == path) {
            return;
        }
        self.parents(path);
        self.folders.push(path.into());
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// A character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let fields = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            links,
            0, // time
            content.len() as u32,
            0, // device of the file, major and minor
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum, of another format
        ];
        self.bytes.extend_from_slice(b"070701");
        for f in fields {
            self.bytes.extend_from_slice(format!("{f:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn an_archive_has_the_entries_and_the_padding_of_the_format() {
        let mut c = Cpio::default();
        c.file("a/b", 0o644, b"12345");
        c.file("a/c", 0o755, b"");
        let bytes = c.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ed"), "the folder a comes first: {text}");
        assert_eq!(text.matches("070701").count(), 4, "a, a/b, a/c and the trailer");
        // Header 110, name "a/b" and NUL 4, padding 2; then the content and its padding.
        let at = 110 + 2;
        assert_eq!(&bytes[at + 110..at + 116], b"a/b\0\0\0");
        assert_eq!(&bytes[at + 116..at + 124], b"12345\0\0\0");
        assert!(text.contains("TRAILER!!!") && bytes.len() % 4 == 0);
    }
}
