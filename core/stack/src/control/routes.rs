//! Routes.

use super::Control;
use crate::error::StackError;
use crate::net::ifnet::Ifnet;
use crate::route::{FibError, NextHop, NextHopKind, Route, RouteOwner, Way};
use crate::stack::Stack;
use crate::types::{IfIndex, Ipv4Net, NextHopStatus, RouteAnswer, RouteKind, RouteSpec, RouteStatus, RouteStep};
use std::net::Ipv4Addr;

/// Gateways whose interface was looked up within one call: the table is asked once for each, not once for each route.
#[derive(Default)]
struct Gateways(Vec<(Ipv4Addr, IfIndex)>);

impl Gateways {
    /// More are looked up again; a walk over many costs more than the table.
    const MOST: usize = 32;

    fn find(&self, gateway: Ipv4Addr) -> Option<IfIndex> {
        self.0.iter().find(|(g, _)| *g == gateway).map(|(_, i)| *i)
    }

    fn learn(&mut self, gateway: Ipv4Addr, index: IfIndex) {
        if self.0.len() == Self::MOST {
            self.0.clear();
        }
        self.0.push((gateway, index));
    }

    /// A route came, went or changed: what lies in it may be reached otherwise.
    fn changed(&mut self, dst: Ipv4Net) {
        self.0.retain(|(g, _)| !dst.contains(*g));
    }
}

impl Stack {
    /// Adds a route. Workers follow it from their next burst on.
    ///
    /// # Errors
    /// [`StackError::RouteExists`], [`StackError::BadRoute`], [`StackError::GatewayUnreachable`],
    /// [`StackError::NoInterface`], [`StackError::TableFull`].
    pub fn route_add(&self, spec: &RouteSpec) -> Result<(), StackError> {
        let mut control = self.lock();
        self.add_one(&mut control, spec, &mut Gateways::default())?;
        Ok(())
    }

    /// Does many steps in their order as one transaction: all of them, or none. Workers follow each step from their next
    /// burst on; when one fails, those before it are taken back before this returns.
    ///
    /// # Errors
    /// The number of the step that failed, and what [`Stack::route_add`], [`Stack::route_change`] or
    /// [`Stack::route_delete`] says of it.
    pub fn routes_apply(&self, steps: &[RouteStep]) -> Result<(), (usize, StackError)> {
        let mut control = self.lock();
        let mut gateways = Gateways::default();
        // What was there before each step.
        let mut undo: Vec<(Ipv4Net, Option<Route>)> = Vec::with_capacity(steps.len());
        let mut result = Ok(());
        for (i, step) in steps.iter().enumerate() {
            let dst = step.destination();
            let before = match step {
                RouteStep::Add(_) => None,
                RouteStep::Change(_) | RouteStep::Delete(_) => control.rib.get(dst).cloned(),
            };
            if let Err(e) = self.route_step(&mut control, step, &mut gateways) {
                result = Err((i, e));
                break;
            }
            gateways.changed(dst);
            undo.push((dst, before));
        }
        if result.is_err() {
            for (dst, before) in undo.into_iter().rev() {
                match before {
                    None => self.forget_route(&mut control, dst),
                    // It was there a moment ago, and what it took is free again.
                    Some(r) => {
                        if let Err(e) = self.enter_route(&mut control, r) {
                            tracing::error!(route = %dst, error = %e, "a route cannot be put back");
                        }
                    }
                }
            }
        }
        result
    }

    fn route_step(&self, control: &mut Control, step: &RouteStep, g: &mut Gateways) -> Result<(), StackError> {
        match step {
            RouteStep::Add(spec) => self.add_one(control, spec, g),
            RouteStep::Change(spec) => {
                self.static_route(control, spec.dst)?;
                let ways = self.ways(control, spec, g)?;
                self.enter_route(control, Route { dst: spec.dst.trunc(), ways, owner: RouteOwner::Static })
            }
            RouteStep::Delete(dst) => {
                self.static_route(control, *dst)?;
                self.forget_route(control, *dst);
                Ok(())
            }
        }
    }

    /// Adds many routes; the first error ends it and leaves those before it. Returns how many were added.
    ///
    /// # Errors
    /// The number that were added, and what [`Stack::route_add`] says of the next one.
    pub fn route_add_bulk(&self, specs: &[RouteSpec]) -> Result<usize, (usize, StackError)> {
        let mut control = self.lock();
        let (mut result, mut gateways) = (Ok(specs.len()), Gateways::default());
        for (i, spec) in specs.iter().enumerate() {
            if let Err(e) = self.add_one(&mut control, spec, &mut gateways) {
                result = Err((i, e));
                break;
            }
            gateways.changed(spec.dst);
        }
        result
    }

    /// Removes the route to exactly that destination.
    ///
    /// # Errors
    /// [`StackError::NoRoute`], [`StackError::RouteOwned`].
    pub fn route_delete(&self, dst: Ipv4Net) -> Result<(), StackError> {
        let mut control = self.lock();
        self.route_step(&mut control, &RouteStep::Delete(dst), &mut Gateways::default())?;
        Ok(())
    }

    /// Gives the route to that destination other ways; no packet sees it missing.
    ///
    /// # Errors
    /// [`StackError::NoRoute`], [`StackError::RouteOwned`], and those of [`Stack::route_add`].
    pub fn route_change(&self, spec: &RouteSpec) -> Result<(), StackError> {
        let mut control = self.lock();
        self.route_step(&mut control, &RouteStep::Change(spec.clone()), &mut Gateways::default())?;
        Ok(())
    }

    /// The route that covers an address.
    pub fn route_get(&self, address: Ipv4Addr) -> RouteAnswer {
        let control = self.lock();
        let route = control.rib.lookup(address);
        let out = route.and_then(|r| r.ways.first()).and_then(|w| self.ifs.get_control(w.hop.ifindex));
        let next = route.and_then(|r| r.ways.first()).map_or(0, |w| match w.hop.kind {
            NextHopKind::Gateway => w.hop.gateway,
            _ => address.to_bits(),
        });
        let sends = route.is_some_and(|r| !matches!(r.kind(), NextHopKind::Blackhole | NextHopKind::Reject));
        RouteAnswer {
            address,
            source: out.as_ref().filter(|_| sends).and_then(|o| o.source_for(next)).map(Ipv4Addr::from_bits),
            mtu: out.as_ref().filter(|_| sends).map(|o| o.mtu),
            route: route.map(|r| self.route_status(r)),
        }
    }

    /// Every route in order of destination. A million of them take about a second and 200 MB.
    pub fn routes(&self) -> Vec<RouteStatus> {
        let control = self.lock();
        control.rib.iter().map(|r| self.route_status(r)).collect()
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.lock().rib.len()
    }

    fn add_one(&self, control: &mut Control, spec: &RouteSpec, g: &mut Gateways) -> Result<(), StackError> {
        if control.rib.get(spec.dst).is_some() {
            return Err(StackError::RouteExists(spec.dst.trunc()));
        }
        let ways = self.ways(control, spec, g)?;
        self.enter_route(control, Route { dst: spec.dst.trunc(), ways, owner: RouteOwner::Static })
    }

    fn static_route(&self, control: &Control, dst: Ipv4Net) -> Result<(), StackError> {
        match control.rib.get(dst) {
            None => Err(StackError::NoRoute(dst.trunc())),
            Some(Route { owner: RouteOwner::Address(i), .. }) => {
                Err(StackError::RouteOwned(dst.trunc(), self.if_name(i.get())))
            }
            Some(_) => Ok(()),
        }
    }

    /// The ways that a specification names.
    fn ways(&self, control: &Control, spec: &RouteSpec, g: &mut Gateways) -> Result<Vec<Way>, StackError> {
        let dst = spec.dst.trunc();
        let bad = |why| StackError::BadRoute(dst, why);
        let hops = match &spec.kind {
            RouteKind::Blackhole => return Ok(vec![Way { hop: NextHop::BLACKHOLE, weight: 1 }]),
            RouteKind::Reject => return Ok(vec![Way { hop: NextHop::REJECT, weight: 1 }]),
            RouteKind::Forward(hops) => hops,
        };
        if hops.is_empty() || hops.len() > 64 {
            return Err(bad("a route has 1 to 64 ways out"));
        }
        let mut ways: Vec<Way> = Vec::with_capacity(hops.len());
        for h in hops {
            if h.weight == 0 {
                return Err(bad("a weight is 1 to 255"));
            }
            if let Some(i) = h.ifindex {
                self.interface(i)?;
            }
            let hop = match (h.via, h.ifindex) {
                (None, None) => return Err(bad("a way out has a gateway or an interface")),
                (None, Some(i)) => NextHop::connected(i),
                (Some(via), Some(i)) => {
                    if self.is_ours(control, via) {
                        return Err(bad("the gateway is an address of this router"));
                    }
                    NextHop::gateway(i, via.to_bits())
                }
                (Some(via), None) => match g.find(via) {
                    Some(i) => NextHop::gateway(i, via.to_bits()),
                    None => {
                        let i = self.interface_of_gateway(control, via)?;
                        if self.is_ours(control, via) {
                            return Err(bad("the gateway is an address of this router"));
                        }
                        g.learn(via, i);
                        NextHop::gateway(i, via.to_bits())
                    }
                },
            };
            if ways.iter().any(|w| w.hop == hop) {
                return Err(bad("two ways out are the same"));
            }
            ways.push(Way { hop, weight: h.weight });
        }
        Ok(ways)
    }

    fn is_ours(&self, control: &Control, address: Ipv4Addr) -> bool {
        control.rib.get(Ipv4Net::host(address)).is_some_and(|r| r.kind() == NextHopKind::Local)
    }

    fn interface_of_gateway(&self, control: &Control, g: Ipv4Addr) -> Result<IfIndex, StackError> {
        control
            .rib
            .lookup(g)
            .and_then(|r| r.ways.first())
            .filter(|w| matches!(w.hop.kind, NextHopKind::Connected | NextHopKind::Local))
            .and_then(|w| IfIndex::new(w.hop.ifindex))
            .ok_or(StackError::GatewayUnreachable(g))
    }

    /// Enters a route in both tables.
    pub(super) fn enter_route(&self, control: &mut Control, r: Route) -> Result<(), StackError> {
        self.program(control, &r)?;
        control.rib.insert(r);
        Ok(())
    }

    /// Makes workers follow a route: of several ways those whose interface passes packets, or all when none does.
    fn program(&self, control: &mut Control, r: &Route) -> Result<(), StackError> {
        let full = |e: FibError| match e {
            FibError::NoGroup => StackError::TableFull("table of prefixes longer than /24", 1 << 20),
            FibError::NoHop => StackError::TableFull("table of next hops", 1 << 22),
            FibError::Ways => StackError::BadRoute(r.dst, "a route has 1 to 64 ways out"),
            FibError::Memory => StackError::Runtime("out of memory".into()),
        };
        let result = if r.ways.len() == 1 {
            control.fib.insert(r.dst, r.ways[0].hop)
        } else {
            let alive =
                |w: &&Way| self.ifs.get_control(w.hop.ifindex).is_some_and(|i: std::sync::Arc<Ifnet>| i.running);
            let mut ways: Vec<Way> = r.ways.iter().filter(alive).copied().collect();
            if ways.is_empty() {
                ways = r.ways.clone();
            }
            control.fib.insert_ways(r.dst, &ways)
        };
        result.map(|_| ()).map_err(full)
    }

    pub(super) fn forget_route(&self, control: &mut Control, dst: Ipv4Net) {
        control.fib.remove(dst.trunc());
        control.rib.remove(dst);
    }

    /// An interface came or went: routes with several ways are programmed anew.
    pub(super) fn ways_changed(&self, control: &mut Control) {
        for r in control.rib.multi() {
            if let Err(e) = self.program(control, &r) {
                tracing::error!(route = %r.dst, error = %e, "the ways of a route cannot be changed");
            }
        }
    }

    /// Takes an interface out of every route; a route without another way goes.
    pub(super) fn routes_without(&self, control: &mut Control, index: IfIndex) {
        let touched: Vec<Route> =
            control.rib.iter().filter(|r| r.ways.iter().any(|w| w.hop.ifindex == index.get())).cloned().collect();
        for mut r in touched {
            r.ways.retain(|w| w.hop.ifindex != index.get());
            if r.ways.is_empty() {
                self.forget_route(control, r.dst);
            } else if let Err(e) = self.enter_route(control, r) {
                tracing::error!(error = %e, "a route cannot be changed");
            }
        }
    }

    fn route_status(&self, r: &Route) -> RouteStatus {
        let kind = r.kind();
        let mut flags = String::from("U");
        if kind == NextHopKind::Gateway {
            flags.push('G');
        }
        if r.dst.prefix_len() == 32 {
            flags.push('H');
        }
        flags.push_str(match kind {
            NextHopKind::Reject => "R",
            NextHopKind::Blackhole => "B",
            NextHopKind::Connected if r.owner != RouteOwner::Static => "C",
            NextHopKind::Local => "l",
            NextHopKind::Broadcast => "b",
            _ => "",
        });
        if r.owner == RouteOwner::Static {
            flags.push('S');
        }
        let sends = !matches!(kind, NextHopKind::Blackhole | NextHopKind::Reject);
        RouteStatus {
            dst: r.dst,
            kind: match kind {
                NextHopKind::Gateway => "forward",
                NextHopKind::Connected if r.owner == RouteOwner::Static => "forward",
                NextHopKind::Connected => "connected",
                NextHopKind::Local => "local",
                NextHopKind::Broadcast => "broadcast",
                NextHopKind::Reject => "reject",
                _ => "blackhole",
            },
            flags,
            nexthops: r
                .ways
                .iter()
                .filter(|_| sends)
                .map(|w| NextHopStatus {
                    via: (w.hop.kind == NextHopKind::Gateway).then(|| Ipv4Addr::from_bits(w.hop.gateway)),
                    interface: self.if_name(w.hop.ifindex),
                    weight: w.weight,
                })
                .collect(),
        }
    }
}
