//! The control channel: messages and descriptors over a Unix socket of the kind SEQPACKET.

use crate::{
    error::MemifError,
    sys::{self, check},
    wire::{MESSAGE_LEN, Message},
};
use std::{
    fmt, io,
    mem::{offset_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

/// Where a server listens: a path, or with a leading `@` an abstract name, which is bound to the network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName(String);

impl SocketName {
    /// Checks the length and that there is no NUL.
    pub fn new(name: &str) -> Result<Self, MemifError> {
        let bytes = name.len();
        if bytes == 0 || name == "@" || bytes > 107 || name.contains('\0') {
            return Err(MemifError::Option(format!("socket must be 1 to 107 bytes long, and is {bytes}")));
        }
        Ok(SocketName(name.to_owned()))
    }

    /// The path; none for an abstract name.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.starts_with('@')).then(|| Path::new(&self.0))
    }

    fn address(&self) -> (libc::sockaddr_un, libc::socklen_t) {
        // SAFETY: sockaddr_un is plain data for which all bits zero is valid.
        let mut address: libc::sockaddr_un = unsafe { zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // At most 107 of 108 bytes, by `new`.
        for (to, from) in address.sun_path.iter_mut().zip(self.0.as_bytes()) {
            *to = *from as libc::c_char;
        }
        let mut len = offset_of!(libc::sockaddr_un, sun_path) + self.0.len();
        if self.path().is_none() {
            address.sun_path[0] = 0;
        } else {
            len += 1;
        }
        (address, len as libc::socklen_t)
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers.
    sys::owned(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })
}

/// A socket that listens.
pub struct Listening(OwnedFd);

impl Listening {
    /// Binds and listens. Fails with `AddrInUse` when there is a file of that name, or a listener.
    pub fn bind(name: &SocketName) -> io::Result<Self> {
        let fd = socket()?;
        let (address, len) = name.address();
        // SAFETY: an address of `len` bytes.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::listen(fd.as_raw_fd(), 16) })?;
        Ok(Listening(fd))
    }

    /// The next client that waits.
    pub fn accept(&self) -> io::Result<Channel> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        Ok(Channel(sys::owned(fd)?))
    }

    /// Readable while a client waits.
    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A connected socket. Nothing on it blocks.
pub struct Channel(OwnedFd);

/// What a message came with.
pub type Received = (Message, Option<OwnedFd>);

impl Channel {
    /// Connects to a server.
    pub fn connect(name: &SocketName) -> io::Result<Self> {
        let fd = socket()?;
        let (address, len) = name.address();
        // SAFETY: an address of `len` bytes.
        check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(Channel(fd))
    }

    /// Readable while a message waits or when the peer is gone.
    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends a message, with a descriptor if it takes one. The dialogue is one of question and answer, so that a socket
    /// without room for a message has a peer that does not follow it.
    pub fn send(&self, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<(), MemifError> {
        let bytes = message.encode();
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = ControlBuffer::default();
        // SAFETY: msghdr is plain data for which all bits zero is valid.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = &mut iov;
        header.msg_iovlen = 1;
        if let Some(fd) = fd {
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: computes sizes only.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
            // SAFETY: the control buffer is aligned and has room for one header and one descriptor.
            unsafe {
                let part = libc::CMSG_FIRSTHDR(&header);
                (*part).cmsg_level = libc::SOL_SOCKET;
                (*part).cmsg_type = libc::SCM_RIGHTS;
                (*part).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
                libc::CMSG_DATA(part).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
            }
        }
        // SAFETY: header describes live buffers.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        match sent {
            n if n == MESSAGE_LEN as isize => Ok(()),
            _ => match io::Error::last_os_error() {
                e if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Err(MemifError::Gone),
                e if e.kind() == io::ErrorKind::WouldBlock => Err(MemifError::Silent),
                source => Err(MemifError::Os { what: format!("sending {message}"), source }),
            },
        }
    }

    /// The next message, or none when there is none yet.
    pub fn receive(&self) -> Result<Option<Received>, MemifError> {
        // One byte more than a message has, so that a longer one shows.
        let mut bytes = [0u8; MESSAGE_LEN + 1];
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut control = ControlBuffer::default();
        // SAFETY: msghdr is plain data for which all bits zero is valid.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = &mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control.0) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: header describes live buffers.
        let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut header, flags) };
        let failed = (got < 0).then(io::Error::last_os_error);
        let mut fds = if failed.is_none() { descriptors(&header) } else { Vec::new() };
        match failed {
            Some(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(None),
            Some(e) if e.raw_os_error() == Some(libc::ECONNRESET) => return Err(MemifError::Gone),
            Some(source) => return Err(MemifError::Os { what: "receiving a message".into(), source }),
            None if got == 0 => return Err(MemifError::Gone),
            None => {}
        }
        let message = Message::parse(bytes.get(..got as usize).unwrap_or(&[]))?;
        // More than one is more than any message takes; they are closed.
        fds.truncate(1);
        Ok(Some((message, fds.pop())))
    }
}

/// Room for the header and a few descriptors, aligned for the header.
#[derive(Default)]
struct ControlBuffer([u64; 8]);

/// The descriptors that came with a message: all of them, so that none is left open.
fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer that header describes; the macros walk within it.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(header);
        while let Some(cmsg) = part.as_ref() {
            if cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS {
                let bytes = cmsg.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                for i in 0..bytes / size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(part).cast::<RawFd>().add(i).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            part = libc::CMSG_NXTHDR(header, part);
        }
    }
    fds
}
