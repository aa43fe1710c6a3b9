//! `smpnet extcap`: Wireshark's way to capture from what is no interface of the system.
//!
//! Wireshark runs the programs of its extcap folders with the options below, reads sentences such as
//! `interface {value=...}{display=...}`, and then a pcapng stream from a FIFO (doc/README.extcap of Wireshark).

use super::super::context::{Context, Failure, Output, Read};
use super::{CaptureArgs, Sink, Totals, ended, files::Files, take};
use crate::capture::Expression;
use clap::Args;
use serde_json::{Value, json};
use smpnet_stack::Link;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the names of our interfaces begin with in Wireshark.
const PREFIX: &str = "smpnet_";
/// The launcher's file name.
const LAUNCHER: &str = "smpnet";

/// Capture in Wireshark: the extcap program of smpnet
#[derive(Debug, Args)]
#[command(after_help = "\
Wireshark and tshark then list smpnet_IF for every interface, and smpnet_any.

Examples:
  smpnet extcap --install
  tshark -i smpnet_lan0 -f 'udp port 53'")]
pub struct ExtcapArgs {
    /// Put a launcher into Wireshark's folder for extcap programs, so that it finds smpnet
    #[arg(long)]
    install: bool,
    /// With --install: the folder [default: where Wireshark looks: $WIRESHARK_EXTCAP_DIR, the user's own folder, the system's]
    #[arg(long = "to", visible_alias = "folder", value_name = "FOLDER", requires = "install")]
    folder: Option<PathBuf>,
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,
    /// Wireshark's version
    #[arg(long, value_name = "VERSION", num_args = 0..=1)]
    extcap_version: Option<Option<String>>,
    /// The interface
    #[arg(long, value_name = "IF")]
    extcap_interface: Option<String>,
    /// List the link type of an interface
    #[arg(long)]
    extcap_dlts: bool,
    /// List the options of an interface
    #[arg(long)]
    extcap_config: bool,
    /// Check or use a capture filter
    #[arg(long, value_name = "EXPR")]
    extcap_capture_filter: Option<String>,
    /// Capture
    #[arg(long)]
    capture: bool,
    /// With --capture: where to
    #[arg(long, value_name = "FILE")]
    fifo: Option<PathBuf>,
    /// With --capture: which packets
    #[arg(long = "dir", value_name = "DIR", default_value = "both", value_parser = ["in", "out", "both"])]
    direction: String,
    /// With --capture: what is dropped, instead of what passes
    #[arg(long)]
    drops: bool,
    /// With --capture: frames to other stations too
    #[arg(long)]
    promisc: bool,
    /// With --capture: keep at most so many bytes of a packet
    #[arg(long, value_name = "SNAPLEN", default_value_t = 0, hide_default_value = true)]
    snaplen: u32,
}

/// Runs it.
pub fn run(cx: &Context, args: &ExtcapArgs) -> Result<Output, Failure> {
    if args.install {
        return install(cx, args.folder.as_deref());
    }
    if args.extcap_interfaces {
        let (lines, json) = interfaces(cx);
        return Ok(Output::new(lines, json));
    }
    let Some(value) = &args.extcap_interface else {
        return Err(Failure::usage("nothing to do; `smpnet extcap --install` puts smpnet into Wireshark's list"));
    };
    let interface = value.strip_prefix(PREFIX).unwrap_or(value);
    if args.extcap_config {
        return Ok(Output::new(CONFIG, json!({"config": CONFIG})));
    }
    let link = link(cx, interface)?;
    if args.extcap_dlts {
        let line = match link {
            Link::Ether => "dlt {number=1}{name=EN10MB}{display=Ethernet}",
            Link::Raw => "dlt {number=101}{name=RAW}{display=Raw IP}",
        };
        return Ok(Output::new(line, json!({"dlt": line})));
    }
    let filter = args.extcap_capture_filter.as_deref().unwrap_or("").trim();
    if !args.capture {
        // Wireshark asks whether a filter is good: what is printed is what is wrong with it.
        let wrong = (!filter.is_empty()).then(|| Expression::compile(filter, link).err()).flatten();
        return Ok(match wrong {
            None => Output::silent(json!({"valid": true})),
            Some(e) => Output::new(e.to_string(), json!({"valid": false, "error": e.to_string()})).code(1),
        });
    }
    let fifo = args.fifo.as_deref().ok_or_else(|| Failure::usage("--capture needs --fifo FILE"))?;
    capture(cx, args, interface, filter, fifo)
}

/// What Wireshark may ask of a capture.
const CONFIG: &str = "\
arg {number=0}{call=--dir}{display=Direction}{type=selector}{tooltip=Which packets to capture}
value {arg=0}{value=both}{display=In and out}{default=true}
value {arg=0}{value=in}{display=In}{default=false}
value {arg=0}{value=out}{display=Out}{default=false}
arg {number=1}{call=--drops}{display=Dropped packets}{type=boolflag}{tooltip=Capture what smpnet drops, and why, instead of what passes}
arg {number=2}{call=--snaplen}{display=Snapshot length}{type=unsigned}{range=0,262144}{default=0}{tooltip=Most bytes of a packet; 0 for all}
arg {number=3}{call=--promisc}{display=Promiscuous}{type=boolflag}{tooltip=Frames to other stations too}";

/// Every interface; none without a daemon, which is no error to Wireshark.
fn interfaces(cx: &Context) -> (String, Value) {
    let mut lines = format!("extcap {{version={}}}{{display=smpnet}}\n", env!("CARGO_PKG_VERSION"));
    let Ok(all) = cx.client.get("/v1/interfaces") else { return (lines, json!([])) };
    let mut names = Vec::new();
    for i in all.items() {
        let (name, note) = (i.text("name"), i.text("description"));
        let note = if note.is_empty() { String::new() } else { format!(" ({})", plain(note)) };
        lines.push_str(&format!("interface {{value={PREFIX}{name}}}{{display=smpnet {name}{note}}}\n"));
        names.push(format!("{PREFIX}{name}"));
    }
    lines.push_str(&format!("interface {{value={PREFIX}any}}{{display=smpnet, all interfaces}}\n"));
    names.push(format!("{PREFIX}any"));
    (lines, json!(names))
}

/// Text without what ends a value in a sentence.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '{' | '}') && !c.is_control()).collect()
}

fn link(cx: &Context, interface: &str) -> Result<Link, Failure> {
    if interface == "any" {
        return Ok(Link::Ether);
    }
    let status = cx.client.get(&format!("/v1/interfaces/{}", crate::client::encode(interface)))?;
    Ok(if status.text("medium") == "ether" { Link::Ether } else { Link::Raw })
}

fn capture(cx: &Context, args: &ExtcapArgs, interface: &str, filter: &str, fifo: &Path) -> Result<Output, Failure> {
    let request = CaptureArgs {
        interface: interface.to_owned(),
        write: None,
        count: 0,
        snaplen: args.snaplen,
        direction: args.direction.clone(),
        ring: None,
        drops: args.drops,
        promisc: args.promisc,
        buffer: None,
        write_filter: None,
        lock: false,
        expr: vec![filter.to_owned()],
    };
    let mut sink = Sink::Files(Files::create(fifo, None)?);
    let end = take(cx, &request.request(), &mut sink, &mut Totals::default())?;
    ended(&end, interface)?;
    Ok(Output::printed())
}

/// Writes the launcher.
fn install(cx: &Context, folder: Option<&Path>) -> Result<Output, Failure> {
    let folder = match folder {
        Some(f) => f.to_owned(),
        None => default_folder().ok_or_else(|| Failure::new("there is no $HOME; name a folder with --to"))?,
    };
    let wrong = |e: std::io::Error| {
        let hint = "name another folder with --to, and give it to Wireshark as WIRESHARK_EXTCAP_DIR";
        Failure::new(format!("{}: {e}", folder.display())).hint(hint.to_owned())
    };
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("cannot tell where smpnet is: {e}")))?;
    let socket = match &cx.socket {
        Some(s) => format!(" --socket {}", quoted(&std::path::absolute(s).unwrap_or_else(|_| s.clone()))),
        None => String::new(),
    };
    let script = format!(
        "#!/bin/sh\n# Made by `smpnet extcap --install`: shows smpnet's interfaces in Wireshark.\nexec {} --log error{socket} extcap \"$@\"\n",
        quoted(&program)
    );
    fs::create_dir_all(&folder).map_err(wrong)?;
    let file = folder.join(LAUNCHER);
    if fs::symlink_metadata(&file).is_ok_and(|m| !m.is_file()) {
        return Err(Failure::new(format!("{} is there and is not a file; move it away", file.display())));
    }
    // Written beside it and renamed, so that Wireshark never runs half of it.
    let new = folder.join(format!(".{LAUNCHER}.{}", std::process::id()));
    fs::write(&new, script)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&new, &file))
        .inspect_err(|_| _ = fs::remove_file(&new))
        .map_err(wrong)?;
    let text = format!("{}: Wireshark shows smpnet's interfaces from its next start on", file.display());
    Ok(Output::new(text, json!({"file": file})))
}

/// Where this machine's Wireshark looks for such programs. Those before 4.2 know no folder of the user's own.
fn default_folder() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("WIRESHARK_EXTCAP_DIR").filter(|d| !d.is_empty()) {
        return Some(dir.into());
    }
    if let Ok(out) = std::process::Command::new("tshark").args(["-G", "folders"]).output() {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let of = |what: &str| text.lines().find_map(|l| l.strip_prefix(what)).map(|p| PathBuf::from(p.trim()));
        if let Some(folder) = of("Personal Extcap path:").or_else(|| of("Extcap path:")) {
            return Some(folder);
        }
    }
    let home = PathBuf::from(std::env::var_os("HOME").filter(|h| !h.is_empty())?);
    Some(home.join(".local/lib/wireshark/extcap"))
}

/// A path as the shell takes it literally.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_is_one_word_to_the_shell() {
        let path = Path::new("/tmp/it's a $dir");
        let out = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("printf %s {}", quoted(path))])
            .output()
            .unwrap();
        assert_eq!(out.stdout, path.display().to_string().into_bytes());
        assert_eq!(plain("a{b}\nc"), "abc");
    }
}
