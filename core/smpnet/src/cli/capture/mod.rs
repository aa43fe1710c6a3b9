//! `smpnet bpf capture`, `list`, `setf`, `setwf`, `setif`, `lock`, `close` and `inject`; `smpnet extcap`.

pub mod extcap;
mod files;
mod inject;
mod listeners;
mod summary;

use super::context::{Context, Failure, Output};
use crate::capture::blocks::Splitter;
use crate::client::CaptureEnd;
use clap::{Args, Subcommand};
use files::Files;
use serde_json::{Value, json};
use smpnet_stack::Ended;
use std::path::PathBuf;
use summary::Printer;

/// What `smpnet bpf` does with a daemon.
#[derive(Debug, Subcommand)]
pub enum CaptureCommand {
    Capture(CaptureArgs),
    List(listeners::ListArgs),
    Setf(listeners::SetFilterArgs),
    Setwf(listeners::SetWriteFilterArgs),
    Setif(listeners::SetInterfaceArgs),
    Lock(listeners::LockArgs),
    Close(listeners::CloseArgs),
    Inject(inject::InjectArgs),
}

/// Capture packets of an interface, as pcapng
#[derive(Debug, Args)]
#[command(after_help = "\
Without -w a line is printed for each packet. A capture that cannot keep up loses copies, which it counts, and never
packets. Ctrl-C ends it and writes the statistics; when the interface is removed (exit code 1) or the daemon stops (exit
code 3), the capture ends and says so. Packets of interfaces without Ethernet are shown on `any` with an Ethernet header
of zeros. The packets of one burst, up to 64, share one time stamp: that of the worker's visit to the tap.

Examples:
  smpnet bpf capture -i lan0 -w lan0.pcapng 'tcp port 80'
  smpnet bpf capture -i any -w - | tcpdump -r -
  smpnet bpf capture -i any --drops
  smpnet bpf capture -i wan0 -w wan0.pcapng --ring 10:100M")]
pub struct CaptureArgs {
    /// The interface, or any
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interface: String,
    /// Write pcapng to FILE; - for stdout
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after N packets
    #[arg(short = 'c', long = "count", value_name = "N", default_value_t = 0, hide_default_value = true)]
    count: u64,
    /// Keep at most so many bytes of a packet
    #[arg(short = 's', long = "snaplen", value_name = "SNAPLEN", default_value_t = 0, hide_default_value = true)]
    snaplen: u32,
    /// Which packets: in, out or both
    #[arg(long = "dir", value_name = "DIR", default_value = "both", value_parser = ["in", "out", "both"])]
    direction: String,
    /// Write a ring of FILES files of SIZE bytes (K, M, G): the oldest goes when a new one begins
    #[arg(long, value_name = "FILES:SIZE", requires = "write")]
    ring: Option<files::Ring>,
    /// Capture what is dropped, with the reason and the filter, instead of what passes
    #[arg(long)]
    drops: bool,
    /// Keep the interface promiscuous meanwhile: hear frames to other stations too
    #[arg(long)]
    promisc: bool,
    /// Buffer on each CPU, in bytes (K, M)
    #[arg(short = 'B', long = "buffer", value_name = "SIZE", value_parser = files::size)]
    buffer: Option<u64>,
    /// Let packets be sent through this listener (bpf inject --listener) that match; '' for all
    #[arg(long, value_name = "EXPR")]
    write_filter: Option<String>,
    /// Nobody can change filter, write filter and interface of this listener once it runs
    #[arg(long)]
    lock: bool,
    /// The filter (pcap-filter(7))
    expr: Vec<String>,
}

impl CaptureArgs {
    /// The request to the daemon.
    fn request(&self) -> Value {
        let mut body = json!({
            "interface": self.interface,
            "filter": self.expr.join(" "),
            "direction": self.direction,
            "drops": self.drops,
            "promisc": self.promisc,
            "snaplen": self.snaplen,
            "count": self.count,
            "buffer": self.buffer.unwrap_or(0),
            "lock": self.lock,
        });
        if let Some(filter) = &self.write_filter {
            body["write_filter"] = filter.clone().into();
        }
        body
    }
}

/// Runs one of them.
pub fn run(cx: &Context, command: &CaptureCommand) -> Result<Output, Failure> {
    match command {
        CaptureCommand::Capture(a) => capture(cx, a),
        CaptureCommand::List(a) => listeners::list(cx, a),
        CaptureCommand::Setf(a) => listeners::set_filter(cx, a),
        CaptureCommand::Setwf(a) => listeners::set_write_filter(cx, a),
        CaptureCommand::Setif(a) => listeners::set_interface(cx, a),
        CaptureCommand::Lock(a) => listeners::lock(cx, a),
        CaptureCommand::Close(a) => listeners::close(cx, a),
        CaptureCommand::Inject(a) => inject::run(cx, a),
    }
}

/// Where a capture goes.
enum Sink {
    Files(Files),
    Lines(Printer),
}

/// What a capture came to.
#[derive(Default)]
struct Totals {
    packets: u64,
    /// Received, accepted, lost, handed on.
    counts: [u64; 4],
}

impl Totals {
    fn json(&self) -> Value {
        let [received, _, lost, _] = self.counts;
        json!({"captured": self.packets, "received": received, "dropped": lost})
    }
}

fn capture(cx: &Context, args: &CaptureArgs) -> Result<Output, Failure> {
    let mut sink = match &args.write {
        Some(file) => Sink::Files(Files::create(file, args.ring)?),
        None => Sink::Lines(Printer::new(cx.json)),
    };
    let mut totals = Totals::default();
    let done = take(cx, &args.request(), &mut sink, &mut totals);
    if let (Err(_), Sink::Files(files)) = (&done, &sink) {
        files.remove_empty();
    }
    let end = done?;
    let json = totals.json();
    // stdout may be the capture itself.
    let stdout = args.write.as_ref().is_some_and(|w| w.as_os_str() == "-");
    if !cx.json {
        let ([received, _, lost, _], packets) = (totals.counts, totals.packets);
        eprintln!("{packets} packets captured\n{received} packets received by filter\n{lost} packets dropped");
    }
    match ended(&end, &args.interface) {
        Ok(Some(line)) if !cx.json => eprintln!("{line}"),
        Ok(_) => {}
        Err(mut failure) => {
            failure.body = json;
            failure.body["error"] = failure.error.clone().into();
            if cx.json && stdout {
                eprintln!("smpnet: {}", failure.error);
                return Ok(Output::printed().code(failure.code));
            }
            return Err(failure);
        }
    }
    Ok(if cx.json && !stdout { Output::new("", json) } else { Output::printed() })
}

/// One line on the end of a capture that its client did not bring about; an error unless somebody asked for it.
fn ended(end: &CaptureEnd, interface: &str) -> Result<Option<String>, Failure> {
    // As for a daemon that is not there.
    let gone = |error: String| Failure { code: 3, ..Failure::new(error) };
    match end {
        CaptureEnd::Wanted => Ok(None),
        CaptureEnd::Ended(Ended::Asked) => Ok(Some("the capture was ended by `smpnet bpf close`".into())),
        CaptureEnd::Ended(Ended::InterfaceGone) => {
            // It may have been turned to another one since (`bpf setif`).
            let error = format!("the capture that began on {interface} ended because its interface was removed");
            Err(Failure::new(error))
        }
        CaptureEnd::Ended(Ended::Stopped) => Err(gone("the capture ended because the daemon stopped".into())),
        CaptureEnd::Broken(reason) => Err(gone(format!(
            "the capture broke off because the daemon is gone ({reason}); the packets that came are whole, the statistics \
             are missing"
        ))),
    }
}

/// Carries a stream from the daemon into the sink.
fn take(cx: &Context, request: &Value, sink: &mut Sink, totals: &mut Totals) -> Result<CaptureEnd, Failure> {
    let mut splitter = Splitter::default();
    let mut failed = None;
    let end = cx.client.capture(request, |bytes| {
        splitter.feed(bytes);
        loop {
            match splitter.next_block() {
                Ok(Some(block)) => {
                    let packet = block.packet();
                    totals.packets += u64::from(packet.is_some());
                    if let Some(counts) = block.statistics() {
                        totals.counts.iter_mut().zip(counts).for_each(|(t, c)| *t += c);
                    }
                    let written = match sink {
                        Sink::Files(files) => files.block(&block),
                        Sink::Lines(printer) => printer.block(&block),
                    };
                    match written {
                        Ok(true) => {}
                        Ok(false) => return false,
                        Err(e) => {
                            failed = Some(e);
                            return false;
                        }
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    failed = Some(Failure::new(e));
                    return false;
                }
            }
        }
        // What came is seen at once: a pipe's reader waits for it.
        match sink.flush() {
            Ok(goes_on) => goes_on,
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    failed.map_or(Ok(end), Err)
}

impl Sink {
    fn flush(&mut self) -> Result<bool, Failure> {
        match self {
            Sink::Files(files) => files.flush(),
            Sink::Lines(printer) => printer.flush(),
        }
    }
}
