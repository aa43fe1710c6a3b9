//! The table of routes as people see it: what each was made from and whom it belongs to.

use super::nexthop::{NextHop, NextHopKind, Way};
use crate::types::{IfIndex, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Whom a route belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteOwner {
    /// The operator.
    Static,
    /// An address of an interface.
    Address(IfIndex),
}

/// A route.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub dst: Ipv4Net,
    /// One or more ways; one of kind Blackhole, Reject, Local or Broadcast where nothing is sent on.
    pub ways: Vec<Way>,
    pub owner: RouteOwner,
}

impl Route {
    /// The kind of the first way.
    pub(crate) fn kind(&self) -> NextHopKind {
        self.ways.first().map_or(NextHopKind::None, |w| w.hop.kind)
    }

    pub(crate) fn one(dst: Ipv4Net, hop: NextHop, owner: RouteOwner) -> Route {
        Route { dst: dst.trunc(), ways: vec![Way { hop, weight: 1 }], owner }
    }
}

/// All routes in order of destination.
#[derive(Default)]
pub(crate) struct Rib {
    routes: BTreeMap<(u32, u8), Route>,
    /// Destinations with several ways.
    multi: BTreeSet<(u32, u8)>,
}

fn key(dst: Ipv4Net) -> (u32, u8) {
    (dst.network(), dst.prefix_len())
}

impl Rib {
    pub(crate) fn get(&self, dst: Ipv4Net) -> Option<&Route> {
        self.routes.get(&key(dst))
    }

    pub(crate) fn insert(&mut self, r: Route) {
        let k = key(r.dst);
        if r.ways.len() > 1 {
            self.multi.insert(k);
        } else {
            self.multi.remove(&k);
        }
        self.routes.insert(k, r);
    }

    pub(crate) fn remove(&mut self, dst: Ipv4Net) -> Option<Route> {
        self.multi.remove(&key(dst));
        self.routes.remove(&key(dst))
    }

    /// The most specific route to an address.
    pub(crate) fn lookup(&self, addr: Ipv4Addr) -> Option<&Route> {
        (0..=32u8).rev().find_map(|len| self.routes.get(&key(Ipv4Net::new(addr, len)?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// Routes with several ways.
    pub(crate) fn multi(&self) -> Vec<Route> {
        self.multi.iter().filter_map(|k| self.routes.get(k)).cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }
}
