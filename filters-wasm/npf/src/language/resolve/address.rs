//! Addresses, ports, and protocols.

use super::{Resolver, Use, values, values::Wrong};
use crate::{
    config::{Address, Endpoint, Family, Match, PortRange, Proto, ProtoOptions},
    language::{
        ast::{ElementKind, Elements, EndpointDecl, MatchDecl, ProtoDecl},
        names,
        source::{Span, did_you_mean, quote},
    },
    packet::proto,
};

/// Protocols that have ports.
const WITH_PORTS: &[u8] = &[proto::TCP, proto::UDP, proto::SCTP, 33, 136];

impl Resolver<'_, '_> {
    /// What a rule or a map asks of addresses, protocols and ports.
    pub(super) fn matching(&mut self, decl: &MatchDecl) -> Option<Match> {
        let protos = self.protos(&decl.protos);
        let from = self.endpoint(&decl.from);
        let to = self.endpoint(&decl.to);
        let (protos, from, to) = (protos?, from?, to?);
        let mut right = true;
        for (end, at) in [(&from, decl.from.span), (&to, decl.to.span)] {
            if !end.ports.is_empty() && !protos.is_empty() && !protos.iter().any(|p| WITH_PORTS.contains(&p.number)) {
                self.session.error_hint(
                    at,
                    "no protocol of this rule has ports",
                    "tcp, udp, sctp, dccp and udplite have",
                );
                right = false;
            }
            let family = only_family(&end.addresses);
            if let (Some(wanted), Some(found), false) = (decl.family, family, end.not)
                && wanted != found
            {
                let message = format!("no address here is of the family {}", family_name(wanted));
                self.session.error(at, message);
                right = false;
            }
        }
        if let (Some(a), Some(b), false, false) =
            (only_family(&from.addresses), only_family(&to.addresses), from.not, to.not)
            && a != b
        {
            let message = "this matches nothing: packets are not from one family to the other";
            self.session.report.warn(decl.span, message, None);
        }
        right.then_some(Match { family: decl.family, protos, opening: false, from, to })
    }

    fn endpoint(&mut self, decl: &EndpointDecl) -> Option<Endpoint> {
        let addresses = self.addresses(&decl.addresses);
        let ports = self.ports(&decl.ports);
        let addresses = addresses?;
        if decl.not && addresses.is_empty() {
            self.session.error(decl.span, "\"! any\" matches nothing");
            return None;
        }
        Some(Endpoint { not: decl.not, addresses, ports: ports? })
    }

    /// A list of addresses; none for any.
    pub(super) fn addresses(&mut self, list: &Elements) -> Option<Vec<Address>> {
        let uses = self.expand(list)?;
        let mut addresses = Vec::with_capacity(uses.len());
        let (mut any, mut right) = (false, true);
        for used in &uses {
            match &used.element.kind {
                ElementKind::Word(word) if word == "any" => any = true,
                _ => match self.address(used) {
                    Some(address) => addresses.push(address),
                    None => right = false,
                },
            }
        }
        if any {
            addresses.clear();
        }
        right.then_some(addresses)
    }

    fn address(&mut self, used: &Use) -> Option<Address> {
        let (word, mask) = match &used.element.kind {
            ElementKind::Word(word) => (word.as_str(), None),
            ElementKind::Masked(word, mask) => (word.as_str(), Some(mask.as_str())),
            ElementKind::Text(text) => match text.split_once('/') {
                Some((word, mask)) => (word, Some(mask)),
                None => (text.as_str(), None),
            },
            ElementKind::Table(name) => return self.table_id(name, used.at).map(Address::Table),
            ElementKind::Addresses { family, fixed, of } => {
                let name = self.interface(of)?;
                return Some(Address::Interface { name, family: *family, fixed: *fixed });
            }
            ElementKind::Variable(_) => return None,
        };
        match values::prefix(word, mask) {
            Ok((prefix, host_bits)) => {
                if host_bits {
                    self.host_bits(used.element.span, &prefix);
                }
                Some(Address::Prefix(prefix))
            }
            Err(wrong) => {
                self.complain(used, wrong);
                None
            }
        }
    }

    /// NetBSD compares the address as it is written, so that such a rule never matches there.
    pub(super) fn host_bits(&mut self, at: Span, prefix: &crate::config::Prefix) {
        let message = format!("bits behind the prefix are set; this is read as {}/{}", prefix.address, prefix.len);
        self.session.report.warn(at, message, None);
    }

    /// A list of ports; none for any.
    pub(super) fn ports(&mut self, list: &Elements) -> Option<Vec<PortRange>> {
        let uses = self.expand(list)?;
        let mut ports = Vec::with_capacity(uses.len());
        let mut right = true;
        for used in &uses {
            let range = match &used.element.kind {
                ElementKind::Word(word) | ElementKind::Text(word) => self.port_range(word),
                _ => Err(Wrong::new("this is no port")),
            };
            match range {
                Ok(range) => ports.push(range),
                Err(wrong) => {
                    self.complain(used, wrong);
                    right = false;
                }
            }
        }
        right.then_some(ports)
    }

    fn port_range(&mut self, word: &str) -> Result<PortRange, Wrong> {
        if let Some(port) = self.port(word) {
            return Ok(PortRange { first: port, last: port });
        }
        // Services may have "-" in their names.
        for (at, _) in word.match_indices('-').take(8) {
            if let (Some(first), Some(last)) = (self.port(&word[..at]), self.port(&word[at + 1..])) {
                if first > last {
                    let message = format!("the range {} goes backwards", quote(word));
                    return Err(Wrong::hint(message, format!("write {last}-{first}")));
                }
                return Ok(PortRange { first, last });
            }
        }
        let hint = did_you_mean(word, names::services())
            .unwrap_or_else(|| "a port is a number up to 65535, a name such as https, or a range such as 80-90".into());
        Err(Wrong::hint(format!("{} is no port", quote(word)), hint))
    }

    /// A single port.
    pub(super) fn port(&mut self, word: &str) -> Option<u16> {
        match values::number(word) {
            Some(number) => u16::try_from(number).ok(),
            None => self.service(word),
        }
    }

    fn protos(&mut self, list: &[ProtoDecl]) -> Option<Vec<Proto>> {
        let mut protos = Vec::with_capacity(list.len());
        let mut right = true;
        for decl in list {
            match self.proto(decl) {
                Some(several) => protos.extend(several),
                None => right = false,
            }
        }
        right.then_some(protos)
    }

    /// A protocol, or those of a variable.
    fn proto(&mut self, decl: &ProtoDecl) -> Option<Vec<Proto>> {
        let uses = self.expand(std::slice::from_ref(&decl.number))?;
        let mut protos = Vec::with_capacity(uses.len());
        for used in &uses {
            let number = match &used.element.kind {
                ElementKind::Word(word) | ElementKind::Text(word) => proto_number(word),
                _ => Err(Wrong::new("this is no protocol")),
            };
            let number = number.map_err(|wrong| self.complain(used, wrong)).ok()?;
            let options = self.proto_options(decl, number, used.at)?;
            protos.push(Proto { number, options });
        }
        Some(protos)
    }

    fn proto_options(&mut self, decl: &ProtoDecl, number: u8, at: Span) -> Option<ProtoOptions> {
        if let Some((value, mask)) = &decl.flags {
            if number != proto::TCP {
                self.session.error(value.span, "only tcp has flags");
                return None;
            }
            let mut flags = |name: &crate::language::ast::Name| match names::tcp_flags(&name.text) {
                Ok(flags) => Some(flags),
                Err(letter) => {
                    let message = format!("{letter:?} is no flag of TCP");
                    self.session.error_hint(name.span, message, "flags are F, S, R, P, A, U, E and W");
                    None
                }
            };
            let set = flags(value);
            let looked_at = match mask {
                Some(mask) => flags(mask),
                None => set,
            };
            let (value, mask) = (set?, looked_at?);
            if value & !mask != 0 {
                let message = "this matches nothing: a flag must be set that is not looked at";
                self.session.report.warn(
                    decl.flags.as_ref()?.0.span,
                    message,
                    Some("write it behind \"/\" too".into()),
                );
            }
            return Some(ProtoOptions::TcpFlags { value, mask });
        }
        let Some((kind, code)) = &decl.icmp else { return Some(ProtoOptions::None) };
        let v6 = match number {
            proto::ICMP => false,
            proto::ICMPV6 => true,
            _ => {
                self.session.error(at, "only icmp and ipv6-icmp have types");
                return None;
            }
        };
        let kind = self.scalar(kind, "type of ICMP", |word| icmp_type(v6, word))?;
        let code = match code {
            Some(code) => Some(self.scalar(code, "code of ICMP", |word| icmp_code(v6, kind, word))?),
            None => None,
        };
        Some(ProtoOptions::Icmp { kind, code })
    }
}

/// The number of a protocol.
pub(super) fn proto_number(word: &str) -> Result<u8, Wrong> {
    let number = values::number(word).and_then(|n| u8::try_from(n).ok());
    number.or_else(|| names::protocol(word)).ok_or_else(|| {
        let hint = did_you_mean(word, names::protocols())
            .unwrap_or_else(|| "a protocol is a number up to 255, or a name such as tcp".into());
        Wrong::hint(format!("{} is no protocol", quote(word)), hint)
    })
}

fn icmp_type(v6: bool, word: &str) -> Result<u8, Wrong> {
    let number = values::number(word).and_then(|n| u8::try_from(n).ok());
    number.or_else(|| names::icmp_type(v6, word)).ok_or_else(|| {
        let which = if v6 { "ICMPv6" } else { "ICMP" };
        let hint = did_you_mean(word, names::icmp_types(v6))
            .unwrap_or_else(|| "a type is a number up to 255, or a name such as echoreq or unreach".into());
        Wrong::hint(format!("{} is no type of {which}", quote(word)), hint)
    })
}

fn icmp_code(v6: bool, kind: u8, word: &str) -> Result<u8, Wrong> {
    let number = values::number(word).and_then(|n| u8::try_from(n).ok());
    number.or_else(|| names::icmp_code(v6, kind, word)).ok_or_else(|| {
        let hint = did_you_mean(word, names::icmp_codes(v6, kind)).unwrap_or_else(|| {
            let names: Vec<_> = names::icmp_codes(v6, kind).collect();
            match names.is_empty() {
                true => "it is a number up to 255".to_owned(),
                false => format!("it is a number up to 255, or one of {}", names.join(", ")),
            }
        });
        Wrong::hint(format!("{} is no code of type {kind}", quote(word)), hint)
    })
}

/// The family that all addresses of a list are of, when that can be said.
pub(super) fn only_family(addresses: &[Address]) -> Option<Family> {
    let mut families = addresses.iter().map(|address| match address {
        Address::Prefix(prefix) => Some(Family::of(prefix.address)),
        Address::Interface { family, .. } => *family,
        Address::Table(_) => None,
    });
    let first = families.next()??;
    families.all(|family| family == Some(first)).then_some(first)
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "inet4",
        Family::V6 => "inet6",
    }
}
