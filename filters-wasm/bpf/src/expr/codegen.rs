//! Instructions from a tree of tests: short-circuit jumps, loads that are already in A left out, long jumps where a
//! distance does not fit eight bits.

use super::node::{Load, Node, Test};
use crate::insn::{Cond, Insn, Size, code};

type Label = usize;

enum Item {
    /// Bring the value into A.
    Load(Load, u32),
    /// Compare A and go to one of two labels.
    Branch(u16, u32, Label, Label),
    Goto(Label),
    Place(Label),
    Insn(Insn),
}

/// A program that returns `snaplen` where the tree is true and 0 elsewhere.
pub(super) fn generate(tree: &Node, snaplen: u32) -> Vec<Insn> {
    if *tree == Node::Const(true) {
        return vec![Insn::stmt(code::RET_K, snaplen)];
    }
    let mut g = Generator { items: Vec::new(), labels: 2 };
    let (accept, reject) = (0, 1);
    g.node(tree, accept, reject);
    g.items.push(Item::Place(accept));
    g.items.push(Item::Insn(Insn::stmt(code::RET_K, snaplen)));
    g.items.push(Item::Place(reject));
    g.items.push(Item::Insn(Insn::stmt(code::RET_K, 0)));
    layout(&expand_loads(g.items, g.labels), g.labels)
}

struct Generator {
    items: Vec<Item>,
    labels: usize,
}

impl Generator {
    fn node(&mut self, node: &Node, t: Label, f: Label) {
        match node {
            Node::Const(value) => self.items.push(Item::Goto(if *value { t } else { f })),
            Node::Test(Test { load, mask, cond, k }) => {
                self.items.push(Item::Load(*load, *mask));
                let code = match cond {
                    Cond::Eq => code::JEQ_K,
                    Cond::Gt => code::JGT_K,
                    Cond::Ge => code::JGE_K,
                    Cond::Set => code::JSET_K,
                };
                self.items.push(Item::Branch(code, *k, t, f));
            }
            Node::Not(inner) => self.node(inner, f, t),
            Node::And(left, right) => {
                let middle = self.label();
                self.node(left, middle, f);
                self.items.push(Item::Place(middle));
                self.node(right, t, f);
            }
            Node::Or(left, right) => {
                let middle = self.label();
                self.node(left, t, middle);
                self.items.push(Item::Place(middle));
                self.node(right, t, f);
            }
        }
    }

    fn label(&mut self) -> Label {
        self.labels += 1;
        self.labels - 1
    }
}

/// What A and X hold.
#[derive(Clone, Copy, PartialEq)]
struct Registers {
    a: Option<(Load, u32)>,
    /// X is the length of the IPv4 header at this offset.
    x: Option<u32>,
}

impl Registers {
    fn common(self, other: Registers) -> Registers {
        Registers { a: if self.a == other.a { self.a } else { None }, x: if self.x == other.x { self.x } else { None } }
    }
}

/// Turns loads into instructions. What is in A or X on every path to a load is not loaded again.
fn expand_loads(items: Vec<Item>, labels: usize) -> Vec<Item> {
    let mut at_label: Vec<Option<Registers>> = vec![None; labels];
    let nothing = Registers { a: None, x: None };
    let mut now = nothing;
    let mut out = Vec::with_capacity(items.len() * 2);
    for item in items {
        match item {
            Item::Load(load, mask) => {
                if now.a != Some((load, mask)) {
                    if now.a != Some((load, u32::MAX)) {
                        load_instructions(load, &mut now, &mut out);
                    }
                    if mask != u32::MAX {
                        out.push(Item::Insn(Insn::stmt(code::AND_K, mask)));
                    }
                    now.a = Some((load, mask));
                }
            }
            Item::Branch(_, _, t, f) => {
                for label in [t, f] {
                    at_label[label] = Some(at_label[label].map_or(now, |known| known.common(now)));
                }
                out.push(item);
            }
            Item::Goto(label) => {
                at_label[label] = Some(at_label[label].map_or(now, |known| known.common(now)));
                out.push(item);
            }
            Item::Place(label) => {
                // All jumps to a label stand before it.
                now = at_label[label].unwrap_or(nothing);
                out.push(item);
            }
            Item::Insn(_) => out.push(item),
        }
    }
    out
}

fn load_instructions(load: Load, now: &mut Registers, out: &mut Vec<Item>) {
    let mut push = |code, k| out.push(Item::Insn(Insn::stmt(code, k)));
    match load {
        Load::At(Size::Byte, k) => push(code::LD_B_ABS, k),
        Load::At(Size::Half, k) => push(code::LD_H_ABS, k),
        Load::At(Size::Word, k) => push(code::LD_W_ABS, k),
        Load::Length => push(code::LD_LEN, 0),
        Load::Transport { network, offset } => {
            if now.x != Some(network) {
                push(code::LDX_MSH, network);
                now.x = Some(network);
            }
            push(code::LD_H_IND, network + offset);
        }
    }
}

/// Gives labels their places. A branch whose distance exceeds 255 becomes a short branch over two long jumps.
fn layout(items: &[Item], labels: usize) -> Vec<Insn> {
    let mut long = vec![false; items.len()];
    loop {
        let mut place = vec![0usize; labels];
        let mut starts = Vec::with_capacity(items.len());
        let mut pc = 0;
        for (i, item) in items.iter().enumerate() {
            starts.push(pc);
            match item {
                Item::Place(label) => place[*label] = pc,
                Item::Branch(..) if long[i] => pc += 3,
                _ => pc += 1,
            }
        }
        let mut grown = false;
        for (i, item) in items.iter().enumerate() {
            if let Item::Branch(_, _, t, f) = item
                && !long[i]
                && place[*t].max(place[*f]) - starts[i] - 1 > 255
            {
                long[i] = true;
                grown = true;
            }
        }
        if !grown {
            return assemble(items, &place, &starts, &long);
        }
    }
}

fn assemble(items: &[Item], place: &[usize], starts: &[usize], long: &[bool]) -> Vec<Insn> {
    let mut out = Vec::new();
    let ja = |from: usize, label: Label| Insn::stmt(code::JA, (place[label] - from - 1) as u32);
    for (i, item) in items.iter().enumerate() {
        let start = starts[i];
        match *item {
            Item::Insn(insn) => out.push(insn),
            Item::Goto(label) => out.push(ja(start, label)),
            Item::Branch(code, k, t, f) if long[i] => {
                out.extend([Insn::jump(code, k, 0, 1), ja(start + 1, t), ja(start + 2, f)]);
            }
            Item::Branch(code, k, t, f) => {
                let distance = |label: Label| (place[label] - start - 1) as u8;
                out.push(Insn::jump(code, k, distance(t), distance(f)));
            }
            // Loads were turned into instructions before.
            Item::Load(..) | Item::Place(_) => {}
        }
    }
    out
}
