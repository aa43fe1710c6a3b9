//! Floods and streams over a way, and what arrives.

use super::scene::{Between, Scene, Way};
use serde_json::Value;
use smpnet_lab::{LabError, Offloads, Result, UdpSender};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// First port of the floods.
const PORT: u16 = 4000;
/// Flows of each sender.
const FLOWS: u16 = 4;
/// UDP payloads of frames of 64 and 1,500 bytes, FCS included: less 4 of FCS, 14 of Ethernet, 20 of IPv4, 8 of UDP.
const SMALL: usize = 64 - 46;
const LARGE: usize = 1500 - 46;
/// Until a flood is as it will stay.
const RAMP: Duration = Duration::from_millis(300);

/// What arrived over a way.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Thousands of UDP datagrams a second, of frames of 64 bytes.
    pub small_kpps: f64,
    /// Of frames of 1,500 bytes.
    pub large_kpps: f64,
    /// TCP goodput in Gbit/s over links with all offloads: segments of up to 64 KiB travel whole, where the port lets them (AF_XDP
    /// does not: a veth whose other end has an XDP program cuts them).
    pub tcp_whole: std::result::Result<f64, String>,
    /// The same over links without any: each packet is cut to the MTU before it comes to the router.
    pub tcp_cut: std::result::Result<f64, String>,
    /// Processors that the router's process kept busy while the links had offloads, on average; a kernel's are not seen.
    pub router_cpus: f64,
}

/// Puts all loads on a way, one after the other.
///
/// # Errors
/// When hosts or links fail.
pub fn measure(scene: &mut Scene, way: Way, seconds: u32, senders: u16) -> Result<Measured> {
    let mut m = scene.through(way, Offloads::ALL, |way| {
        let cpu = || way.daemon.map_or(Duration::ZERO, |d| d.cpu_time());
        let (before, start) = (cpu(), Instant::now());
        let small_kpps = flood(way, SMALL, seconds, senders)?;
        let large_kpps = flood(way, LARGE, seconds, senders)?;
        let tcp_whole = iperf(way, seconds);
        let router_cpus = (cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        Ok(Measured { small_kpps, large_kpps, tcp_whole, tcp_cut: Err(String::new()), router_cpus })
    })?;
    m.tcp_cut = scene.through(way, Offloads::NONE, |way| Ok(iperf(way, seconds)))?;
    Ok(m)
}

/// Sends as fast as the sender can; returns how many datagrams came to the receiver's sockets, in thousands a second. Nobody
/// reads these, so that the receiver costs as little as possible: what arrives beyond their buffers is counted and dropped.
fn flood(way: &Between<'_>, payload: usize, seconds: u32, senders: u16) -> Result<f64> {
    let _sockets = way.to.run(|| sockets(way, senders * FLOWS))??;
    let arrived = || -> Result<u64> { Ok(way.to.snmp("Udp", "RcvbufErrors")? + way.to.snmp("Udp", "InDatagrams")?) };
    let floods = (0..senders)
        .map(|s| UdpSender::new(way.address, PORT + s * FLOWS).flows(FLOWS).payload(payload).start(way.from))
        .collect::<Result<Vec<_>>>()?;
    std::thread::sleep(RAMP);
    let (before, start) = (arrived()?, Instant::now());
    std::thread::sleep(Duration::from_secs(u64::from(seconds)));
    let (after, took) = (arrived()?, start.elapsed());
    for flood in floods {
        flood.stop()?;
    }
    Ok((after - before) as f64 / took.as_secs_f64() / 1e3)
}

/// Sockets with the least of buffers.
fn sockets(way: &Between<'_>, n: u16) -> Result<Vec<UdpSocket>> {
    let failed = |what: &'static str| move |source| LabError::Io { what: what.into(), source };
    (0..n)
        .map(|i| {
            let socket = UdpSocket::bind((way.address, PORT + i)).map_err(failed("binding a UDP port"))?;
            let least = 0i32;
            // SAFETY: the option is four bytes at `least`, which lives through the call.
            let rc = unsafe {
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const least).cast(), 4)
            };
            if rc == 0 { Ok(socket) } else { Err(failed("SO_RCVBUF")(std::io::Error::last_os_error())) }
        })
        .collect()
}

/// One TCP stream by iperf3, after a second that does not count; Gbit/s that the receiver saw, or why there are none.
fn iperf(way: &Between<'_>, seconds: u32) -> std::result::Result<f64, String> {
    let address = way.address.to_string();
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--bind", &address]).stdin(Stdio::null()).stdout(Stdio::null());
    server.stderr(Stdio::null());
    way.to.ns().attach(&mut server);
    let mut server =
        server.spawn().map_err(|e| format!("iperf3 cannot be started ({e}); Debian: apt-get install iperf3"))?;
    let answer = client(way, &address, seconds);
    // It has ended by itself, unless the client never came.
    let _ = server.kill();
    let _ = server.wait();
    answer
}

fn client(way: &Between<'_>, address: &str, seconds: u32) -> std::result::Result<f64, String> {
    let mut error = String::new();
    // The server needs a moment until it listens.
    for _ in 0..20 {
        let mut client = Command::new("iperf3");
        client.args(["--client", address, "--omit", "1", "--time", &seconds.to_string(), "--json"]);
        way.from.ns().attach(&mut client);
        let out = client.stdin(Stdio::null()).output().map_err(|e| format!("iperf3: {e}"))?;
        let said: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("iperf3 wrote no JSON: {e}"))?;
        match said["end"]["sum_received"]["bits_per_second"].as_f64() {
            Some(bits) => return Ok(bits / 1e9),
            None => error = said["error"].as_str().unwrap_or("no result").to_owned(),
        }
        if !error.contains("refused") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("iperf3: {error}"))
}
