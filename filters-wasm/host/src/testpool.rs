//! A small packet pool and small modules for the tests of this crate.

use smpnet_abi::{CELL_NONE, Cell, PktHdr, PoolDesc};
use std::ptr::null_mut;

pub const CELL_SIZE: usize = 2112;
/// Where the data of a fresh packet begins: header and headroom.
pub const DATA_OFF: u16 = 192;

/// A pool in a memfd, without allocation: tests say which cell is which packet.
pub struct TestPool {
    pub desc: PoolDesc,
}

/// How a [`TestPool`] is made.
#[derive(Clone, Copy)]
pub struct Shape {
    pub cells: u32,
    pub sealed: bool,
}

impl TestPool {
    pub fn new(cells: u32) -> TestPool {
        TestPool::shaped(Shape { cells, sealed: true })
    }

    pub fn shaped(shape: Shape) -> TestPool {
        let bytes = shape.cells as usize * CELL_SIZE;
        // SAFETY: plain system calls on a descriptor of our own; the name is NUL-terminated.
        unsafe {
            let fd = libc::memfd_create(c"smpnet-test-pool".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            assert_eq!(libc::ftruncate(fd, bytes as libc::off_t), 0);
            if shape.sealed {
                assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW), 0);
            }
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(null_mut(), bytes, rw, libc::MAP_SHARED, fd, 0);
            assert_ne!(base, libc::MAP_FAILED);
            TestPool {
                desc: PoolDesc {
                    size: size_of::<PoolDesc>() as u32,
                    cell_size: CELL_SIZE as u32,
                    base: base.cast(),
                    bytes: bytes as u64,
                    cells: shape.cells,
                    data_off: u32::from(DATA_OFF),
                    fd,
                    page_size: 4096,
                },
            }
        }
    }

    /// Changes the header of a cell.
    pub fn header(&self, cell: Cell, change: impl FnOnce(&mut PktHdr)) {
        assert!(cell < self.desc.cells);
        // SAFETY: the cell is inside the mapping and tests touch a packet from one thread at a time.
        change(unsafe { &mut *self.desc.base.add(cell as usize * CELL_SIZE).cast::<PktHdr>() });
    }

    /// Makes `cell` a packet of one cell with these bytes.
    pub fn put(&self, cell: Cell, bytes: &[u8]) {
        self.put_at(cell, DATA_OFF, bytes);
        self.header(cell, |h| h.pkt_len = bytes.len() as u32);
    }

    /// Makes `cell` hold these bytes at `off`, with a fresh header.
    pub fn put_at(&self, cell: Cell, off: u16, bytes: &[u8]) {
        assert!(cell < self.desc.cells && off as usize + bytes.len() <= CELL_SIZE);
        self.header(cell, |h| *h = PktHdr { data_len: bytes.len() as u16, next: CELL_NONE, ..PktHdr::empty(off) });
        // SAFETY: checked to be inside the cell.
        unsafe {
            let at = self.desc.base.add(cell as usize * CELL_SIZE + off as usize);
            at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// The bytes of a packet of one cell.
    pub fn bytes(&self, cell: Cell) -> Vec<u8> {
        let (mut off, mut len) = (0, 0);
        self.header(cell, |h| (off, len) = (usize::from(h.data_off), usize::from(h.data_len)));
        // SAFETY: `put_at` checked that the packet is inside its cell.
        let at = unsafe { self.desc.base.add(cell as usize * CELL_SIZE + off) };
        // SAFETY: as above; nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(at, len) }.to_vec()
    }

    /// WebAssembly pages of the pool.
    pub fn pages(&self) -> u32 {
        self.desc.bytes.div_ceil(65536) as u32
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        // SAFETY: mapping and descriptor are this pool's own.
        unsafe {
            libc::munmap(self.desc.base.cast(), self.desc.bytes as usize);
            libc::close(self.desc.fd);
        }
    }
}

/// A module of the contract whose result for a packet is `prog` (WAT over `$off $buflen $wirelen`).
pub fn module(pages: u32, prog: &str) -> Vec<u8> {
    wat::parse_str(text(pages, prog)).unwrap()
}

/// The text of [`module`].
pub fn text(pages: u32, prog: &str) -> String {
    format!(
        r#"(module
  (import "smpnet" "pool" (memory $pool {pages} {pages}))
  (memory $io 1 1)
  (global $abi i32 (i32.const 0x00010000))
  (export "io" (memory $io))
  (export "abi" (global $abi))
  (func $prog (param $off i32) (param $buflen i32) (param $wirelen i32) (result i32)
    {prog})
  (func (export "filter") (param $n i32)
    (local $d i32) (local $r i32)
    (local.set $r (i32.const 1024))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (i32.store $io (local.get $r)
          (call $prog (i32.load $io (local.get $d))
            (i32.load $io offset=4 (local.get $d))
            (i32.load $io offset=8 (local.get $d))))
        (local.set $d (i32.add (local.get $d) (i32.const 16)))
        (local.set $r (i32.add (local.get $r) (i32.const 4)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))))"#
    )
}

/// `prog` of a module that matches packets whose first byte is `byte`; empty packets do not match.
pub fn first_byte_is(byte: u8) -> String {
    format!(
        "(if (result i32) (local.get $buflen)
           (then (i32.eq (i32.load8_u $pool (local.get $off)) (i32.const {byte})))
           (else (i32.const 0)))"
    )
}
