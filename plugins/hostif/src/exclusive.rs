//! Keeps the kernel's own stack from also receiving what arrives on a device that smpnet owns.
//!
//! Packet sockets get their copy of a frame before traffic control looks at it (`__netif_receive_skb_core` walks
//! `ptype_all` before `sch_handle_ingress`), so a program at ingress that drops everything leaves smpnet its frames and
//! the kernel none: no ARP answer, no ICMP echo, no TCP reset. Three ways, tried in this order:
//!
//! 1. **tcx**: an eBPF program on a link whose descriptor we hold. The kernel detaches it when the process ends, however
//!    it ends. Needs Linux 6.6 and `bpf(2)`, which user namespaces do not have.
//! 2. **clsact with a classic BPF classifier** in direct-action mode. Needs no `bpf(2)`, so it works in a user namespace.
//! 3. **clsact with matchall and a drop action**, for kernels without `cls_bpf`.
//!
//! The last two leave a queueing discipline behind if the process is killed; the next start recognises it by its
//! preference and handle and replaces it.

use crate::{
    bpf::{self, Insn, Program, Reg},
    netlink::{Body, Netlink, attrs},
    uapi::{self, TC_ACT_SHOT},
};
use std::{io, os::fd::OwnedFd};

/// Preference of our filter: the first of all.
const PREFERENCE: u16 = 1;
/// Handle of our filter, by which a stale one is known: "smp" and a number.
const HANDLE: u32 = 0x736d_7001;
/// Name of our classifier, seen in `tc filter show`.
const NAME: &str = "smpnet-exclusive";

const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const RTM_DELQDISC: u16 = 37;

/// How the kernel's stack is kept off a device. Undone by [`Exclusive::detach`]; the tcx way also by dropping it.
#[derive(Debug)]
pub enum Exclusive {
    /// An eBPF link; it holds for as long as the descriptor is open.
    Tcx(OwnedFd),
    /// A filter under clsact.
    Clsact {
        /// Which classifier: `bpf` or `matchall`.
        classifier: &'static str,
        /// Whether the queueing discipline is ours as well.
        owns_qdisc: bool,
    },
}

impl Exclusive {
    /// Keeps the kernel off device `index`. On failure says why each way failed, and nothing is left behind.
    pub fn attach(netlink: &mut Netlink, index: i32) -> Result<Self, String> {
        Self::attach_by(netlink, index, &["tcx", "bpf", "matchall"])
    }

    /// As [`Exclusive::attach`], by the first of the given ways that works: `tcx`, `bpf`, `matchall`.
    pub fn attach_by(netlink: &mut Netlink, index: i32, ways: &[&'static str]) -> Result<Self, String> {
        // A filter of a process that was killed would go on dropping after we detach ours, whichever way ours is.
        let stale = remove_filter(netlink, index);
        let mut reasons = Vec::new();
        for way in ways {
            let result = match *way {
                "tcx" => {
                    let attached = attach_tcx(index).map(Exclusive::Tcx);
                    if attached.is_ok() && stale {
                        remove_idle_qdisc(netlink, index);
                    }
                    attached
                }
                classifier => attach_clsact(netlink, index, classifier, stale),
            };
            match result {
                Ok(exclusive) => return Ok(exclusive),
                Err(e) => reasons.push(format!("{way}: {e}")),
            }
        }
        Err(reasons.join("; "))
    }

    /// The way in words, for the status.
    pub fn way(&self) -> &'static str {
        match self {
            Exclusive::Tcx(_) => "tcx",
            Exclusive::Clsact { classifier, .. } => classifier,
        }
    }

    /// Lets the kernel's stack receive again.
    pub fn detach(self, netlink: &mut Netlink, index: i32) {
        if let Exclusive::Clsact { owns_qdisc, .. } = self {
            remove_filter(netlink, index);
            if owns_qdisc {
                remove_idle_qdisc(netlink, index);
            }
        }
    }
}

fn attach_tcx(index: i32) -> io::Result<OwnedFd> {
    let program = Program {
        kind: uapi::BPF_PROG_TYPE_SCHED_CLS,
        attach: 0,
        flags: 0,
        name: "smpnet_drop",
        // TCX_DROP is TC_ACT_SHOT.
        code: &[Insn::set(Reg::R0, TC_ACT_SHOT as i32), Insn::exit()],
    };
    // Without a program to stand before, BPF_F_BEFORE means before all. The link keeps the program.
    bpf::link(&program.load()?, index, uapi::BPF_TCX_INGRESS, uapi::BPF_F_BEFORE)
}

fn attach_clsact(netlink: &mut Netlink, index: i32, classifier: &str, stale: bool) -> io::Result<Exclusive> {
    let created = match netlink.request(
        libc::RTM_NEWQDISC,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &Body::new(&tcmsg(index, 0xffff_0000, uapi::TC_H_CLSACT, 0)).text(uapi::TCA_KIND, "clsact"),
    ) {
        Ok(_) => true,
        // Somebody's clsact or ingress qdisc, which serves as well, or our own of a process that was killed.
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => false,
        Err(e) => return Err(e),
    };
    let owns_qdisc = created || stale;
    let protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    let info = u32::from(PREFERENCE) << 16 | protocol;
    let head = Body::new(&tcmsg(index, HANDLE, uapi::TC_H_CLSACT_INGRESS, info));
    let body = match classifier {
        "bpf" => head.text(uapi::TCA_KIND, "bpf").nest(uapi::TCA_OPTIONS, classic_bpf()),
        _ => head.text(uapi::TCA_KIND, "matchall").nest(uapi::TCA_OPTIONS, matchall_drop()),
    };
    match netlink.request(RTM_NEWTFILTER, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body) {
        Ok(_) => Ok(Exclusive::Clsact { classifier: if classifier == "bpf" { "bpf" } else { "matchall" }, owns_qdisc }),
        Err(e) => {
            if owns_qdisc {
                remove_idle_qdisc(netlink, index);
            }
            Err(e)
        }
    }
}

/// Options of `cls_bpf`: the classic program `ret TC_ACT_SHOT`, whose result is the verdict.
fn classic_bpf() -> Body {
    // struct sock_filter { code: BPF_RET | BPF_K, jt, jf, k }
    let mut ops = [0; 8];
    ops[..2].copy_from_slice(&0x06u16.to_ne_bytes());
    ops[4..].copy_from_slice(&TC_ACT_SHOT.to_ne_bytes());
    Body::default()
        .attr(uapi::TCA_BPF_OPS_LEN, &1u16.to_ne_bytes())
        .attr(uapi::TCA_BPF_OPS, &ops)
        .text(uapi::TCA_BPF_NAME, NAME)
        .attr(uapi::TCA_BPF_FLAGS, &uapi::TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes())
}

/// Options of `cls_matchall` with one `gact drop`.
fn matchall_drop() -> Body {
    // struct tc_gact { index, capab, action, refcnt, bindcnt }
    let mut parms = [0; 20];
    parms[8..12].copy_from_slice(&TC_ACT_SHOT.to_ne_bytes());
    let gact = Body::default()
        .text(uapi::TCA_ACT_KIND, "gact")
        .nest(uapi::TCA_ACT_OPTIONS, Body::default().attr(uapi::TCA_GACT_PARMS, &parms));
    Body::default().nest(uapi::TCA_MATCHALL_ACT, Body::default().nest(1, gact))
}

/// Removes our filter; whether there was one.
fn remove_filter(netlink: &mut Netlink, index: i32) -> bool {
    let ours = filters(netlink, index).into_iter().find(|f| f.handle == HANDLE);
    let Some(ours) = ours else { return false };
    let body = Body::new(&tcmsg(index, HANDLE, uapi::TC_H_CLSACT_INGRESS, ours.info)).text(uapi::TCA_KIND, &ours.kind);
    netlink.request(RTM_DELTFILTER, 0, &body).is_ok()
}

/// Removes the clsact qdisc if no filter is left in it.
fn remove_idle_qdisc(netlink: &mut Netlink, index: i32) {
    const EGRESS: u32 = uapi::TC_H_CLSACT_INGRESS + 1;
    if filters(netlink, index).is_empty() && filters_of(netlink, index, EGRESS).is_empty() {
        let body = Body::new(&tcmsg(index, 0xffff_0000, uapi::TC_H_CLSACT, 0)).text(uapi::TCA_KIND, "clsact");
        // A failure means that the device or the qdisc is gone already.
        let _gone = netlink.request(RTM_DELQDISC, 0, &body);
    }
}

struct Filter {
    handle: u32,
    info: u32,
    kind: String,
}

/// The filters at a device's ingress.
fn filters(netlink: &mut Netlink, index: i32) -> Vec<Filter> {
    filters_of(netlink, index, uapi::TC_H_CLSACT_INGRESS)
}

fn filters_of(netlink: &mut Netlink, index: i32, parent: u32) -> Vec<Filter> {
    let body = Body::new(&tcmsg(index, 0, parent, 0));
    let answers = netlink.request(RTM_GETTFILTER, libc::NLM_F_DUMP, &body).unwrap_or_default();
    answers
        .iter()
        .filter_map(|m| {
            let word = |at: usize| Some(u32::from_ne_bytes(m.payload.get(at..at + 4)?.try_into().ok()?));
            let kind = attrs(m.payload.get(20..)?).find(|(k, _)| *k == uapi::TCA_KIND)?.1;
            let kind = String::from_utf8_lossy(kind.strip_suffix(&[0]).unwrap_or(kind)).into_owned();
            // The kernel reports each classifier once more, without a handle, as the head of its list.
            Some(Filter { handle: word(8)?, info: word(16)?, kind }).filter(|f| f.handle != 0)
        })
        .collect()
}

/// A `struct tcmsg`.
fn tcmsg(index: i32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut head = [0; 20];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&handle.to_ne_bytes());
    head[12..16].copy_from_slice(&parent.to_ne_bytes());
    head[16..20].copy_from_slice(&info.to_ne_bytes());
    head
}
