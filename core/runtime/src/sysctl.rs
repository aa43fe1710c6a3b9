//! The one tree of everything that can be read or set by name: `kern.*`, `net.*`, `hw.*`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// A value of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A signed number.
    Int(i64),
    /// An unsigned number, such as a counter.
    UInt(u64),
    /// A text.
    Text(String),
    /// Anything with a structure of its own.
    Json(serde_json::Value),
}

impl Value {
    /// The value as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Int(v) => (*v).into(),
            Value::UInt(v) => (*v).into(),
            Value::Text(v) => v.as_str().into(),
            Value::Json(v) => v.clone(),
        }
    }

    /// A value of the same kind as `self` out of `text`.
    ///
    /// # Errors
    /// When the text is none of that kind; says what it should be.
    pub fn parse_like(&self, text: &str) -> Result<Value, String> {
        match self {
            Value::Int(_) => text.trim().parse().map(Value::Int).map_err(|_| format!("'{text}' is not a number")),
            Value::UInt(_) => {
                text.trim().parse().map(Value::UInt).map_err(|_| format!("'{text}' is not a number of 0 or more"))
            }
            Value::Text(_) => Ok(Value::Text(text.to_owned())),
            Value::Json(_) => serde_json::from_str(text).map(Value::Json).map_err(|e| format!("not JSON: {e}")),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(v) => v.fmt(f),
            Value::UInt(v) => v.fmt(f),
            Value::Text(v) => v.fmt(f),
            Value::Json(v) => v.fmt(f),
        }
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Value::Int(v)
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Value::UInt(v)
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Text(v)
    }
}

/// Reads a node.
pub type Get = Box<dyn Fn() -> Value + Send + Sync>;
/// Writes a node; an error is one line that says what would be right.
pub type Set = Box<dyn Fn(Value) -> Result<(), String> + Send + Sync>;

/// A node: how it is read, and how it is written if it can be. Neither may remove its own node.
pub struct Node {
    /// Reads it.
    pub get: Get,
    /// Writes it; `None` for read-only nodes.
    pub set: Option<Set>,
}

impl Node {
    /// A node that can only be read.
    pub fn read_only<V: Into<Value>>(get: impl Fn() -> V + Send + Sync + 'static) -> Self {
        Node { get: Box::new(move || get().into()), set: None }
    }

    /// A node that can be written.
    pub fn writable<V: Into<Value>>(
        get: impl Fn() -> V + Send + Sync + 'static,
        set: impl Fn(Value) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Node { get: Box::new(move || get().into()), set: Some(Box::new(set)) }
    }
}

/// Why a sysctl call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// No node of that name.
    #[error("{0}: no such node")]
    NotFound(String),
    /// The name is taken, by a node or by a part of longer names.
    #[error("{0}: the name is taken")]
    Exists(String),
    /// Names are `[a-zA-Z0-9_%-]+` joined by dots.
    #[error("{0}: not a name of a node")]
    BadName(String),
    /// The node cannot be written.
    #[error("{0}: read-only")]
    ReadOnly(String),
    /// The node refused the value.
    #[error("{0}: {1}")]
    Refused(String, String),
}

struct Entry {
    doc: String,
    /// None after the node was removed.
    node: Mutex<Option<Node>>,
}

/// The tree. Control threads only; clones are handles of the same tree.
#[derive(Clone, Default)]
pub struct Sysctl {
    nodes: Arc<RwLock<BTreeMap<String, Arc<Entry>>>>,
}

impl Sysctl {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node. `doc` is one line for `sysctl -d`.
    ///
    /// # Errors
    /// [`SysctlError::Exists`], [`SysctlError::BadName`].
    pub fn register(&self, path: &str, doc: impl Into<String>, node: Node) -> Result<(), SysctlError> {
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-%".contains(&b));
        if !path.split('.').all(part) {
            return Err(SysctlError::BadName(path.into()));
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let inner = format!("{path}.");
        let below = nodes.range(inner.clone()..).next().is_some_and(|(k, _)| k.starts_with(&inner));
        let above = path.match_indices('.').any(|(i, _)| nodes.contains_key(&path[..i]));
        if below || above || nodes.contains_key(path) {
            return Err(SysctlError::Exists(path.into()));
        }
        nodes.insert(path.into(), Arc::new(Entry { doc: doc.into(), node: Mutex::new(Some(node)) }));
        Ok(())
    }

    /// As [`Sysctl::register`], for nodes whose names are right by construction: a clash is logged and the first stays.
    pub fn add(&self, path: &str, doc: impl Into<String>, node: Node) {
        if let Err(e) = self.register(path, doc, node) {
            tracing::warn!(error = %e, "sysctl node not added");
        }
    }

    fn entry(&self, path: &str) -> Result<Arc<Entry>, SysctlError> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(path).cloned().ok_or_else(|| SysctlError::NotFound(path.into()))
    }

    /// Reads a node.
    ///
    /// # Errors
    /// [`SysctlError::NotFound`].
    pub fn get(&self, path: &str) -> Result<Value, SysctlError> {
        let entry = self.entry(path)?;
        let node = entry.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|n| (n.get)()).ok_or_else(|| SysctlError::NotFound(path.into()))
    }

    /// Whether there is such a node and it can be written.
    pub fn is_writable(&self, path: &str) -> bool {
        self.entry(path).is_ok_and(|entry| {
            let node = entry.node.lock().unwrap_or_else(PoisonError::into_inner);
            node.as_ref().is_some_and(|n| n.set.is_some())
        })
    }

    /// Writes a node, given as text of the kind that the node reads as.
    ///
    /// # Errors
    /// [`SysctlError::NotFound`], [`SysctlError::ReadOnly`], [`SysctlError::Refused`].
    pub fn set(&self, path: &str, text: &str) -> Result<(), SysctlError> {
        let entry = self.entry(path)?;
        let node = entry.node.lock().unwrap_or_else(PoisonError::into_inner);
        let node = node.as_ref().ok_or_else(|| SysctlError::NotFound(path.into()))?;
        let set = node.set.as_ref().ok_or_else(|| SysctlError::ReadOnly(path.into()))?;
        let value = (node.get)().parse_like(text);
        value.and_then(set).map_err(|e| SysctlError::Refused(path.into(), e))
    }

    /// Name, value and line of every node at or below `prefix` (all of them for ""), in order of the names.
    pub fn walk(&self, prefix: &str) -> Vec<(String, Value, String)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let inner = format!("{prefix}.");
        let wanted = |k: &str| prefix.is_empty() || k == prefix || k.starts_with(&inner);
        let found: Vec<_> = nodes.iter().filter(|(k, _)| wanted(k)).map(|(k, e)| (k.clone(), e.clone())).collect();
        // Read without the tree's lock, so that a node may look at others.
        drop(nodes);
        let read = |(k, e): (String, Arc<Entry>)| {
            let node = e.node.lock().unwrap_or_else(PoisonError::into_inner);
            let value = node.as_ref().map(|n| (n.get)())?;
            Some((k, value, e.doc.clone()))
        };
        found.into_iter().filter_map(read).collect()
    }

    /// Removes a node. When it returns, neither its `get` nor its `set` runs; both are dropped.
    ///
    /// # Errors
    /// [`SysctlError::NotFound`].
    pub fn remove(&self, path: &str) -> Result<(), SysctlError> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let entry = nodes.remove(path).ok_or_else(|| SysctlError::NotFound(path.into()))?;
        drop(nodes);
        let node = entry.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(node);
        Ok(())
    }

    /// Removes every node at or below `prefix` and returns how many there were.
    pub fn remove_tree(&self, prefix: &str) -> usize {
        let inner = format!("{prefix}.");
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = nodes.keys().filter(|k| *k == prefix || k.starts_with(&inner)).cloned().collect();
        drop(nodes);
        names.iter().filter(|n| self.remove(n).is_ok()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn nodes_are_read_written_walked_and_removed() {
        let t = Sysctl::new();
        let v = Arc::new(AtomicU64::new(1));
        let (get, set) = (v.clone(), v.clone());
        let node = Node::writable(
            move || get.load(Ordering::Relaxed),
            move |new| match new {
                Value::UInt(n) if n < 10 => {
                    set.store(n, Ordering::Relaxed);
                    Ok(())
                }
                _ => Err("must be below 10".into()),
            },
        );
        t.register("net.x.y", "a number", node).unwrap();
        t.register("net.x.z", "another", Node::read_only(|| 7u64)).unwrap();
        assert_eq!(t.get("net.x.y"), Ok(Value::UInt(1)));
        assert!(t.is_writable("net.x.y") && !t.is_writable("net.x.z") && !t.is_writable("net.x"));
        t.set("net.x.y", "9").unwrap();
        assert_eq!(t.set("net.x.y", "10"), Err(SysctlError::Refused("net.x.y".into(), "must be below 10".into())));
        assert!(t.set("net.x.y", "-1").is_err());
        assert_eq!(t.set("net.x.z", "1"), Err(SysctlError::ReadOnly("net.x.z".into())));
        let names: Vec<_> = t.walk("net.x").into_iter().map(|(k, v, _)| (k, v)).collect();
        assert_eq!(names, [("net.x.y".into(), Value::UInt(9)), ("net.x.z".into(), Value::UInt(7))]);
        assert_eq!(t.walk("net.xx"), []);
        t.remove("net.x.y").unwrap();
        assert_eq!(t.get("net.x.y"), Err(SysctlError::NotFound("net.x.y".into())));
        assert_eq!(t.remove_tree("net"), 1);
    }

    #[test]
    fn names_that_clash_are_refused() {
        let t = Sysctl::new();
        let node = || Node::read_only(|| 0u64);
        t.register("a.b", "", node()).unwrap();
        for taken in ["a.b", "a", "a.b.c"] {
            assert_eq!(t.register(taken, "", node()), Err(SysctlError::Exists(taken.into())), "{taken}");
        }
        for bad in ["", ".", "a..b", "a b"] {
            assert_eq!(t.register(bad, "", node()), Err(SysctlError::BadName(bad.into())), "{bad}");
        }
        t.register("a.bc", "", node()).unwrap();
    }
}
