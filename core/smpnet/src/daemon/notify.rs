//! Telling systemd how it goes (sd_notify(3)).

use std::{
    io,
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr, unix::net::UnixDatagram},
    sync::Arc,
    time::Duration,
};

/// The service manager that started this process, if one wants to know.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    socket: Option<Arc<UnixDatagram>>,
}

impl Notify {
    /// Takes the socket from `NOTIFY_SOCKET`.
    pub fn from_environment() -> Notify {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").and_then(|p| p.into_string().ok()) else {
            return Notify::default();
        };
        match connect(&path) {
            Ok(socket) => Notify { socket: Some(Arc::new(socket)) },
            Err(e) => {
                tracing::warn!("NOTIFY_SOCKET={path}: {e}; the service manager is not told anything");
                Notify::default()
            }
        }
    }

    /// Sends assignments such as `READY=1`, one a line. A manager that does not listen is no error.
    pub fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }

    /// The reload begins; systemd wants the time of it, to tell it from an earlier one.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", smpnet_runtime::now_ns() / 1000));
    }
}

/// How often the watchdog must be told that all is well: half the time it allows.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|us| *us > 0).map(|us| Duration::from_micros(us / 2))
}

fn connect(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_reaches_the_manager() {
        let name = format!("smpnet-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notify = Notify { socket: Some(Arc::new(connect(&format!("@{name}")).unwrap())) };
        notify.send("READY=1");
        let mut buffer = [0; 64];
        let n = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
    }

    #[test]
    fn without_a_manager_nothing_is_sent() {
        Notify::default().send("READY=1");
    }
}
