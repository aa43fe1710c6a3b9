//! A list of steps as one transaction: all of them, or none.

use super::op::Op;
use serde_json::Value;
use tracing::{debug, error, warn};

/// Whatever can do a step to a router.
pub trait Executor {
    /// Does one step, wholly or not at all. What it returns is reported to whoever asked.
    fn execute(&mut self, op: &Op) -> Result<Value, String>;
}

/// A transaction that did not come about. The router is as before, unless `left_behind` says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct Failed {
    /// The step that failed.
    pub op: Box<Op>,
    /// Why.
    pub reason: String,
    /// Steps that had been done and were undone.
    pub undone: usize,
    /// Steps that could not be undone, with the reason.
    pub left_behind: Vec<String>,
}

/// Does `ops` in order. When one fails, undoes those before it, the last first.
pub fn transact(executor: &mut dyn Executor, ops: &[Op]) -> Result<Vec<Value>, Failed> {
    let mut results = Vec::with_capacity(ops.len());
    for (n, op) in ops.iter().enumerate() {
        debug!(step = %op, "applying");
        match executor.execute(op) {
            Ok(v) => results.push(v),
            Err(reason) => {
                warn!(step = %op, %reason, "a step failed; undoing {n} steps");
                let left_behind = undo(executor, &ops[..n]);
                return Err(Failed { op: Box::new(op.clone()), reason, undone: n - left_behind.len(), left_behind });
            }
        }
    }
    Ok(results)
}

/// Undoes `ops`, the last first, going on over what cannot be undone. Returns what could not.
pub fn undo(executor: &mut dyn Executor, ops: &[Op]) -> Vec<String> {
    let mut left_behind = Vec::new();
    for op in ops.iter().rev() {
        let Some(inverse) = op.inverse() else { continue };
        if let Err(reason) = executor.execute(&inverse) {
            error!(step = %inverse, %reason, "cannot undo");
            left_behind.push(format!("{inverse}: {reason}"));
        }
    }
    left_behind
}
