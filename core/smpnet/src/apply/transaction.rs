//! A list of steps as one transaction: all of them, or none.

use super::op::Op;
use serde_json::Value;
use tracing::{debug, error, warn};

/// Whatever can do a step to a router.
pub trait Executor {
    /// Does one step, wholly or not at all. What it returns is reported to whoever asked.
    fn execute(&mut self, op: &Op) -> Result<Value, String>;

    /// Does steps that all concern routes (there may be very many), all of them or none. The error has the number of the
    /// step that failed.
    fn execute_routes(&mut self, ops: &[Op]) -> Result<(), (usize, String)> {
        for (n, op) in ops.iter().enumerate() {
            if let Err(reason) = self.execute(op) {
                for done in ops[..n].iter().rev().filter_map(Op::inverse) {
                    if let Err(reason) = self.execute(&done) {
                        error!(step = %done, %reason, "cannot undo");
                    }
                }
                return Err((n, reason));
            }
        }
        Ok(())
    }
}

/// A transaction that did not come about. The router is as before, unless `left_behind` says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct Failed {
    /// The step that failed.
    pub op: Box<Op>,
    /// Its number among the steps, from 0.
    pub number: usize,
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
    while results.len() < ops.len() {
        let n = results.len();
        let routes = routes_at(&ops[n..]);
        let done = if routes > 1 {
            debug!(steps = routes, "applying steps over routes");
            executor.execute_routes(&ops[n..n + routes]).map(|()| vec![Value::Null; routes])
        } else {
            debug!(step = %ops[n], "applying");
            executor.execute(&ops[n]).map(|v| vec![v]).map_err(|reason| (0, reason))
        };
        match done {
            Ok(values) => results.extend(values),
            Err((i, reason)) => {
                let op = &ops[n + i];
                warn!(step = %op, %reason, "a step failed; undoing {} steps", n + i);
                let left_behind = undo(executor, &ops[..n]);
                return Err(Failed {
                    op: Box::new(op.clone()),
                    number: n + i,
                    reason,
                    undone: n + i - left_behind.len(),
                    left_behind,
                });
            }
        }
    }
    Ok(results)
}

/// How many steps from the first on concern routes.
fn routes_at(ops: &[Op]) -> usize {
    ops.iter().take_while(|op| op.is_route()).count()
}

/// Undoes `ops`, the last first, going on over what cannot be undone. Returns what could not.
pub fn undo(executor: &mut dyn Executor, ops: &[Op]) -> Vec<String> {
    let inverse: Vec<Op> = ops.iter().rev().filter_map(Op::inverse).collect();
    let mut left_behind = Vec::new();
    let mut n = 0;
    while n < inverse.len() {
        let routes = routes_at(&inverse[n..]);
        if routes > 1 && executor.execute_routes(&inverse[n..n + routes]).is_ok() {
            n += routes;
            continue;
        }
        // One by one where not all can be undone.
        for op in &inverse[n..n + routes.max(1)] {
            if let Err(reason) = executor.execute(op) {
                error!(step = %op, %reason, "cannot undo");
                left_behind.push(format!("{op}: {reason}"));
            }
        }
        n += routes.max(1);
    }
    left_behind
}
