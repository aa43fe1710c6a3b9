//! What an endpoint of the API is: one table of them makes both the router and the OpenAPI document, so that the two
//! cannot differ.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The process at the other end of the control socket, as the kernel says (SO_PEERCRED).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Process; 0 when unknown.
    pub pid: u32,
    /// User.
    pub uid: u32,
}

/// An answer that comes piece by piece. When the client goes away, the pieces' receiver is dropped.
pub struct Stream {
    /// A header of the answer: name and value.
    pub header: (&'static str, String),
    /// The pieces.
    pub chunks: tokio::sync::mpsc::Receiver<axum::body::Bytes>,
    /// A trailer of the answer, for clients that take trailers (`TE: trailers`): its name, and what says the value when the
    /// pieces are at their end.
    pub trailer: (&'static str, Box<dyn Fn() -> Option<&'static str> + Send + Sync>),
    /// Called when the pieces are not taken any more.
    pub gone: Box<dyn Fn() + Send + Sync>,
}

/// A request, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Parameters in the path.
    pub path: HashMap<String, String>,
    /// Parameters behind the `?`.
    pub query: HashMap<String, String>,
    /// The JSON body; `Null` without one.
    pub body: Value,
    /// Who asks.
    pub peer: Peer,
}

impl Call {
    /// A parameter in the path. The router fills every one that the path names.
    pub fn path(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// A parameter behind the `?`.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// The body as `T`.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body = if self.body.is_null() { json!({}) } else { self.body.clone() };
        serde_json::from_value(body).map_err(|e| ApiError::bad(format!("the request's body: {e}")))
    }
}

/// Why a request failed. Becomes `{"error": ..., "hint": ...}` and an HTTP status.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Why.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// More for programs, merged into the answer's object.
    pub detail: Value,
}

impl ApiError {
    fn new(status: u16, error: impl Into<String>) -> ApiError {
        ApiError { status, error: error.into(), hint: None, detail: Value::Null }
    }

    /// 400: the request is wrong in itself.
    pub fn bad(error: impl Into<String>) -> ApiError {
        ApiError::new(400, error)
    }

    /// 404: what it names is not there.
    pub fn not_found(error: impl Into<String>) -> ApiError {
        ApiError::new(404, error)
    }

    /// 409: what runs does not allow it.
    pub fn conflict(error: impl Into<String>) -> ApiError {
        ApiError::new(409, error)
    }

    /// 500: smpnet's own fault.
    pub fn internal(error: impl Into<String>) -> ApiError {
        ApiError::new(500, error)
    }

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> ApiError {
        self.hint = hint.into();
        self
    }

    /// The same with more fields in the answer.
    pub fn detail(mut self, detail: Value) -> ApiError {
        self.detail = detail;
        self
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let mut body = match &self.detail {
            Value::Object(_) => self.detail.clone(),
            _ => json!({}),
        };
        body["error"] = self.error.clone().into();
        if let Some(hint) = &self.hint {
            body["hint"] = hint.clone().into();
        }
        body
    }
}

/// What answers.
pub enum Handler<S> {
    /// A function that returns JSON.
    Json(fn(&S, &Call) -> Result<Value, ApiError>),
    /// A function that returns text of that media type.
    Text(&'static str, fn(&S) -> String),
    /// A function that returns bytes of that media type as they come.
    Stream(&'static str, fn(&S, &Call) -> Result<Stream, ApiError>),
    /// The event stream.
    Events,
}

/// A parameter behind the `?`.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub text: &'static str,
    /// Whether it must be there.
    pub required: bool,
}

/// One method of one path.
pub struct Endpoint<S> {
    /// `get`, `post`, `put`, `patch` or `delete`.
    pub method: &'static str,
    /// Path, with parameters in braces.
    pub path: &'static str,
    /// Name of the operation, unique.
    pub id: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// Parameters behind the `?`.
    pub query: &'static [Param],
    /// Name of the schema of the body it takes.
    pub body: Option<&'static str>,
    /// Name of the schema of what it returns.
    pub returns: &'static str,
    /// What answers.
    pub handler: Handler<S>,
}

/// The OpenAPI 3.1 document of a table of endpoints.
pub fn openapi<S>(endpoints: &[Endpoint<S>], schemas: &Value) -> Value {
    let mut paths = serde_json::Map::new();
    for e in endpoints {
        let mut parameters: Vec<Value> = e
            .path
            .split('/')
            .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        parameters.extend(e.query.iter().map(|p| {
            json!({
                "name": p.name, "in": "query", "required": p.required, "description": p.text,
                "schema": {"type": "string"},
            })
        }));
        let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let content = match e.handler {
            Handler::Json(_) => json!({"application/json": {"schema": schema(e.returns)}}),
            Handler::Text(kind, _) => {
                let kind = kind.split(';').next().unwrap_or(kind);
                json!({kind: {"schema": {"type": "string"}}})
            }
            Handler::Stream(kind, _) => json!({kind: {"schema": schema(e.returns)}}),
            Handler::Events => json!({
                "application/x-ndjson": {"schema": schema(e.returns)},
                "text/event-stream": {"schema": {"type": "string"}},
            }),
        };
        let error = json!({
            "description": "refused; nothing was changed",
            "content": {"application/json": {"schema": schema("Error")}},
        });
        let mut operation = json!({
            "operationId": e.id,
            "summary": e.summary,
            "parameters": parameters,
            "responses": {"200": {"description": "done", "content": content}, "default": error},
        });
        if let Some(body) = e.body {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema(body)}}});
        }
        let path = paths.entry(e.path).or_insert_with(|| json!({}));
        path[e.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "smpnet control API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
            "description": "HTTP and JSON over the daemon's Unix socket. A path beginning with /v1 keeps its meaning; \
                            fields are added, never changed.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    })
}
