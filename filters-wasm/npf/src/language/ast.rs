//! What a text says, before variables are put in and names are looked up.

use super::source::Span;
use crate::config::{Action, Arrow, Directions, Family, MapAlgo, Stateful};
use std::rc::Rc;

/// A word, or something in quotation marks.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub text: String,
    pub span: Span,
}

/// Something that may stand in a list or be the value of a variable.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub kind: ElementKind,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(super) enum ElementKind {
    Word(String),
    Text(String),
    /// `address/mask`
    Masked(String, String),
    Variable(String),
    Table(String),
    /// `ifaddrs(if)` and the like.
    Addresses {
        family: Option<Family>,
        fixed: bool,
        of: Rc<Element>,
    },
}

/// Elements; those of a variable are shared by all that use it.
pub(super) type Elements = Vec<Rc<Element>>;

/// What stands on the outermost level.
#[derive(Debug)]
pub(super) enum Statement {
    Variable { name: Name, values: Elements },
    Set { name: Name, value: Rc<Element> },
    Alg(Name),
    Table(TableDecl),
    Map(Box<MapDecl>),
    MapRuleset(RulesetDecl),
    Procedure(ProcedureDecl),
    Group(GroupDecl),
}

#[derive(Debug)]
pub(super) struct TableDecl {
    pub name: Name,
    pub kind: Name,
    pub file: Option<Name>,
    pub dynamic: Option<Span>,
    pub timeout: Option<Rc<Element>>,
    pub counters: bool,
    pub span: Span,
}

#[derive(Debug)]
pub(super) struct ProcedureDecl {
    pub name: Name,
    pub calls: Vec<CallDecl>,
    pub span: Span,
}

#[derive(Debug)]
pub(super) struct CallDecl {
    pub name: Name,
    pub options: Vec<(Rc<Element>, Option<Rc<Element>>)>,
}

/// Direction and interface, which groups, rulesets and rules have.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub directions: Directions,
    pub interface: Option<Rc<Element>>,
}

#[derive(Debug)]
pub(super) struct GroupDecl {
    /// None for the default group.
    pub name: Option<Name>,
    pub gate: Gate,
    pub layer2: bool,
    pub items: Vec<ItemDecl>,
    pub span: Span,
}

#[derive(Debug)]
pub(super) enum ItemDecl {
    Rule(Box<RuleDecl>),
    Group(GroupDecl),
    Ruleset(RulesetDecl),
}

#[derive(Debug)]
pub(super) struct RulesetDecl {
    pub name: Name,
    pub gate: Gate,
    pub span: Span,
}

#[derive(Debug)]
pub(super) struct RuleDecl {
    pub action: Action,
    pub state: Option<Stateful>,
    pub gate: Gate,
    pub is_final: bool,
    pub filter: FilterDecl,
    pub options: RuleOptions,
    pub span: Span,
}

/// What stands behind a rule's filter.
#[derive(Debug, Default)]
pub(super) struct RuleOptions {
    pub apply: Option<Name>,
    pub name: Option<Name>,
    pub log: bool,
    pub tagged: Option<(bool, Name)>,
    pub tag: Option<Name>,
    pub limits: Vec<LimitDecl>,
}

#[derive(Debug)]
pub(super) enum FilterDecl {
    Match(MatchDecl),
    Pcap(Name),
    Ether(EtherDecl),
}

#[derive(Debug, Default)]
pub(super) struct MatchDecl {
    pub family: Option<Family>,
    pub protos: Vec<ProtoDecl>,
    pub from: EndpointDecl,
    pub to: EndpointDecl,
    pub span: Span,
}

#[derive(Debug)]
pub(super) struct ProtoDecl {
    pub number: Rc<Element>,
    pub flags: Option<(Name, Option<Name>)>,
    pub icmp: Option<(Rc<Element>, Option<Rc<Element>>)>,
}

#[derive(Debug, Default)]
pub(super) struct EndpointDecl {
    pub not: bool,
    pub addresses: Elements,
    pub ports: Elements,
    pub span: Span,
}

#[derive(Debug, Default)]
pub(super) struct EtherDecl {
    pub from: Option<(bool, Rc<Element>)>,
    pub to: Option<(bool, Rc<Element>)>,
    pub ether_type: Option<Rc<Element>>,
}

/// The length of a prefix, if it is written.
pub(super) type Length = Option<Rc<Element>>;

#[derive(Debug)]
pub(super) struct LimitDecl {
    pub of: LimitOfDecl,
    /// Lengths of prefixes, of IPv4 and of IPv6.
    pub per_source: Option<(Length, Length)>,
    pub overload: Option<(Name, Option<Rc<Element>>)>,
    pub span: Span,
}

#[derive(Debug)]
pub(super) enum LimitOfDecl {
    States(Rc<Element>),
    Rate { count: Rc<Element>, per: Rc<Element>, burst: Option<Rc<Element>> },
}

#[derive(Debug)]
pub(super) struct MapDecl {
    pub interface: Rc<Element>,
    pub is_static: bool,
    pub algo: Option<(MapAlgo, Span)>,
    pub no_ports: bool,
    pub endpoint_independent: Option<Span>,
    pub hairpin: Option<Span>,
    pub arrow: Arrow,
    pub inner: EndpointDecl,
    pub outer: EndpointDecl,
    pub filter: MatchDecl,
    pub has_filter: bool,
    pub span: Span,
}
