//! Where packets pass the filters: the hooks for all interfaces first, then those of the interface.

use super::counters::{Account, IpStat};
use super::ifnet::Ifnet;
use super::path::Path;
use smpnet_abi::{DropReason, verdict};
use smpnet_runtime::{Burst, Dir, HookCx, Layer};

impl<'a> Path<'a> {
    /// Asks the hooks about a burst and keeps what they pass. Costs two loads when there are none.
    #[inline(always)]
    pub(crate) fn run_hooks(&mut self, ifp: &'a Ifnet, layer: Layer, dir: Dir, burst: &mut Burst) -> bool {
        let (global, own) = match (layer, dir) {
            (Layer::Ether, Dir::In) => (&self.s.hooks.ether_in, &ifp.shared.hooks.ether_in),
            (Layer::Ether, Dir::Out) => (&self.s.hooks.ether_out, &ifp.shared.hooks.ether_out),
            (_, Dir::In) => (&self.s.hooks.inet_in, &ifp.shared.hooks.inet_in),
            (_, Dir::Out) => (&self.s.hooks.inet_out, &ifp.shared.hooks.inet_out),
        };
        if (global.is_empty() && own.is_empty()) || burst.is_empty() {
            return false;
        }
        self.ask_hooks(ifp, layer, dir, burst);
        true
    }

    #[inline(never)]
    fn ask_hooks(&mut self, ifp: &'a Ifnet, layer: Layer, dir: Dir, burst: &mut Burst) {
        let (global, own) = match (layer, dir) {
            (Layer::Ether, Dir::In) => (&self.s.hooks.ether_in, &ifp.shared.hooks.ether_in),
            (Layer::Ether, Dir::Out) => (&self.s.hooks.ether_out, &ifp.shared.hooks.ether_out),
            (_, Dir::In) => (&self.s.hooks.inet_in, &ifp.shared.hooks.inet_in),
            (_, Dir::Out) => (&self.s.hooks.inet_out, &ifp.shared.hooks.inet_out),
        };
        let cx = HookCx {
            cpu: self.cpu,
            pool: self.pool,
            section: self.section,
            dir,
            ifindex: ifp.index.get(),
            layer,
            now_ns: self.now,
        };
        let mut verdicts = [verdict::PASS; smpnet_abi::BURST_MAX as usize];
        let verdicts = &mut verdicts[..burst.len()];
        global.run(&cx, burst.as_slice(), verdicts);
        own.run(&cx, burst.as_slice(), verdicts);
        let mut kept = Burst::new();
        for (c, v) in burst.iter().zip(verdicts) {
            match *v & 0xff {
                verdict::PASS => kept.push(c),
                verdict::CONSUMED => self.account(Account::ToPlugins, 1),
                _ => {
                    if layer == Layer::Inet {
                        self.ip_stat(if dir == Dir::In { IpStat::PfildropIn } else { IpStat::PfildropOut }, 1);
                    }
                    self.drop_on(ifp, DropReason::Filtered, c);
                }
            }
        }
        *burst = kept;
    }
}
