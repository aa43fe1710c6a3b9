//! Changing a running router: the difference to the wanted configuration, done as one transaction.

mod op;
mod plan;
mod transaction;

pub use op::{Op, Setting};
pub use plan::{Plan, SysctlState, plan};
pub use transaction::{Executor, Failed, transact, undo};

#[cfg(test)]
mod tests;
