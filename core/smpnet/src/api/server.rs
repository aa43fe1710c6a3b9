//! Serving a table of endpoints over HTTP.

use super::{
    endpoint::{ApiError, Call, Endpoint, Handler, Peer, openapi},
    events::Bus,
    stream::StreamBody,
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Query, RawPathParams},
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
    routing::{MethodFilter, MethodRouter, get, on},
};
use http_body_util::BodyExt;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// The largest body that a request may have: a bulk of routes, or a configuration file. A million routes are about 25 MB
/// as a text.
const BODY_MAX: usize = 128 << 20;
/// The largest body whose sender is still told that it is too large.
const READ_MAX: usize = 1 << 30;

/// The router of a table of endpoints, the OpenAPI document at `/openapi.json` included. Handlers run on threads for
/// blocking work; `events` feeds the event stream.
pub fn router<S: Send + Sync + 'static>(
    state: Arc<S>,
    endpoints: Vec<Endpoint<S>>,
    schemas: &Value,
    events: Bus,
) -> Router {
    let document: Bytes = openapi(&endpoints, schemas).to_string().into();
    let mut router = Router::new();
    for e in endpoints {
        router = router.route(e.path, method_router(state.clone(), e, events.clone()));
    }
    router
        .route("/openapi.json", get(move || async move { response(StatusCode::OK, "application/json", document) }))
        .fallback(|method: Method, uri: axum::http::Uri| async move {
            let error = ApiError::not_found(format!("there is no {method} {}", uri.path()));
            failure(&error.hint("/openapi.json lists what there is".to_owned()))
        })
        .method_not_allowed_fallback(|method: Method, uri: axum::http::Uri| async move {
            failure(&ApiError { status: 405, ..ApiError::bad(format!("{} does not take {method}", uri.path())) })
        })
}

fn method_router<S: Send + Sync + 'static>(state: Arc<S>, e: Endpoint<S>, events: Bus) -> MethodRouter {
    let filter = match e.method {
        "post" => MethodFilter::POST,
        "put" => MethodFilter::PUT,
        "patch" => MethodFilter::PATCH,
        "delete" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    match e.handler {
        Handler::Json(run) => on(
            filter,
            move |path: RawPathParams, Query(query): Query<HashMap<String, String>>, more: Extensions, body: Body| async move {
                let call = match call(&path, query, &more, whole(body).await) {
                    Ok(call) => call,
                    Err(e) => return failure(&e),
                };
                match tokio::task::spawn_blocking(move || run(&state, &call)).await {
                    Ok(Ok(value)) => response(StatusCode::OK, "application/json", value.to_string()),
                    Ok(Err(e)) => failure(&e),
                    Err(_) => failure(&ApiError::internal("the request failed inside smpnet; see the log")),
                }
            },
        ),
        Handler::Text(kind, run) => on(filter, move || async move {
            match tokio::task::spawn_blocking(move || run(&state)).await {
                Ok(text) => response(StatusCode::OK, kind, text),
                Err(_) => failure(&ApiError::internal("the request failed inside smpnet; see the log")),
            }
        }),
        Handler::Stream(kind, run) => on(
            filter,
            move |path: RawPathParams, Query(query): Query<HashMap<String, String>>, more: Extensions, body: Body| async move {
                let call = match call(&path, query, &more, whole(body).await) {
                    Ok(call) => call,
                    Err(e) => return failure(&e),
                };
                match tokio::task::spawn_blocking(move || run(&state, &call)).await {
                    Ok(Ok(stream)) => {
                        let ((name, value), trailer) = (stream.header.clone(), stream.trailer.0);
                        let mut r = response(StatusCode::OK, kind, Body::new(StreamBody::new(stream)));
                        if let Ok(value) = HeaderValue::from_str(&value) {
                            r.headers_mut().insert(name, value);
                        }
                        r.headers_mut().insert(header::TRAILER, HeaderValue::from_static(trailer));
                        r
                    }
                    Ok(Err(e)) => failure(&e),
                    Err(_) => failure(&ApiError::internal("the request failed inside smpnet; see the log")),
                }
            },
        ),
        Handler::Events => on(filter, move |headers: HeaderMap| async move {
            let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or("");
            let sse = accept.contains("text/event-stream");
            let kind = if sse { "text/event-stream" } else { "application/x-ndjson" };
            response(StatusCode::OK, kind, Body::new(events.stream(sse)))
        }),
    }
}

/// All of a body. One that is too large is read to its end nevertheless, and forgotten: who is still sending when the
/// connection is closed never reads the answer.
async fn whole(mut body: Body) -> Result<Bytes, ApiError> {
    let (mut all, mut size) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad(format!("the request's body did not come: {e}")))?;
        let data = frame.data_ref().map_or(&[][..], |d| d);
        size += data.len();
        if size > READ_MAX {
            break;
        }
        if size > BODY_MAX {
            all = Vec::new();
        } else {
            all.extend_from_slice(data);
        }
    }
    if size > BODY_MAX {
        let error = format!("the request's body is larger than {} MiB; nothing was changed", BODY_MAX >> 20);
        return Err(ApiError { status: 413, ..ApiError::bad(error) }.hint("send it in parts".to_owned()));
    }
    Ok(all.into())
}

/// A request, taken apart.
fn call(
    path: &RawPathParams,
    query: HashMap<String, String>,
    more: &Extensions,
    body: Result<Bytes, ApiError>,
) -> Result<Call, ApiError> {
    let body = body?;
    let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body) };
    Ok(Call {
        path: path.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        query,
        body: body.map_err(|e| ApiError::bad(format!("the request's body is not JSON: {e}")))?,
        peer: more.get::<ConnectInfo<Peer>>().map_or(Peer::default(), |c| c.0),
    })
}

fn failure(e: &ApiError) -> Response {
    let status = StatusCode::from_u16(e.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response(status, "application/json", e.body().to_string())
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut r = Response::new(body.into());
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    r
}
