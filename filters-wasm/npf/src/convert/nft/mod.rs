//! What `nft -j list ruleset` prints (libnftables-json(5)) to npf.conf.
//!
//! In nftables the first verdict counts, so all rules here are `final` and in order; `jump` puts the rules of the other
//! chain in with what both ask. Connections are another matter: there a rule accepts what is established, here packets of
//! connections pass without rules. If any rule accepts what is established, whatever is accepted opens a connection.

mod chains;
mod emit;
mod matching;
mod names;
mod nat;
mod values;

use super::{
    ConvertError, Converted,
    output::{Origin, Output, Part},
};
use chains::{Chain, Ruleset};
use serde_json::Value;
use std::collections::BTreeSet;

/// Converts what `nft -j list ruleset` prints.
///
/// # Errors
/// When it is something else.
pub fn nft(json: &str) -> Result<Converted, ConvertError> {
    let value: Value = serde_json::from_str(json)?;
    let list = value.get("nftables").and_then(Value::as_array).ok_or(ConvertError::NoRuleset)?;
    let ruleset = Ruleset::read(list);
    let mut nft = Nft { stateful: ruleset.accepts_established(), ..Nft::default() };
    nft.convert(&ruleset);
    Ok(nft.out.finish("nft -j list ruleset"))
}

/// A conversion.
#[derive(Default)]
struct Nft {
    out: Output,
    /// Whatever is accepted opens a connection.
    stateful: bool,
    /// Interfaces that rules of forwarding ask for: packets that came in by them are tagged.
    tagged: BTreeSet<String>,
    /// Destinations that are translated, as rules that let their packets in.
    translated: Vec<super::words::Words>,
    /// Rules that were written, also those that could not be.
    written: usize,
    /// Answers other than those that are known here.
    rejected: bool,
}

/// All of it.
const ALL: &str = "the whole ruleset";

impl Nft {
    fn convert(&mut self, ruleset: &Ruleset<'_>) {
        let all = Origin::All;
        for (path, what, why) in &ruleset.left_out {
            self.out.leave_out(Part::Rules, &Origin::Path(path.clone()), what, *why);
        }
        self.sets(ruleset);
        if self.stateful {
            let why = "what is accepted opens a connection, whose packets pass without rules everywhere; of TCP it \
                       begins with a SYN";
            self.out.note(&all, ALL, why);
        }
        for chain in ruleset.chains.iter().filter(|c| c.is_nat()) {
            self.nat_chain(ruleset, chain);
        }
        let hook = |name: &str| {
            let mut chains: Vec<_> = ruleset.chains.iter().filter(|c| c.is_filter() && c.hook == Some(name)).collect();
            chains.sort_by_key(|c| c.priority);
            chains
        };
        let (input, output, forward) = (hook("input"), hook("output"), hook("forward"));
        // "out" is for what is forwarded too, which is decided before that.
        self.hook("forw", &forward, ruleset);
        self.hook("out", &output, ruleset);
        self.let_in(ruleset, &input, &forward);
        self.hook("in", &input, ruleset);
        if self.rejected {
            let why = "ICMP errors that answer say \"administratively prohibited\"";
            self.out.note(&all, "reject", why);
        }
    }

    /// What comes in and is forwarded is nothing for the rules of input.
    fn let_in(&mut self, ruleset: &Ruleset<'_>, input: &[&Chain<'_>], forward: &[&Chain<'_>]) {
        let all = Origin::Path("input".to_owned());
        if !input.is_empty() {
            for words in std::mem::take(&mut self.translated) {
                self.out.rule(&all, "dnat", &words);
            }
        }
        if forward.is_empty() {
            if !input.is_empty() {
                let why = "what is forwarded comes in too, and must pass these rules here";
                self.out.note(&all, "chains of input", why);
            }
            return;
        }
        let interfaces = ruleset.interfaces();
        if interfaces.is_empty() {
            for name in std::mem::take(&mut self.tagged) {
                self.out.note(&all, &name, "nothing gives the tag that rules of forwarding ask for");
            }
            let why = "what is forwarded comes in too, and must pass these rules here: no interface is named, by whose \
                       addresses it could be told apart";
            self.out.leave_out(Part::Rules, &all, "chains of input", why);
            return;
        }
        let mut local: Vec<_> = ["lo"].into_iter().chain(interfaces.iter().map(String::as_str)).collect();
        local.dedup();
        let mut local: Vec<_> = local.iter().map(|n| format!("ifaddrs({})", super::words::quoted(n))).collect();
        local.extend(["127.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "ff00::/8"].map(str::to_owned));
        self.out
            .setting("# Whatever is for this host itself: complete it by all interfaces and broadcasts.".to_owned());
        self.out.setting(format!("$local = {{ {} }}", local.join(", ")));
        let why = "what comes in and is not for an address of $local counts as forwarded, and passes the rules for \
                   input: $local must have all interfaces and broadcast addresses of this host";
        self.out.note(&all, "chains of input and of forward", why);
        self.out.comment(Part::Rules, "What is forwarded is decided on when it leaves.");
        // Both ways of a forwarded connection cross two interfaces, in two directions; each direction has a connection.
        let tags: Vec<_> = std::mem::take(&mut self.tagged).into_iter().map(Some).chain([None]).collect();
        for state in [self.stateful.then_some("stateful-all"), None].into_iter().take(1 + usize::from(self.stateful)) {
            for name in &tags {
                self.out.rule(&all, ALL, &emit::forwarded(name.as_deref(), state));
            }
        }
    }
}
