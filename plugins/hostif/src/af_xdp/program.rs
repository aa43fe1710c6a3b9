//! The XDP program that hands frames to the sockets.
//!
//! A frame goes to the socket of its queue. One that has none (the port is down, or the device got queues that the port
//! does not serve) is dropped and counted: the port has the device to itself, and the kernel's own stack must not answer
//! there. The program hangs on a link (`BPF_LINK_CREATE`, Linux 5.9), which the kernel takes off when the process ends,
//! however it ends.

use super::options::Mode;
use crate::{
    bpf::{self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_XSKMAP, Helper, Insn, Map, Program, Reg},
    uapi,
};
use std::{
    io,
    os::fd::{OwnedFd, RawFd},
};

/// The program on a device; dropping it takes it off.
#[derive(Debug)]
pub struct Attached {
    // Taken off before the maps go.
    _link: OwnedFd,
    sockets: Map,
    dropped: Map,
}

impl Attached {
    /// Puts the program on device `index`, with room for `queues` sockets; `frags` says that frames may lie in several
    /// buffers.
    pub fn new(index: i32, mode: Mode, queues: u32, frags: bool) -> io::Result<Attached> {
        let sockets = Map::new::<RawFd>(BPF_MAP_TYPE_XSKMAP, queues, "smpnet_xsks")?;
        let dropped = Map::new::<u64>(BPF_MAP_TYPE_ARRAY, 1, "smpnet_dropped")?;
        let program = Program {
            kind: uapi::BPF_PROG_TYPE_XDP,
            attach: uapi::BPF_XDP,
            flags: if frags { uapi::BPF_F_XDP_HAS_FRAGS } else { 0 },
            name: "smpnet_af_xdp",
            code: &code(sockets.raw_fd(), dropped.raw_fd()),
        };
        let flags = match mode {
            Mode::Generic => uapi::XDP_FLAGS_SKB_MODE,
            _ => uapi::XDP_FLAGS_DRV_MODE,
        };
        let link = bpf::link(&program.load()?, index, uapi::BPF_XDP, flags)?;
        Ok(Attached { _link: link, sockets, dropped })
    }

    /// Frames of `queue` go to `socket` from now on.
    pub fn admit(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        self.sockets.set(queue, &socket)
    }

    /// Ends [`Attached::admit`].
    pub fn shut(&self, queue: u32) -> io::Result<()> {
        self.sockets.remove(queue)
    }

    /// Frames dropped so far because their queue had no socket.
    pub fn dropped(&self) -> u64 {
        self.dropped.get(0).unwrap_or_default()
    }
}

/// ```text
/// r0 = redirect(sockets, ctx->rx_queue_index, otherwise 0)
/// if r0 != XDP_REDIRECT {
///     if r0 = lookup(dropped, 0) { *r0 += 1 }
///     r0 = XDP_DROP
/// }
/// ```
fn code(sockets: RawFd, dropped: RawFd) -> Vec<Insn> {
    use Reg::{R0, R1, R2, R3, R10};
    const KEY: i16 = -4;
    let count = [
        &[Insn::store_word(R10, KEY, 0), Insn::copy(R2, R10), Insn::add(R2, i32::from(KEY))][..],
        &Insn::map(R1, dropped),
        // Past the addition when there is no such counter, which the verifier wants to see asked.
        &[Insn::call(Helper::MapLookup), Insn::jump_if_equal(R0, 0, 2)],
        &[Insn::set(R1, 1), Insn::add_to_memory(R0, 0, R1)],
        &[Insn::set(R0, uapi::XDP_DROP)],
    ]
    .concat();
    [
        &[Insn::load_word(R2, R1, uapi::XDP_MD_RX_QUEUE_INDEX)][..],
        &Insn::map(R1, sockets),
        &[Insn::set(R3, 0), Insn::call(Helper::RedirectMap)],
        &[Insn::jump_if_equal(R0, uapi::XDP_REDIRECT, count.len() as i16)],
        &count,
        &[Insn::exit()],
    ]
    .concat()
}
