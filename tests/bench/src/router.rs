//! A router in this process, between two null ports, whose one worker is driven by hand.

use smpnet::{
    daemon::{Device, Wish},
    host,
    loader::PluginRegistry,
};
use smpnet_abi::{BURST_MAX, DriverTable, MacAddr, PortInfo};
use smpnet_npf::{
    language::{NoFiles, parse},
    router::{Npf, Settings},
};
use smpnet_runtime::{ManualWorker, PoolConfig, Runtime, RuntimeConfig};
use smpnet_stack::{AddrOptions, ArpSpec, Ipv4Net, RouteSpec, Stack};
use smpnet_wasm::{Action, FilterManager, FilterSpec, Layer, Source, StackAttach, ruleset::RulesetEngine};
use std::{error::Error, net::Ipv4Addr, sync::Arc};

/// Gateways that the routes are spread over.
pub const GATEWAYS: u32 = 16;
/// First address of the routed networks.
const NETS: u32 = 0x0a00_0000;
/// MTU, and the largest frame: MTU and an Ethernet header.
const MTU: u32 = 1500;

/// Flows of a load to random destinations: a packet's flow comes again after so many others.
const RANDOM_FLOWS: u32 = 1 << 22;
/// Most destinations; flows beyond them differ by their source port.
const DESTINATIONS: u32 = 1 << 20;
/// Bytes of a frame check sequence, which ports do not see.
const FCS: u32 = 4;

/// What is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of a frame, FCS included.
    pub size: u32,
    /// Flows, in random order.
    pub flows: Flows,
    /// Routes (/24) that the destinations are spread over.
    pub routes: u32,
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// So many.
    Known(u32),
    /// So many, over a million destinations, that nothing is in a processor's cache when a packet of it comes again.
    Random,
}

impl Flows {
    /// Their number.
    pub fn count(self) -> u32 {
        match self {
            Flows::Known(n) => n,
            Flows::Random => RANDOM_FLOWS,
        }
    }
}

/// A filter that none of a load's packets, which are UDP, matches.
const FILTER: &str = "ip and tcp port 80";

/// What npf has to do with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NpfRules {
    /// Every flow has a connection where it comes in; what leaves is passed by a rule.
    Connections,
    /// Every flow has a connection where it leaves, which translates its source.
    Translation,
    /// Fifty rules without state are asked where it comes in; the last one passes it.
    Fifty,
}

impl NpfRules {
    fn text(self) -> String {
        match self {
            NpfRules::Connections => {
                "group default {\n pass stateful in final all\n pass out final all\n block all\n}".to_owned()
            }
            NpfRules::Translation => "map out0 dynamic algo ip-hash 198.18.0.0/16 -> 203.0.113.0/26\n\
                group \"out\" on out0 { pass stateful out final all }\n\
                group default { pass all }"
                .to_owned(),
            NpfRules::Fifty => {
                let rule = |n: u32| {
                    format!(" block in final proto udp from 198.{n}.0.0/16 to 10.{n}.0.0/18 port {}\n", 7000 + n)
                };
                let rules: String = (100..149).map(rule).collect();
                format!("group \"in\" on in0 {{\n{rules} pass in final all\n}}\ngroup default {{ pass all }}")
            }
        }
    }
}

/// Its name.
const FILTER_NAME: &str = "bench";

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
    runtime: Arc<Runtime>,
    /// Made when it is first needed: the engines take a while.
    filters: Option<FilterManager>,
    /// The same, with the rules that it has.
    npf: Option<(Arc<Npf>, NpfRules)>,
}

impl Router {
    /// Makes the router and everything that `load` needs.
    pub fn new(load: Load) -> Result<Router, Box<dyn Error>> {
        let pool = PoolConfig { cells: 16384, ..PoolConfig::default() };
        let (runtime, mut workers) = Runtime::start_manual(RuntimeConfig { pool, ..RuntimeConfig::default() })?;
        let worker = workers.pop().ok_or("a runtime without workers")?;
        let stack = Stack::new_manual(runtime.clone())?;
        let (source, sink) = furnish(&runtime, &stack, load, Ports::default())?;
        Ok(Router { worker, stack, source, sink, runtime, filters: None, npf: None })
    }

    /// Lets a filter be asked at a layer about all packets on the way in, or none any more. It drops none of a load's packets.
    pub fn set_filter(&mut self, layer: Option<Layer>) -> Result<(), Box<dyn Error>> {
        let manager = match self.filters.take() {
            Some(manager) => manager,
            None => FilterManager::new(Arc::new(StackAttach::new(self.runtime.clone(), self.stack.clone())))?,
        };
        match layer {
            Some(layer) => {
                let spec = FilterSpec::new(FILTER_NAME, Source::Expr(FILTER.into()), Action::Drop);
                manager.load(FilterSpec { layer, ..spec })?;
            }
            None => manager.detach(FILTER_NAME)?,
        }
        self.filters = Some(manager);
        Ok(())
    }

    /// Has npf judge all packets by some rules, or no more.
    pub fn set_npf(&mut self, rules: Option<NpfRules>) -> Result<(), Box<dyn Error>> {
        let Some(rules) = rules else {
            return Ok(self.npf.as_ref().map_or(Ok(()), |(npf, _)| npf.stop())?);
        };
        let npf = match &self.npf {
            Some((npf, same)) if *same == rules => npf.clone(),
            _ => {
                let settings = Settings { connections: 1 << 21, half_open_percent: 100, ..Settings::default() };
                let npf = Npf::new(&self.stack, settings, Some(Arc::new(RulesetEngine::new()?)))?;
                let parsed = parse("npf.conf", &rules.text(), &NoFiles).map_err(|e| e.to_string())?;
                npf.reload(Arc::new(parsed.config))?;
                self.npf.insert((npf, rules)).0.clone()
            }
        };
        Ok(npf.start()?)
    }

    /// Lets the worker do `n` rounds, each of which forwards one burst.
    pub fn rounds(&mut self, n: u64) {
        self.worker.rounds(n as usize);
    }

    /// Lets packets go from the source straight into the sink, as if there were no router; returns how many went.
    pub fn pass_by(&mut self, rounds: u64) -> u64 {
        let (source, sink) = (self.source, self.sink);
        self.worker.with(|cx| {
            let worker = cx.cpu.index() as u32;
            let mut cells = [0; BURST_MAX as usize];
            let mut packets = 0u64;
            for _ in 0..rounds {
                // SAFETY: this is the one worker, and the router's own poller does not run meanwhile; the cells that the
                // source gives are handed to the sink as they are.
                unsafe {
                    let n = (source.table.rx_burst)(source.info.port, 0, worker, cells.as_mut_ptr(), BURST_MAX);
                    packets += u64::from((sink.table.tx_burst)(sink.info.port, 0, worker, cells.as_ptr(), n));
                }
            }
            packets
        })
    }

    /// Packets that have left.
    pub fn sent(&self) -> u64 {
        let mut stats = smpnet_abi::PortStats::default();
        // SAFETY: the port is open and `stats` lives through the call.
        unsafe { (self.sink.table.stats)(self.sink.info.port, &mut stats) };
        stats.tx_packets
    }
}

/// How the ports of a router are made.
#[derive(Clone, Copy)]
pub struct Ports {
    /// What the stack sees of the null driver.
    pub seen: fn(&'static DriverTable) -> &'static DriverTable,
    /// The source has one queue, and not one for each worker.
    pub one_queue: bool,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { seen: |null| null, one_queue: false }
    }
}

/// Gives a router its ports and everything that `load` needs.
pub fn furnish(
    runtime: &Arc<Runtime>,
    stack: &Arc<Stack>,
    load: Load,
    ports: Ports,
) -> Result<(NullPort, NullPort), Box<dyn Error>> {
    let services = host::install(runtime.clone(), stack.clone());
    let registry = PluginRegistry::new(services);
    registry.load(&plugin_file()?)?;
    let null = registry.driver("null").ok_or("the null plugin has no driver of that name")?;
    let n = runtime.workers() as u16;
    let open = |name, options: &serde_json::Value, rx_queues| -> Result<NullPort, Box<dyn Error>> {
        let index = stack.if_reserve(name)?;
        let wish = Wish { name, ifindex: index.get(), options, rx_queues, tx_queues: n, workers: n.into(), mtu: MTU };
        let Device::Port(table, info) = Device::open(services, null, &wish)? else {
            return Err(format!("{name} is no port").into());
        };
        let table = (ports.seen)(table);
        stack.attach_port(index, table, info)?;
        Ok(NullPort { table, info })
    };
    let source = open("in0", &source_options(load), if ports.one_queue { 1 } else { n })?;
    let sink = open("out0", &serde_json::json!({ "sink_only": true }), n)?;
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
    let mut random = Random::new();
    let flows = load.flows.count();
    let dst: Vec<String> =
        (0..flows.min(DESTINATIONS)).map(|_| destination(load.routes, &mut random).to_string()).collect();
    let size = load.size - FCS;
    serde_json::json!({ "size": size, "flows": flows, "pattern": "random", "src": "198.18.0.0/16", "dst": dst })
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
        let mac = Some(mac_of(0, g));
        stack.arp_set(outside, &ArpSpec { address: gateway(g), mac, publish: false })?;
    }
    let routes = (0..load.routes).map(|i| route_to(i, i % GATEWAYS)).collect::<Result<Vec<_>, _>>()?;
    stack.route_add_bulk(&routes).map_err(|(i, e)| format!("route {i}: {e}"))?;
    Ok(())
}

/// The route to the routed network of that number, through a gateway.
pub fn route_to(number: u32, through: u32) -> Result<RouteSpec, Box<dyn Error>> {
    Ok(RouteSpec::via(net((NETS + (number << 8)).to_be_bytes(), 24)?, gateway(through)))
}

/// The number of the routed network that an address is in.
pub fn net_of(address: u32) -> u32 {
    address.wrapping_sub(NETS) >> 8
}

/// An Ethernet address of a gateway; each number makes another one.
pub fn mac_of(number: u16, gateway: u32) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr { bytes: [0x02, 0, high, low, 1, gateway as u8] }
}

/// Number and gateway of an address that [`mac_of`] made.
pub fn mac_parts(mac: [u8; 6]) -> Option<(u16, u32)> {
    match mac {
        [0x02, 0, high, low, 1, gateway] if u32::from(gateway) < GATEWAYS => {
            Some((u16::from_be_bytes([high, low]), gateway.into()))
        }
        _ => None,
    }
}

/// The address of a gateway.
pub fn gateway(i: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc000_0202 + i)
}

fn net(addr: [u8; 4], len: u8) -> Result<Ipv4Net, Box<dyn Error>> {
    Ok(Ipv4Net::new(addr.into(), len).ok_or("a prefix is longer than 32")?)
}

/// xorshift64: the same numbers in every run.
pub struct Random(u64);

impl Random {
    /// From the beginning.
    pub fn new() -> Random {
        Random(0x5eed)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }
}
