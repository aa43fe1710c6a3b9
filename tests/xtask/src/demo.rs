//! `cargo xtask demo`: two hosts, smpnet between them, its filter swapped under load.

use serde_json::{Value, json};
use smpnet_lab::{Hop, Lab, LabError, PingReport, Privilege, TcpReport, TwoHosts, on_interrupt, traceroute};

use crate::account::Books;
use crate::args::Args;
use crate::progress::Progress;
use crate::scene::{BlockStep, LoadReport, Scene, Spread};
use crate::table::{Table, micros, thousands};
use crate::{build, lookaround};

const SWAPS: u32 = 200;

/// All that the demo found.
struct Findings {
    privilege: Privilege,
    ping: PingReport,
    hops: Vec<Hop>,
    load: LoadReport,
    tcp: TcpReport,
    tcp_swaps: u32,
    block: [BlockStep; 3],
    books: Books,
    seconds: f64,
}

/// Builds, shows, prints. True when everything was as it should be.
pub fn run(args: &Args) -> Result<bool, String> {
    if !args.no_build {
        eprintln!("building smpnet and its plugins (release)");
        build::program()?;
    }
    match show(args) {
        Ok(ok) => Ok(ok),
        Err(LabError::Forbidden(text)) if args.json => {
            println!("{}", json!({"ok": false, "skipped": text}));
            Ok(false)
        }
        Err(e) => Err(e.to_string()),
    }
}

fn show(args: &Args) -> Result<bool, LabError> {
    let lab = Lab::enter()?;
    on_interrupt(|| eprintln!("\ninterrupted; everything is taken down"))?;
    let mut progress = Progress::new();
    progress.say("two hosts, a router between them, smpnet in it");
    let mut scene = Scene::start(lab, args.workers)?;
    let found = find(args, lab, &mut scene, &mut progress);
    let f =
        found.map_err(|e| LabError::Failed(format!("{e}\nthe end of smpnet's log:\n{}", scene.daemon.log_tail(20))))?;
    let faults = f.faults();
    if args.json {
        println!("{}", f.json(&faults));
    } else {
        println!("\n{}", f.table());
        faults.iter().for_each(|t| println!("  WRONG: {t}"));
        println!("  {}", if faults.is_empty() { "everything is as it should be" } else { "the demo failed" });
    }
    if args.keep {
        lookaround::wait(&scene, lab.privilege());
    }
    scene.daemon.stop()?;
    Ok(faults.is_empty())
}

/// Puts the traffic on and watches it.
fn find(args: &Args, lab: Lab, scene: &mut Scene, progress: &mut Progress) -> Result<Findings, LabError> {
    progress.say("ping and traceroute");
    let ping = scene.ping(50)?;
    let hops = traceroute(&scene.net.a, TwoHosts::B, 8)?;

    let seconds = args.seconds.unwrap_or(10) as f64;
    progress.say(&format!("UDP at full load for {seconds} s, the filter is swapped {SWAPS} times"));
    let load = scene.load(seconds, SWAPS, |n, received| {
        progress.update(&format!("swap {n} of {SWAPS}, {} packets received", thousands(received)));
    })?;
    progress.say("TCP at full load, the filter is swapped 20 times a second");
    let (tcp, tcp_swaps) = scene.tcp(3.0)?;
    progress.say("a UDP port is blocked and unblocked");
    let (block, block_books) = scene.block()?;
    let books = load.books.plus(&block_books);
    let seconds = progress.elapsed().as_secs_f64();
    Ok(Findings { privilege: lab.privilege(), ping, hops, load, tcp, tcp_swaps, block, books, seconds })
}

impl Findings {
    /// What is not as it should be, in words.
    fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut must = |ok: bool, text: String| {
            if !ok {
                out.push(text);
            }
        };
        must(self.ping.clean(), format!("{} of {} pings were answered", self.ping.received, self.ping.sent));
        must(
            self.hops.first().is_some_and(|h| h.from == Some(Scene::first_hop()))
                && self.hops.last().is_some_and(|h| h.reached),
            "the traceroute does not show smpnet first and B last".into(),
        );
        must(self.books.lost == 0, format!("{} packets were lost", self.books.lost));
        must(self.books.wrong == 0, format!("{} packets came twice or changed", self.books.wrong));
        let missing = self.load.counters.missing;
        must(missing == 0, format!("{missing} packets are in none of smpnet's own counters"));
        let (sent, received, filtered) = self.load.probes;
        must(
            sent >= received + filtered
                && sent - received - filtered <= self.books.dropped_sum() + self.books.hosts_dropped,
            format!(
                "of {sent} packets to a port that one generation blocks {received} came and {filtered} were filtered"
            ),
        );
        must(received > 0 && filtered > 0, "the generations did not take turns".into());
        must(self.load.swaps.len() == SWAPS as usize, format!("only {} swaps were made", self.load.swaps.len()));
        must(self.tcp.clean(), format!("TCP: {:?}", self.tcp));
        let [open, blocked, unblocked] = &self.block;
        must(open.received == open.sent, format!("before blocking: {open:?}"));
        must(blocked.received == 0 && blocked.filtered == blocked.sent, format!("blocked: {blocked:?}"));
        must(unblocked.received == unblocked.sent, format!("unblocked: {unblocked:?}"));
        out
    }

    fn json(&self, faults: &[String]) -> Value {
        let request = Spread::of(self.load.swaps.iter().map(|s| s.request_us));
        let adopt = Spread::of(self.load.swaps.iter().map(|s| s.adopt_us));
        json!({
            "ok": faults.is_empty(),
            "faults": faults,
            "privilege": privilege(self.privilege),
            "seconds": round(self.seconds),
            "packets": self.books,
            "swaps": {
                "count": self.load.swaps.len(),
                "median_us": round(request.median_us), "worst_us": round(request.worst_us),
                "adopt_median_us": round(adopt.median_us), "adopt_worst_us": round(adopt.worst_us),
            },
            "udp": {
                "packets_per_second": self.load.rate.round(), "reordered": self.load.reordered,
                "probes": {"sent": self.load.probes.0, "received": self.load.probes.1, "filtered": self.load.probes.2},
            },
            "router": {
                "received": self.load.counters.received, "sent": self.load.counters.sent,
                "judged": self.load.counters.judged, "unaccounted": self.load.counters.missing,
                "cpu_seconds": round(self.load.cpu.0), "resident_bytes": self.load.resident.last(),
            },
            "tcp": {
                "bytes": self.tcp.received, "bits_per_second": self.tcp.bits_per_second().round(),
                "corrupt": self.tcp.corrupt, "retransmits": self.tcp.retransmits, "swaps": self.tcp_swaps,
            },
            "block": {"open": self.block[0], "blocked": self.block[1], "unblocked": self.block[2]},
            "ping": {"sent": self.ping.sent, "received": self.ping.received, "median_us": round(self.ping.median_us())},
            "traceroute": self.hops,
        })
    }

    fn table(&self) -> String {
        let mut t = Table::new(&format!("smpnet between two Linux hosts ({})", privilege(self.privilege)));
        let ping = format!("of {}, median round trip {}", self.ping.sent, micros(self.ping.median_us()));
        t.row(["ping: answered".to_string(), self.ping.received.to_string(), ping]);
        let way: Vec<String> = self.hops.iter().map(|h| h.from.map_or("*".into(), |f| f.to_string())).collect();
        t.row([
            "traceroute: hops".to_string(),
            self.hops.len().to_string(),
            way.join(" > ") + " (the first is smpnet)",
        ]);
        let b = &self.books;
        let rate = format!("UDP, {} a second over {:.0} s", thousands(self.load.rate as u64), self.load.cpu.1);
        t.row(["packets sent".to_string(), thousands(b.sent), rate]);
        t.row([
            "packets forwarded".to_string(),
            thousands(b.forwarded),
            "arrived at the other host, once and unchanged".into(),
        ]);
        t.row(["packets filtered".to_string(), thousands(b.filtered), "by the filter's own count".into()]);
        let reasons: Vec<String> = b.dropped.iter().map(|(r, n)| format!("{r} {n}")).collect();
        let reasons = if reasons.is_empty() { "for any other reason".into() } else { reasons.join(", ") };
        t.row(["packets dropped".to_string(), thousands(b.dropped_sum()), reasons]);
        if b.hosts_dropped > 0 {
            t.row([
                "dropped by the hosts".to_string(),
                thousands(b.hosts_dropped),
                "in their own sockets and links".into(),
            ]);
        }
        t.row(["packets lost".to_string(), thousands(b.lost), String::new()]);
        let request = Spread::of(self.load.swaps.iter().map(|s| s.request_us));
        let adopt = Spread::of(self.load.swaps.iter().map(|s| s.adopt_us));
        t.row(["filter swaps".to_string(), self.load.swaps.len().to_string(), "under that load".into()]);
        let whole = "request, compile, adopt, answer".to_string();
        t.row(["swap time, median".to_string(), micros(request.median_us), whole]);
        t.row([
            "swap time, worst".to_string(),
            micros(request.worst_us),
            format!("adoption by all workers: {} median, {} worst", micros(adopt.median_us), micros(adopt.worst_us)),
        ]);
        let tcp = format!(
            "{:.2} Gbit/s, {} bytes wrong, {} swaps meanwhile",
            self.tcp.bits_per_second() / 1e9,
            self.tcp.corrupt,
            self.tcp_swaps
        );
        t.row(["TCP bytes".to_string(), thousands(self.tcp.received), tcp]);
        for (name, s) in ["port 5000, open", "port 5000, blocked", "port 5000, unblocked"].into_iter().zip(&self.block)
        {
            t.row([
                name.to_string(),
                s.received.to_string(),
                format!("of {} arrived, {} filtered", s.sent, s.filtered),
            ]);
        }
        t.render()
    }
}

/// In words.
fn privilege(p: Privilege) -> &'static str {
    match p {
        Privilege::Root => "as root",
        Privilege::UserNamespace => "in a user namespace",
    }
}

/// Two digits after the point are enough.
pub fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}
