//! An expression as a tree of tests, and its simplification.

use crate::insn::{Cond, Size};

/// Where a test takes its value from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// Packet bytes at a fixed offset.
    At(Size, u32),
    /// Two bytes behind the IPv4 header that starts at `network`: `offset` into the transport header.
    Transport { network: u32, offset: u32 },
    /// The length on the wire.
    Length,
}

/// `(load & mask) cond k`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Test {
    pub(super) load: Load,
    /// All ones: not masked.
    pub(super) mask: u32,
    pub(super) cond: Cond,
    pub(super) k: u32,
}

/// Tests run from left to right; the right side of `And` and `Or` only where the left does not decide. A load outside
/// the packet makes the whole expression false, which is why the order matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Const(bool),
    Test(Test),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
}

impl Node {
    pub(super) fn and(self, right: Node) -> Node {
        Node::And(Box::new(self), Box::new(right))
    }

    pub(super) fn or(self, right: Node) -> Node {
        Node::Or(Box::new(self), Box::new(right))
    }

    pub(super) fn negate(self) -> Node {
        Node::Not(Box::new(self))
    }

    /// `load == k`.
    pub(super) fn equals(load: Load, k: u32) -> Node {
        Node::masked(load, u32::MAX, k)
    }

    /// `load & mask == k`.
    pub(super) fn masked(load: Load, mask: u32, k: u32) -> Node {
        Node::Test(Test { load, mask, cond: Cond::Eq, k })
    }
}

/// Removes tests whose outcome earlier tests on the same path decide. Such a test repeats a load that already succeeded,
/// so no verdict changes, not even for truncated packets. For the same reason `x and false` keeps x.
pub(super) fn simplify(node: Node) -> Node {
    fold(node, &Facts::default()).node
}

/// What earlier tests showed. More than a few dozen are not worth remembering.
#[derive(Clone, Default, PartialEq)]
struct Facts(Vec<(Test, bool)>);

const MAX_FACTS: usize = 48;

impl Facts {
    fn with(&self, test: Test, outcome: bool) -> Facts {
        let mut facts = self.clone();
        if facts.0.len() < MAX_FACTS {
            facts.0.push((test, outcome));
        }
        facts
    }

    /// What holds whichever of two paths was taken; `None` is a path that is never taken.
    fn common(a: Option<Facts>, b: Option<Facts>) -> Option<Facts> {
        match (a, b) {
            (Some(a), Some(b)) => Some(Facts(a.0.into_iter().filter(|f| b.0.contains(f)).collect())),
            (a, b) => a.or(b),
        }
    }

    fn decide(&self, test: Test) -> Option<bool> {
        self.0.iter().filter(|(known, _)| (known.load, known.mask) == (test.load, test.mask)).find_map(
            |&(known, outcome)| match (known.cond, outcome) {
                (Cond::Eq, true) => Some(match test.cond {
                    Cond::Eq => known.k == test.k,
                    Cond::Gt => known.k > test.k,
                    Cond::Ge => known.k >= test.k,
                    Cond::Set => known.k & test.k != 0,
                }),
                _ if (known.cond, known.k) == (test.cond, test.k) => Some(outcome),
                _ => None,
            },
        )
    }
}

struct Folded {
    node: Node,
    when_true: Option<Facts>,
    when_false: Option<Facts>,
}

fn fold(node: Node, facts: &Facts) -> Folded {
    let constant = |value: bool| Folded {
        node: Node::Const(value),
        when_true: value.then(|| facts.clone()),
        when_false: (!value).then(|| facts.clone()),
    };
    match node {
        Node::Const(value) => constant(value),
        Node::Test(test) => match facts.decide(test) {
            Some(value) => constant(value),
            None => Folded {
                node: Node::Test(test),
                when_true: Some(facts.with(test, true)),
                when_false: Some(facts.with(test, false)),
            },
        },
        Node::Not(inner) => {
            let inner = fold(*inner, facts);
            let node = match inner.node {
                Node::Const(value) => Node::Const(!value),
                Node::Not(twice) => *twice,
                other => other.negate(),
            };
            Folded { node, when_true: inner.when_false, when_false: inner.when_true }
        }
        Node::And(left, right) => {
            let left = fold(*left, facts);
            let Some(reached) = &left.when_true else {
                return left;
            };
            let right = fold(*right, reached);
            let node = match (left.node, right.node) {
                (Node::Const(true), node) | (node, Node::Const(true)) => node,
                (left, right) => left.and(right),
            };
            let when_false = Facts::common(left.when_false, right.when_false);
            Folded { node, when_true: right.when_true, when_false }
        }
        Node::Or(left, right) => {
            let left = fold(*left, facts);
            let Some(reached) = &left.when_false else {
                return left;
            };
            let right = fold(*right, reached);
            let node = match (left.node, right.node) {
                (Node::Const(false), node) | (node, Node::Const(false)) => node,
                (left, right) => left.or(right),
            };
            let when_true = Facts::common(left.when_true, right.when_true);
            Folded { node, when_true, when_false: right.when_false }
        }
    }
}
