//! The control socket: made for one daemon, reachable by its user only, gone when the daemon is.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon answers on it.
    #[error(
        "another smpnet runs already and answers on {0}; stop it, or choose another socket with --socket or [control] socket"
    )]
    Taken(PathBuf),
    /// Something else is in its place.
    #[error("{0} is there and is not a socket; move it away, or choose another path with --socket or [control] socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("control socket {path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A bound control socket. Dropping it removes the file, and the folder when it was made for it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    folder: Option<PathBuf>,
}

impl ControlSocket {
    /// Binds `path`, mode 0600. A folder that is missing is made, mode 0700; a socket that nobody answers on is
    /// replaced.
    pub fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
        let fail = |error| SocketError::Io { path: path.to_owned(), error };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()).map(Path::to_owned);
        if let Some(folder) = &folder {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
        }
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(SocketError::Taken(path.to_owned()));
            }
            tracing::info!("replacing {}, which nobody answers on", path.display());
            fs::remove_file(path).map_err(fail)?;
        }
        // Bound under a name that only we know, and given its own name when its mode is right, so that nobody else can
        // connect in between.
        let hidden = path.with_extension(format!("{}.new", std::process::id()));
        let listener = UnixListener::bind(&hidden).map_err(fail)?;
        let ready = fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&hidden, path))
            .and_then(|()| fs::symlink_metadata(path));
        match ready {
            Ok(m) => Ok(ControlSocket { listener, path: path.to_owned(), inode: m.ino(), folder }),
            Err(e) => {
                let _ = fs::remove_file(&hidden);
                Err(fail(e))
            }
        }
    }

    /// The listener, for the server.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A successor may have replaced the file already.
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let p = std::env::temp_dir().join(format!("smpnet-socket-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&p);
        p
    }

    #[test]
    fn the_socket_is_the_users_alone_and_leaves_nothing_behind() {
        let folder = folder("mode");
        let path = folder.join("s.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        drop(socket);
        assert!(!folder.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_and_a_stale_socket_replaced() {
        let folder = folder("second");
        let path = folder.join("s.sock");
        let _first = ControlSocket::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::Taken(_))));
        // A process that was killed leaves a socket that refuses connections.
        let stale = folder.join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        drop(ControlSocket::bind(&stale).unwrap());
        assert!(!stale.exists());
    }

    #[test]
    fn a_file_in_its_place_is_left_alone() {
        let folder = folder("file");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
