//! A function while it is written: locals as they are needed, labels by name instead of by depth, and the one form of loop.

use wasm_encoder::{BlockType, Function, InstructionSink, MemArg, ValType};

/// The code of a function.
pub(super) struct Body {
    bytes: Vec<u8>,
    params: u32,
    locals: Vec<ValType>,
    /// Blocks that are open.
    depth: u32,
}

/// A local variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local(pub u32);

/// A block that code can leave, or a loop that it can go on with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(u32);

/// The two ways out of the body of a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loop {
    /// With the next round.
    pub next: Label,
    /// Behind the loop.
    pub done: Label,
}

/// Memory at an address with this constant added.
pub(super) fn at(offset: u64) -> MemArg {
    // What is said of alignment is a hint that nobody takes.
    MemArg { offset, align: 0, memory_index: 0 }
}

impl Body {
    /// A function with so many parameters, which are its first locals.
    pub fn new(params: u32) -> Body {
        Body { bytes: Vec::new(), params, locals: Vec::new(), depth: 0 }
    }

    /// The function.
    pub fn finish(mut self) -> Function {
        self.ops().end();
        let mut function = Function::new_with_locals_types(self.locals);
        function.raw(self.bytes);
        function
    }

    /// Appends instructions.
    pub fn ops(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    /// A new local of 32 bits.
    pub fn narrow(&mut self) -> Local {
        self.local(ValType::I32)
    }

    /// A new local of 64 bits.
    pub fn wide(&mut self) -> Local {
        self.local(ValType::I64)
    }

    fn local(&mut self, of: ValType) -> Local {
        self.locals.push(of);
        Local(self.params + self.locals.len() as u32 - 1)
    }

    /// A new local that gets a 32-bit value from the stack.
    pub fn keep(&mut self) -> Local {
        let local = self.narrow();
        self.ops().local_set(local.0);
        local
    }

    /// A new local that gets a 64-bit value from the stack.
    pub fn keep_wide(&mut self) -> Local {
        let local = self.wide();
        self.ops().local_set(local.0);
        local
    }

    /// A new local with a constant of 32 bits.
    pub fn constant(&mut self, value: u32) -> Local {
        self.ops().i32_const(value as i32);
        self.keep()
    }

    /// A block that inner code can leave.
    pub fn block(&mut self, inner: impl FnOnce(&mut Body, Label)) {
        self.ops().block(BlockType::Empty);
        self.within(inner);
    }

    /// Code that runs when the condition on the stack holds.
    pub fn when(&mut self, inner: impl FnOnce(&mut Body)) {
        self.ops().if_(BlockType::Empty);
        self.within(|b, _| inner(b));
    }

    /// One of two, by the condition on the stack.
    pub fn either(&mut self, yes: impl FnOnce(&mut Body), no: impl FnOnce(&mut Body)) {
        self.ops().if_(BlockType::Empty);
        self.within(|b, _| {
            yes(b);
            b.ops().else_();
            no(b);
        });
    }

    fn within(&mut self, inner: impl FnOnce(&mut Body, Label)) {
        let label = Label(self.depth);
        self.depth += 1;
        inner(self, label);
        self.depth -= 1;
        self.ops().end();
    }

    /// Leaves a block, or goes on with a loop.
    pub fn leave(&mut self, label: Label) {
        let depth = self.depth - 1 - label.0;
        self.ops().br(depth);
    }

    /// The same when the condition on the stack holds.
    pub fn leave_if(&mut self, label: Label) {
        let depth = self.depth - 1 - label.0;
        self.ops().br_if(depth);
    }

    /// A loop of at most so many rounds, which are counted in a local that nothing else writes: that is how the host's
    /// verifier knows that it ends. A counter costs less than a cycle a round.
    pub fn repeat(&mut self, most: u32, inner: impl FnOnce(&mut Body, Loop)) {
        let left = self.narrow();
        self.block(|b, done| {
            b.ops().i32_const(most as i32).local_set(left.0).loop_(BlockType::Empty);
            b.within(|b, next| {
                b.ops().local_get(left.0).i32_eqz();
                b.leave_if(done);
                b.ops().local_get(left.0).i32_const(-1).i32_add().local_set(left.0);
                inner(b, Loop { next, done });
                b.leave(next);
            });
        });
    }
}
