//! A router in this process, between two null ports, whose one worker is driven by hand.

use smpnet::{
    daemon::{Device, Wish},
    host,
    loader::PluginRegistry,
};
use smpnet_abi::{DriverTable, MacAddr, PortInfo};
use smpnet_runtime::{ManualWorker, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{AddrOptions, ArpSpec, Ipv4Net, RouteSpec, Stack};
use smpnet_wasm::{Action, FilterManager, FilterSpec, Layer, Source, StackAttach};
use std::{error::Error, net::Ipv4Addr, sync::Arc};

/// Gateways that the routes are spread over.
const GATEWAYS: u32 = 16;
/// First address of the routed networks.
const NETS: u32 = 0x0a00_0000;
/// MTU, and the largest frame: MTU and an Ethernet header.
const MTU: u32 = 1500;

/// What is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of a frame without FCS.
    pub size: u32,
    /// Flows, in random order.
    pub flows: u32,
    /// Routes (/24) that the destinations are spread over.
    pub routes: u32,
    /// Where a filter is asked about all packets on the way in; it drops none of them.
    pub filter: Option<Layer>,
}

/// The filter of a [`Load`]: none of the packets, which are UDP, matches it.
pub const FILTER: &str = "ip and tcp port 80";

/// A port of the router, as its driver gave it.
#[derive(Clone, Copy)]
pub struct NullPort {
    /// The driver.
    pub table: &'static DriverTable,
    /// The port.
    pub info: PortInfo,
}

/// The router.
pub struct Router {
    /// Its worker.
    pub worker: ManualWorker,
    /// Its stack.
    pub stack: Arc<Stack>,
    /// Where packets come from.
    pub source: NullPort,
    /// Where they go.
    pub sink: NullPort,
    /// Holds the filter of the load.
    _filters: Option<FilterManager>,
}

impl Router {
    /// Makes the router and everything that `load` needs.
    pub fn new(load: Load) -> Result<Router, Box<dyn Error>> {
        let pool = PoolConfig { cells: 16384, ..PoolConfig::default() };
        let (runtime, mut workers) = Runtime::start_manual(RuntimeConfig { pool, ..RuntimeConfig::default() })?;
        let worker = workers.pop().ok_or("a runtime without workers")?;
        let stack = Stack::new_manual(runtime.clone())?;
        let (source, sink) = furnish(&runtime, &stack, load, |null| null)?;
        let filters = match load.filter {
            None => None,
            Some(layer) => {
                let manager = FilterManager::new(Arc::new(StackAttach::new(runtime, stack.clone())))?;
                let spec = FilterSpec::new("bench", Source::Expr(FILTER.into()), Action::Drop);
                manager.load(FilterSpec { layer, ..spec })?;
                Some(manager)
            }
        };
        Ok(Router { worker, stack, source, sink, _filters: filters })
    }

    /// Lets the worker do `n` rounds, each of which forwards one burst.
    pub fn rounds(&mut self, n: u64) {
        self.worker.rounds(n as usize);
    }

    /// Packets that have left.
    pub fn sent(&self) -> u64 {
        let mut stats = smpnet_abi::PortStats::default();
        // SAFETY: the port is open and `stats` lives through the call.
        unsafe { (self.sink.table.stats)(self.sink.info.port, &mut stats) };
        stats.tx_packets
    }
}

/// Gives a router its ports, with a queue for each worker, and everything that `load` needs. The stack sees the null driver as
/// `seen` shows it.
pub fn furnish(
    runtime: &Arc<Runtime>,
    stack: &Arc<Stack>,
    load: Load,
    seen: impl Fn(&'static DriverTable) -> &'static DriverTable,
) -> Result<(NullPort, NullPort), Box<dyn Error>> {
    let services = host::install(runtime.clone(), stack.clone());
    let registry = PluginRegistry::new(services);
    registry.load(&plugin_file()?)?;
    let null = registry.driver("null").ok_or("the null plugin has no driver of that name")?;
    let open = |name, options: &serde_json::Value| -> Result<NullPort, Box<dyn Error>> {
        let index = stack.if_reserve(name)?;
        let n = runtime.workers() as u16;
        let wish =
            Wish { name, ifindex: index.get(), options, rx_queues: n, tx_queues: n, workers: n.into(), mtu: MTU };
        let Device::Port(table, info) = Device::open(services, null, &wish)? else {
            return Err(format!("{name} is no port").into());
        };
        let table = seen(table);
        stack.attach_port(index, table, info)?;
        Ok(NullPort { table, info })
    };
    let source = open("in0", &source_options(load))?;
    let sink = open("out0", &serde_json::json!({ "sink_only": true }))?;
    configure(stack, load)?;
    Ok((source, sink))
}

/// `libsmpnet_null.so`, which is built into the folder of this program.
fn plugin_file() -> Result<std::path::PathBuf, Box<dyn Error>> {
    let exe = std::env::current_exe()?;
    let file = exe.with_file_name("libsmpnet_null.so");
    if !file.exists() {
        return Err(format!("{} is missing: cargo build --release -p smpnet-plugin-null", file.display()).into());
    }
    Ok(file)
}

fn source_options(load: Load) -> serde_json::Value {
    // Each flow has a destination of its own, up to a million of them.
    let mut random = Random(0x5eed);
    let count = load.flows.min(1 << 20);
    let dst: Vec<String> = (0..count).map(|_| destination(load.routes, &mut random).to_string()).collect();
    serde_json::json!({ "size": load.size, "flows": load.flows, "pattern": "random", "src": "198.18.0.0/16", "dst": dst })
}

fn destination(routes: u32, random: &mut Random) -> Ipv4Addr {
    let net = random.below(routes);
    (NETS + (net << 8) + 1 + random.below(254)).into()
}

fn configure(stack: &Stack, load: Load) -> Result<(), Box<dyn Error>> {
    let index = |name| stack.if_by_name(name).ok_or_else(|| format!("there is no {name}"));
    let (inside, outside) = (index("in0")?, index("out0")?);
    let at_once = AddrOptions { dad_count: Some(0) };
    stack.addr_add(inside, net([198, 18, 255, 254], 16)?, at_once)?;
    stack.addr_add(outside, net([192, 0, 2, 1], 24)?, at_once)?;
    stack.set_up(inside, true)?;
    stack.set_up(outside, true)?;
    for g in 0..GATEWAYS {
        let mac = Some(MacAddr { bytes: [0x02, 0, 0, 0, 1, g as u8] });
        stack.arp_set(outside, &ArpSpec { address: gateway(g), mac, publish: false })?;
    }
    let routes: Vec<RouteSpec> = (0..load.routes)
        .map(|i| Ok(RouteSpec::via(net((NETS + (i << 8)).to_be_bytes(), 24)?, gateway(i % GATEWAYS))))
        .collect::<Result<_, Box<dyn Error>>>()?;
    stack.route_add_bulk(&routes).map_err(|(i, e)| format!("route {i}: {e}"))?;
    // Every flow has its place in the cache.
    stack.runtime().sysctl().set("net.inet.ip.maxflows", &(load.flows.max(8192) * 2).to_string())?;
    Ok(())
}

fn gateway(i: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc000_0202 + i)
}

fn net(addr: [u8; 4], len: u8) -> Result<Ipv4Net, Box<dyn Error>> {
    Ok(Ipv4Net::new(addr.into(), len).ok_or("a prefix is longer than 32")?)
}

/// xorshift64: the same destinations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }
}
