//! A router in this process whose workers are threads, each on a processor of its own where there are enough, between two null
//! ports at full load.

use crate::{
    clock,
    machine::{self, Kernel},
    router::{Load, NullPort, Ports, furnish},
};
use smpnet_abi::PortStats;
use smpnet_runtime::{PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{IfIndex, Stack};
use std::{error::Error, sync::Arc};

/// Cells of the packet pool for each worker.
const CELLS: u32 = 16384;

/// The router. Its source is down at first.
pub struct Live {
    /// Its runtime.
    pub runtime: Arc<Runtime>,
    /// Its stack.
    pub stack: Arc<Stack>,
    /// The interface that packets come from.
    pub source: IfIndex,
    /// The interface that they go to.
    pub sink: IfIndex,
    /// Cycles of the time-stamp counter in a microsecond.
    pub cycles_per_us: f64,
    ports: (NullPort, NullPort),
}

/// What workers did until some moment.
#[derive(Clone, Debug)]
pub struct Done {
    /// Packets that the sink took.
    pub sent: u64,
    /// Packets that the source gave.
    pub received: u64,
    /// Processor time of each worker, in nanoseconds.
    pub cpu_ns: Vec<u64>,
    /// When, in cycles of the time-stamp counter.
    pub at: u64,
}

impl Live {
    /// Starts `workers` workers. The calling thread, and what it starts from now on, has the first processor for itself, unless
    /// the workers need all of them.
    pub fn start(workers: usize, load: Load, ports: Ports) -> Result<Live, Box<dyn Error>> {
        let cpus = machine::allowed_cpus()?;
        // From the last to the first, so that the first one is taken last.
        let of_workers = cpus.iter().rev().cycle().take(workers).map(|c| Some(*c)).collect();
        let config = RuntimeConfig {
            pool: PoolConfig { cells: CELLS * workers as u32, ..PoolConfig::default() },
            cpus: of_workers,
            ..RuntimeConfig::default()
        };
        machine::pin(cpus[0])?;
        let runtime = Runtime::start(config)?;
        let stack = Stack::new(runtime.clone())?;
        let ports = furnish(&runtime, &stack, load, ports)?;
        let index = |name| stack.if_by_name(name).ok_or_else(|| format!("there is no {name}"));
        let (source, sink) = (index("in0")?, index("out0")?);
        stack.set_up(source, false)?;
        Ok(Live { runtime, stack, source, sink, cycles_per_us: clock::cycles_per_us(), ports })
    }

    /// As many workers as there are processors but one, which is left to the calling thread; at least one.
    pub fn usual_workers() -> Result<usize, Box<dyn Error>> {
        Ok(machine::allowed_cpus()?.len().saturating_sub(1).max(1))
    }

    /// The port that packets come from.
    pub fn source_port(&self) -> &NullPort {
        &self.ports.0
    }

    /// Lets packets in, or no more. When it returns after `false`, no worker is in a function of the ports.
    pub fn flow(&self, on: bool) -> Result<(), Box<dyn Error>> {
        self.stack.set_up(self.source, on)?;
        if !on {
            self.runtime.domain().perform();
        }
        Ok(())
    }

    /// What workers did until now.
    pub fn done(&self) -> Done {
        let cpu_ns = (0..self.runtime.workers())
            .map(|w| self.runtime.run_on_wait(w, |_| machine::thread_ns()).unwrap_or(0))
            .collect();
        let (source, sink) = self.stats();
        Done { sent: sink.tx_packets, received: source.rx_packets, cpu_ns, at: clock::tsc() }
    }

    fn stats(&self) -> (PortStats, PortStats) {
        let of = |port: &NullPort| {
            let mut stats = PortStats::default();
            // SAFETY: the port is open and `stats` lives through the call.
            unsafe { (port.table.stats)(port.info.port, &mut stats) };
            stats
        };
        (of(&self.ports.0), of(&self.ports.1))
    }

    /// What the kernel counted of the workers until now.
    pub fn kernel(&self) -> Kernel {
        let of = |w| self.runtime.run_on_wait(w, |_| Kernel::of_this_thread());
        (0..self.runtime.workers()).filter_map(of).fold(Kernel::default(), Kernel::plus)
    }

    /// Ends it.
    pub fn end(self) {
        self.stack.shutdown();
        self.runtime.stop();
    }
}

impl Done {
    /// What was done since `before`.
    pub fn since(&self, before: &Done) -> Done {
        Done {
            sent: self.sent - before.sent,
            received: self.received - before.received,
            cpu_ns: self.cpu_ns.iter().zip(&before.cpu_ns).map(|(now, then)| now - then).collect(),
            at: self.at - before.at,
        }
    }
}
