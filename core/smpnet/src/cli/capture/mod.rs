//! `smpnet bpf capture`, `list`, `setf`, `setwf`, `setif`, `lock`, `close` and `inject`; `smpnet extcap`.

pub mod extcap;
mod files;
mod inject;
mod listeners;
mod summary;

use super::context::{Context, Failure, Output};
use crate::capture::blocks::Splitter;
use clap::{Args, Subcommand};
use files::Files;
use serde_json::{Value, json};
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
packets. Ctrl-C ends it and writes the statistics. Packets of interfaces without Ethernet are shown on `any` with an
Ethernet header of zeros.

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
    done?;
    let [received, _, lost, _] = totals.counts;
    let json = json!({"captured": totals.packets, "received": received, "dropped": lost});
    // stdout may be the capture itself.
    if cx.json {
        if args.write.as_ref().is_none_or(|w| w.as_os_str() != "-") {
            return Ok(Output::new("", json));
        }
    } else {
        eprintln!("{} packets captured\n{received} packets received by filter\n{lost} packets dropped", totals.packets);
    }
    Ok(Output::printed())
}

/// Carries a stream from the daemon into the sink.
fn take(cx: &Context, request: &Value, sink: &mut Sink, totals: &mut Totals) -> Result<(), Failure> {
    let mut splitter = Splitter::default();
    let mut failed = None;
    cx.client.capture(request, |bytes| {
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
    failed.map_or(Ok(()), Err)
}

impl Sink {
    fn flush(&mut self) -> Result<bool, Failure> {
        match self {
            Sink::Files(files) => files.flush(),
            Sink::Lines(printer) => printer.flush(),
        }
    }
}
