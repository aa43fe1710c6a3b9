//! The manifest: plain data that smpnet reads out of the file, before any code of the plugin is loaded.

/// First bytes of every manifest.
pub const MANIFEST_MAGIC: [u8; 8] = *b"smpnetPL";
/// Name of the symbol that the manifest stands at. It is constant data without relocations, so that it can be read from
/// the file's bytes.
pub const MANIFEST_SYMBOL: &str = "smpnet_plugin_manifest";
/// PCI ids in a manifest.
pub const PCI_IDS_MAX: usize = 64;

/// Bits of [`Manifest::kinds`].
pub mod kind {
    /// Provides drivers.
    pub const DRIVER: u32 = 1 << 0;
    /// Provides interface kinds.
    pub const IFKIND: u32 = 1 << 1;
    /// Provides native filters.
    pub const FILTER: u32 = 1 << 2;
}

/// Bits of [`Manifest::privileges`]: what the plugin needs in order to work.
pub mod privilege {
    /// CAP_NET_ADMIN in the network namespace.
    pub const NET_ADMIN: u32 = 1 << 0;
    /// CAP_NET_RAW.
    pub const NET_RAW: u32 = 1 << 1;
    /// VFIO devices.
    pub const VFIO: u32 = 1 << 2;
    /// /dev/net/tun.
    pub const TUN: u32 = 1 << 3;
    /// CAP_BPF or root, for XDP.
    pub const BPF: u32 = 1 << 4;
}

/// A PCI device that a driver serves. 0xffff in the subsystem fields matches any; a vendor of 0 ends the list.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor.
    pub subvendor: u16,
    /// Subsystem device.
    pub subdevice: u16,
}

impl PciId {
    /// The end of a list.
    pub const END: PciId = PciId { vendor: 0, device: 0, subvendor: 0, subdevice: 0 };
}

/// The manifest of a plugin. Texts are UTF-8, NUL-padded.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// [`MANIFEST_MAGIC`].
    pub magic: [u8; 8],
    /// Bytes of this structure.
    pub size: u32,
    /// [`crate::ABI_MAJOR`] that the plugin was built with.
    pub abi_major: u16,
    /// [`crate::ABI_MINOR`] that the plugin was built with.
    pub abi_minor: u16,
    /// Bits of [`kind`].
    pub kinds: u32,
    /// Bits of [`privilege`].
    pub privileges: u32,
    /// Name, `[a-z][a-z0-9_-]*`, at most 31 bytes.
    pub name: [u8; 32],
    /// Version of the plugin, semver.
    pub version: [u8; 24],
    /// SPDX licence expression.
    pub license: [u8; 32],
    /// One line on what it is.
    pub summary: [u8; 96],
    /// PCI devices, ended by [`PciId::END`] when fewer than [`PCI_IDS_MAX`].
    pub pci: [PciId; PCI_IDS_MAX],
}

impl Manifest {
    /// A manifest of this ABI version. For use in constants: a text that does not fit stops the build.
    pub const fn new(
        name: &str,
        version: &str,
        license: &str,
        summary: &str,
        kinds: u32,
        privileges: u32,
        pci: &[PciId],
    ) -> Self {
        assert!(pci.len() <= PCI_IDS_MAX, "more PCI ids than a manifest holds");
        let mut ids = [PciId::END; PCI_IDS_MAX];
        let mut i = 0;
        while i < pci.len() {
            ids[i] = pci[i];
            i += 1;
        }
        Manifest {
            magic: MANIFEST_MAGIC,
            size: size_of::<Manifest>() as u32,
            abi_major: crate::ABI_MAJOR,
            abi_minor: crate::ABI_MINOR,
            kinds,
            privileges,
            name: padded(name),
            version: padded(version),
            license: padded(license),
            summary: padded(summary),
            pci: ids,
        }
    }
}

const fn padded<const N: usize>(text: &str) -> [u8; N] {
    assert!(text.len() < N, "a text of the manifest is too long");
    let mut out = [0; N];
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        out[i] = bytes[i];
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_holds_what_it_was_given() {
        const ID: PciId = PciId { vendor: 0x1af4, device: 0x1041, subvendor: 0xffff, subdevice: 0xffff };
        const M: Manifest = Manifest::new("vioif", "1.2.3", "MIT", "virtio", kind::DRIVER, privilege::VFIO, &[ID]);
        assert!(M.name.starts_with(b"vioif\0") && M.version.starts_with(b"1.2.3\0") && M.magic == *b"smpnetPL");
        assert_eq!((M.pci[0], M.pci[1]), (ID, PciId::END));
        assert_eq!((M.size as usize, M.abi_major, M.abi_minor), (size_of::<Manifest>(), 1, 0));
    }

    #[test]
    #[should_panic(expected = "too long")]
    fn a_name_of_32_bytes_is_refused() {
        Manifest::new("a_name_that_has_thirty_two_bytes", "1", "MIT", "", kind::DRIVER, 0, &[]);
    }
}
