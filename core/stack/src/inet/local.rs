//! Local delivery: packets for this router.

use super::decide::{ErrorKind, IpInfo};
use crate::net::counters::IpStat;
use crate::net::ifnet::Ifnet;
use crate::net::path::Path;
use crate::wire::ipv4::proto;
use crate::wire::udp::Udp;
use smpnet_abi::{Cell, DropReason};

impl<'a> Path<'a> {
    /// A packet for one of our addresses, or for a group that we listen to.
    pub(crate) fn ip_local(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, group: bool) {
        if info.header_len > 20 && !group && self.source_route(ifp, c, info) {
            return;
        }
        if info.is_fragment() {
            self.account(crate::net::counters::Account::HeldIn, 1);
            self.fragment_to_owner(ifp.index.get(), c, info);
            return;
        }
        if info.header_len > 20 && !self.local_options(ifp, c, info) {
            return;
        }
        self.ip_deliver(ifp, c, info, group);
    }

    /// A whole packet for us.
    pub(crate) fn ip_deliver(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo, group: bool) {
        match info.proto {
            proto::ICMP => {
                self.ip_stat(IpStat::Delivered, 1);
                self.icmp_input(ifp, c, info, group);
            }
            proto::UDP => self.udp_input(ifp, c, info),
            _ => {
                if self.encap_input(ifp, c, info) {
                    self.ip_stat(IpStat::Delivered, 1);
                    return;
                }
                let reason = if self.s.encap_protocol(self.section, info.proto) {
                    DropReason::EncapUnknown
                } else {
                    DropReason::ProtoUnreach
                };
                self.icmp_error(c, ErrorKind::ProtoUnreach);
                self.drop_on(ifp, reason, c);
            }
        }
    }

    /// UDP: nothing listens on this router, unless a tunnel does.
    fn udp_input(&mut self, ifp: &'a Ifnet, c: Cell, info: &IpInfo) {
        if self.encap_input(ifp, c, info) {
            self.ip_stat(IpStat::Delivered, 1);
            return;
        }
        let p = self.packet(c);
        let payload = u32::from(info.total_len) - u32::from(info.header_len);
        let good = p
            .data()
            .get(usize::from(info.header_len)..)
            .and_then(Udp::parse)
            .is_some_and(|u| u32::from(u.len) <= payload);
        if !good {
            self.drop_on(ifp, DropReason::UdpBad, c);
            return;
        }
        self.ip_stat(IpStat::Delivered, 1);
        self.icmp_error(c, ErrorKind::PortUnreach);
        self.drop_on(ifp, DropReason::PortUnreach, c);
    }
}
