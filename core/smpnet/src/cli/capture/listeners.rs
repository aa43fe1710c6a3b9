//! Showing and changing listeners.

use super::super::{
    context::{Context, Failure, Output, Read},
    table::table,
};
use clap::Args;
use serde_json::{Value, json};

/// Show who listens to packets, with what every CPU counted
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smpnet bpf list")]
pub struct ListArgs {}

/// Replace the filter of a running listener: no packet is missed or seen twice
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smpnet bpf setf 3 'udp port 53'")]
pub struct SetFilterArgs {
    /// Number of the listener (smpnet bpf list)
    id: u64,
    /// The filter (pcap-filter(7)); without one it hears everything
    expr: Vec<String>,
}

/// Replace what may be sent through a listener
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smpnet bpf setwf 3 'udp dst port 4000'")]
pub struct SetWriteFilterArgs {
    /// Number of the listener (smpnet bpf list)
    id: u64,
    /// The filter (pcap-filter(7)); without one everything may be sent
    expr: Vec<String>,
}

/// Turn a running listener to another interface
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smpnet bpf setif 3 wan0")]
pub struct SetInterfaceArgs {
    /// Number of the listener (smpnet bpf list)
    id: u64,
    /// The interface, or any
    interface: String,
}

/// Lock a listener: nobody can change its filter, write filter and interface any more
#[derive(Debug, Args)]
#[command(after_help = "\
A listener that could not send packets before never will. There is no way back but to close it.

Example:
  smpnet bpf lock 3")]
pub struct LockArgs {
    /// Number of the listener (smpnet bpf list)
    id: u64,
}

/// End a listener; its capture ends with its statistics
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smpnet bpf close 3")]
pub struct CloseArgs {
    /// Number of the listener (smpnet bpf list)
    id: u64,
}

pub fn list(cx: &Context, _: &ListArgs) -> Result<Output, Failure> {
    let all = cx.client.get("/v1/bpf/listeners")?;
    let mut rows = Vec::new();
    for l in all.items() {
        let mut flags = Vec::new();
        flags.push(if l.flag("drops") { "drops" } else { l.text("direction") });
        flags.extend(
            [("locked", "locked"), ("injects", "injects"), ("promisc", "promisc")]
                .iter()
                .filter(|(k, _)| l.flag(k))
                .map(|(_, w)| *w),
        );
        let head = [
            l.number("id").to_string(),
            format!("{}/{}", l.number("pid"), l.number("uid")),
            l.text("interface").to_owned(),
            flags.join(","),
            l.number("snaplen").to_string(),
        ];
        for (n, cpu) in l.list("cpus").iter().enumerate() {
            let mut row: Vec<String> = if n == 0 { head.to_vec() } else { vec![String::new(); head.len()] };
            row.extend(["worker", "received", "matched", "dropped"].map(|k| cpu.number(k).to_string()));
            let fill = 100 * cpu.number("ring_used") / cpu.number("ring_size").max(1);
            row.push(format!("{fill}%"));
            row.push(if n == 0 { filters(l) } else { String::new() });
            rows.push(row);
        }
    }
    let head =
        ["Id", "Pid/Uid", "Interface", "Hears", "Snaplen", "CPU", "Received", "Matched", "Dropped", "Ring", "Filter"];
    let text = table(&head, &rows);
    Ok(Output::new(text, all))
}

fn filters(l: &Value) -> String {
    let read = if l.text("filter").is_empty() { "(everything)" } else { l.text("filter") };
    match l.text("write_filter") {
        "" => read.to_owned(),
        write => format!("{read}; sends: {write}"),
    }
}

fn patch(cx: &Context, id: u64, change: Value) -> Result<Output, Failure> {
    Ok(Output::silent(cx.client.patch(&format!("/v1/bpf/listeners/{id}"), &change)?))
}

pub fn set_filter(cx: &Context, a: &SetFilterArgs) -> Result<Output, Failure> {
    patch(cx, a.id, json!({"filter": a.expr.join(" ")}))
}

pub fn set_write_filter(cx: &Context, a: &SetWriteFilterArgs) -> Result<Output, Failure> {
    patch(cx, a.id, json!({"write_filter": a.expr.join(" ")}))
}

pub fn set_interface(cx: &Context, a: &SetInterfaceArgs) -> Result<Output, Failure> {
    patch(cx, a.id, json!({"interface": a.interface}))
}

pub fn lock(cx: &Context, a: &LockArgs) -> Result<Output, Failure> {
    patch(cx, a.id, json!({"lock": true}))
}

pub fn close(cx: &Context, a: &CloseArgs) -> Result<Output, Failure> {
    Ok(Output::silent(cx.client.delete(&format!("/v1/bpf/listeners/{}", a.id))?))
}
