//! `smpnet bpf inject`.

use super::super::context::{Context, Failure, Output, Read};
use clap::Args;
use pcap_file::{DataLink, pcap::PcapReader, pcapng::PcapNgReader};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Packets of one request.
const BATCH: usize = 256;

/// Send packets out of an interface, or through a listener and its write filter
#[derive(Debug, Args)]
#[command(after_help = "\
A packet is a complete frame (an IP packet, on an interface without Ethernet). It passes the filters of the Ethernet
layer and goes to the driver. With --in it is taken as if the interface had received it.

Examples:
  smpnet bpf inject -i lan0 --packet '020000000002 020000000001 0800 4500001c...'
  smpnet bpf inject -i lan0 --pcap frames.pcapng --filter 'udp'
  smpnet bpf inject --listener 3 --pcap frames.pcap")]
pub struct InjectArgs {
    /// The interface
    #[arg(short = 'i', long = "interface", value_name = "IF", required_unless_present = "listener")]
    interface: Option<String>,
    /// A listener: its interface, and what its write filter accepts
    #[arg(short = 'l', long, value_name = "ID", conflicts_with_all = ["interface", "filter"])]
    listener: Option<u64>,
    /// A packet in hex; blanks and colons are left out
    #[arg(long, value_name = "HEX", required_unless_present = "pcap")]
    packet: Vec<String>,
    /// The packets of a capture file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Send only packets that match (pcap-filter(7))
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// As if received
    #[arg(long = "in")]
    received: bool,
}

pub fn run(cx: &Context, args: &InjectArgs) -> Result<Output, Failure> {
    let mut packets = args.packet.clone();
    if let Some(file) = &args.pcap {
        packets.extend(read(file)?);
    }
    let mut total = [0u64; 3];
    for part in packets.chunks(BATCH) {
        let mut body = json!({"packets": part, "direction": if args.received { "in" } else { "out" }});
        if let Some(interface) = &args.interface {
            body["interface"] = interface.clone().into();
        }
        if let Some(listener) = args.listener {
            body["listener"] = listener.into();
        }
        if let Some(filter) = &args.filter {
            body["write_filter"] = filter.clone().into();
        }
        let done = cx.client.post("/v1/bpf/inject", &body).map_err(|e| {
            let failure = Failure::from(e);
            let note = if total[0] > 0 { format!("; {} packets before were sent", total[0]) } else { String::new() };
            Failure { error: format!("{}{note}", failure.error), ..failure }
        })?;
        for (t, key) in total.iter_mut().zip(["sent", "refused", "failed"]) {
            *t += done.number(key);
        }
    }
    let [sent, refused, failed] = total;
    let text = format!("{sent} sent, {refused} refused by the filter, {failed} failed");
    Ok(Output::new(text, json!({"sent": sent, "refused": refused, "failed": failed})).code(u8::from(failed > 0)))
}

/// The packets of a capture file in hex.
fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| wrong(&e))?;
    let hex = |data: &[u8]| data.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let known = |link: DataLink| {
        matches!(link, DataLink::ETHERNET | DataLink::RAW | DataLink::IPV4 | DataLink::IPV6)
            .then_some(())
            .ok_or_else(|| wrong(&format!("link type {} cannot be sent; Ethernet and raw IP can", u32::from(link))))
    };
    let mut packets = Vec::new();
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        let mut reader = PcapNgReader::new(&bytes[..]).map_err(|e| wrong(&e))?;
        while let Some(block) = reader.next_block() {
            let block = block.map_err(|e| wrong(&e))?.into_owned();
            if let pcap_file::pcapng::Block::InterfaceDescription(i) = &block {
                known(i.linktype)?;
            }
            if let pcap_file::pcapng::Block::EnhancedPacket(p) = &block {
                packets.push(hex(&p.data));
            }
        }
    } else {
        let mut reader = PcapReader::new(&bytes[..]).map_err(|e| wrong(&e))?;
        known(reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            packets.push(hex(&packet.map_err(|e| wrong(&e))?.data));
        }
    }
    Ok(packets)
}
